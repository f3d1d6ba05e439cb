"""PHI-S: rotations after which all channels vary alike, and what a standardiser makes of them."""

import pytest
import torch

from distill.features import Features, Grid
from distill.fusion import Moments, Standardiser
from distill.rotation import evenly_rotated, hadamard, turned

GRID = Grid(50.0, 0.0)


def uneven(width: int) -> torch.Tensor:
    """A covariance whose variances lie some powers of ten apart."""
    torch.manual_seed(width)
    basis = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))[0]
    return basis @ torch.diag(torch.logspace(-4, 3, width, dtype=torch.float64)) @ basis.T


@pytest.mark.parametrize("order", [1, 2, 4, 8, 12, 20, 24, 32, 40, 160, 768, 1024, 1280])
def test_a_hadamard_matrix_is_orthogonal_and_flat(order):
    matrix = hadamard(order)
    assert matrix is not None
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(order, dtype=torch.float64))
    torch.testing.assert_close(matrix.abs(), torch.full_like(matrix, order**-0.5))


@pytest.mark.parametrize("order", [3, 6, 14, 30, 1023])
def test_where_there_is_none_it_says_so(order):
    assert hadamard(order) is None


@pytest.mark.parametrize("width", [1, 2, 3, 7, 30, 32, 160])
def test_a_rotation_gives_every_channel_the_mean_variance(width):
    covariance = uneven(width)
    rotation = evenly_rotated(covariance)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(width, dtype=torch.float64))
    diagonal = (rotation @ covariance @ rotation.T).diagonal()
    torch.testing.assert_close(diagonal, covariance.trace().div(width).expand(width))


@pytest.mark.parametrize("variances", [[2.0, 2.0, 2.0], [0.0, 0.0, 9.0], [0.0] * 5, [1.0, 3.0], [1e-9, 1.0, 1e6]])
def test_turns_in_planes_do_too(variances):
    values = torch.tensor(variances, dtype=torch.float64)
    turns = turned(values)
    torch.testing.assert_close(turns @ turns.T, torch.eye(len(values), dtype=torch.float64))
    torch.testing.assert_close((turns @ torch.diag(values) @ turns.T).diagonal(), values.mean().expand(len(values)))


def heard(width: int = 12, frames: int = 500) -> Features:
    """Two clips, two layers of channels that hang together, far from zero, with padding."""
    torch.manual_seed(1)
    mix = torch.randn(2, width, width)
    hidden = torch.randn(2, 2, frames, width) @ mix + 5.0
    hidden[1, :, 300:] = 0.0
    return Features(hidden, torch.tensor([frames, 300]), GRID)


def standardised(how: str, width: int = 12) -> tuple[Standardiser, Features]:
    standardise, features = Standardiser(2, width, how), heard(width)
    moments = standardise.moments()
    moments.update(features)
    standardise.calibrate(moments)
    return standardise, standardise(features)


@pytest.mark.parametrize("how", ["channel", "layer", "phi-s"])
@pytest.mark.parametrize("width", [12, 7])
def test_every_way_gives_mean_0_and_a_mean_variance_of_1(how, width):
    _, scaled = standardised(how, width)
    valid_LFD = scaled.hidden.transpose(1, 2)[scaled.mask()].transpose(0, 1)
    torch.testing.assert_close(valid_LFD.mean(1), torch.zeros(2, width), atol=1e-4, rtol=0)
    variance_LD = valid_LFD.var(1, correction=0)
    torch.testing.assert_close(variance_LD.mean(1), torch.ones(2), atol=1e-4, rtol=0)
    even = float(variance_LD.sub(1).abs().max()) < 1e-3
    assert even == (how != "layer"), "one scale leaves channels as uneven as they were"
    assert not scaled.hidden[1, :, 300:].any()


@pytest.mark.parametrize("how", ["layer", "phi-s"])
def test_one_scale_keeps_distances_but_for_that_scale(how):
    features = heard()
    standardise, scaled = standardised(how)
    before, after = (one.hidden[0].diff(dim=1).norm(dim=-1) for one in (features, scaled))
    torch.testing.assert_close(after, before / standardise.std[:, :1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["channel", "layer", "phi-s"])
def test_every_way_can_be_undone(how):
    features = heard()
    standardise, scaled = standardised(how)
    mask_BT11 = features.mask()[:, :, None, None]
    expected = (features.hidden.transpose(1, 2) * mask_BT11).transpose(1, 2)
    torch.testing.assert_close(standardise.undo(scaled).hidden, expected, rtol=1e-4, atol=1e-4)


def test_moments_with_products_add_up():
    features = heard()
    parts = [Features(features.hidden[n : n + 1], features.lengths[n : n + 1], GRID) for n in range(2)]
    moments = [Moments.empty(2, 12, products=True) for _ in range(3)]
    for one, heard_ in zip(moments, [*parts, features], strict=True):
        one.update(heard_)
    for mine, whole in zip((moments[0] + moments[1]).state(), moments[2].state(), strict=True):
        torch.testing.assert_close(mine, whole)
    assert len(moments[2].state()) == 4 and len(Moments.empty(2, 12).state()) == 3
