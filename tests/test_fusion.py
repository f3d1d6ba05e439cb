"""Fusion: calibrated scales, sum and concat."""

from dataclasses import replace

import pytest
import torch
from stacks import SLOW, WAV2VEC2, WHISPER, stack

from distill.features import Features, Grid, parameters
from distill.fusion import Fusion, Moments, Shape, Standardiser, align_layers, align_time
from distill.interface import HConv


def shapes(*stacks: Features) -> list[Shape]:
    return [Shape(f.hidden.shape[1], f.hidden.shape[3], f.grid) for f in stacks]


def calibrated(fusion: Fusion, stacks: list[Features]) -> Fusion:
    for standardise, features in zip(fusion.standardise, stacks, strict=True):
        moments = Moments.empty(*standardise.mean.shape)
        moments.update(features)
        standardise.calibrate(moments)
    return fusion


@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_fusing_one_upstream_is_the_identity(combine):
    features = stack([9, 4])
    fusion = Fusion(shapes(features), combine, 4)
    fused = fusion([features])
    assert torch.equal(fused.hidden, features.hidden) and fused.grid == features.grid
    assert parameters(fusion) == 0 and (fusion.layers, fusion.width, fusion.owner) == (3, 4, 0)


def test_the_sum_does_not_know_the_order_of_its_upstreams():
    stacks = [stack([9, 4], WAV2VEC2), stack([10, 5], WHISPER, layers=5, seed=1)]
    there = calibrated(Fusion(shapes(*stacks), "sum", 4), stacks)
    back = calibrated(Fusion(shapes(*stacks[::-1]), "sum", 4), stacks[::-1])
    one, other = there(stacks), back(stacks[::-1])
    assert torch.equal(one.hidden, other.hidden)
    assert one.grid == other.grid == WAV2VEC2 and one.lengths.tolist() == other.lengths.tolist() == [9, 4]
    assert parameters(there) == 0


def test_the_finest_grid_owns_the_frames():
    grids = [SLOW, WHISPER, WAV2VEC2]
    assert Fusion([Shape(3, 4, grid) for grid in grids], "sum", 4).owner == 2
    assert Fusion([Shape(3, 4, grid) for grid in grids[::-1]], "sum", 4).owner == 0


def test_the_sum_of_independent_upstreams_keeps_their_scale():
    stacks = [stack([4000], seed=seed) for seed in range(3)]
    fused = Fusion(shapes(*stacks), "sum", 4)(stacks)
    expected = (stacks[0].hidden + stacks[1].hidden + stacks[2].hidden) / 3**0.5
    torch.testing.assert_close(fused.hidden, expected)
    assert fused.hidden.std().item() == pytest.approx(1.0, abs=0.02)


def unequal() -> list[Features]:
    """Two upstreams that differ in everything."""
    return [stack([9, 4], layers=5, width=4), stack([10, 5], WHISPER, layers=7, width=6, seed=1)]


@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_fusion_leaves_its_inputs_alone_and_passes_gradients(combine):
    stacks = unequal()
    fusion = calibrated(Fusion(shapes(*stacks), combine, 8), stacks).double()
    inputs = [f.hidden.double().requires_grad_() for f in stacks]
    kept = [hidden.detach().clone() for hidden in inputs]

    def fuse(*hiddens):
        return fusion([replace(f, hidden=hidden) for f, hidden in zip(stacks, hiddens, strict=True)]).hidden

    assert torch.autograd.gradcheck(fuse, inputs, fast_mode=True)
    assert all(torch.equal(hidden, before) for hidden, before in zip(inputs, kept, strict=True))


@pytest.mark.parametrize(("combine", "held"), [("sum", 4 * 8 + 6 * 8), ("concat", (4 + 6) * 8)])
def test_unequal_depths_and_widths_are_brought_together(combine, held):
    stacks = unequal()
    fusion = Fusion(shapes(*stacks), combine, 8)
    fused = fusion(stacks)
    assert fused.hidden.shape == (2, 7, 9, 8) and (fusion.layers, fusion.width) == (7, 8)
    assert parameters(fusion) == held and not fused.hidden[1, :, 4:].any()
    first = align_layers(stacks[0].hidden, 7)
    second = align_time(stacks[1], WAV2VEC2, torch.tensor([9, 4])).hidden
    if combine == "sum":
        left, right = (project.weight.T for project in fusion.combine.project)
        expected = (first @ left + second @ right) / 2**0.5
    else:
        expected = torch.cat([first, second], dim=-1) @ fusion.combine.project.weight.T
    torch.testing.assert_close(fused.hidden, expected)


@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_base_large_and_the_largest_meet_in_one_stack(combine):
    """12, 24 and 32 layers; widths as 768 to 1024 to 1280; 50, 50 and 6.25 frames per second."""
    stacks = [
        stack([99, 49], layers=13, width=6),
        stack([100, 50], WHISPER, layers=25, width=8, seed=1),
        stack([13, 7], Grid(6.25, 0.0075), layers=33, width=10, seed=2),
    ]
    fusion = calibrated(Fusion(shapes(*stacks), combine, 10), stacks)
    fused = fusion(stacks)
    assert fused.hidden.shape == (2, 33, 99, 10) and fused.lengths.tolist() == [99, 49] and fused.grid == WAV2VEC2
    assert {name for name, _ in fusion.named_parameters()} == {
        "sum": {f"combine.project.{number}.weight" for number in range(3)},
        "concat": {"combine.project.weight"},
    }[combine]
    fused.hidden.square().mean().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in fusion.parameters())


@pytest.mark.parametrize(("combine", "width"), [("sum", 4), ("sum", 8), ("concat", 16)])
def test_projections_start_without_changing_the_scale(combine, width):
    torch.manual_seed(0)
    stacks = [stack([4000], layers=1, width=width, seed=seed) for seed in range(2)]
    for target in (4, 32):
        fused = Fusion(shapes(*stacks), combine, target)(stacks)
        assert fused.hidden.square().mean().item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("combine", ["sum", "concat"])
@pytest.mark.parametrize("garbage", [0.0, 1e9, torch.inf, torch.nan])
def test_a_clip_sounds_the_same_alone_and_padded_in_a_batch(combine, garbage):
    stacks = unequal()
    fusion = calibrated(Fusion(shapes(*stacks), combine, 8), stacks)
    alone = [Features(f.hidden[1:, :, : f.lengths[1]], f.lengths[1:], f.grid) for f in stacks]
    paddings = [~f.mask()[:, None, :, None] for f in stacks]
    dirty = [replace(f, hidden=f.hidden.masked_fill(p, garbage)) for f, p in zip(stacks, paddings, strict=True)]
    fused = fusion(dirty).hidden[1]
    torch.testing.assert_close(fused[:, :4], fusion(alone).hidden[0])
    assert not fused[:, 4:].any()


def test_calibrated_layers_have_mean_0_and_std_1_over_valid_frames():
    features = stack([300, 200], layers=2)
    scaled = replace(features, hidden=features.hidden * torch.tensor([0.01, 1.0, 50.0, 7.0]) + 100.0)
    fusion = calibrated(Fusion(shapes(scaled), "sum", 4), [scaled])
    fused = fusion([scaled])
    valid_LFD = fused.hidden.transpose(0, 1)[:, fused.mask()]
    assert valid_LFD.mean(1).abs().max() < 1e-3  # float32 knows 100.0 to a thousandth of 0.01
    torch.testing.assert_close(valid_LFD.std(1, correction=0), torch.ones(2, 4), rtol=1e-4, atol=0.0)
    assert not fused.hidden[1, :, 200:].any()


def test_a_dead_channel_becomes_0_and_stays_0():
    features = stack([301], layers=2)  # so many that the variance of -7.7 rounds to more than 0
    features.hidden[..., 1] = 123.456  # float32 does not hold its mean exactly
    features.hidden[:, 1] = torch.tensor([123.456, 0.1, -7.7, 1e4])  # a layer that is dead altogether
    fusion = calibrated(Fusion(shapes(features), "sum", 4), [features])
    later = Features(features.hidden + 3.0, features.lengths, features.grid)
    for heard in (fusion([features]).hidden, fusion([later]).hidden):
        assert not heard[..., 1].any() and not heard[:, 1].any() and heard.isfinite().all()
        assert heard[:, 0, :, 0].any()


def test_moments_of_two_halves_are_the_moments_of_the_whole():
    features = stack([30, 12, 25, 8])
    whole, halves = Moments.empty(3, 4), [Moments.empty(3, 4), Moments.empty(3, 4)]
    whole.update(features)
    for half, part in zip(halves, (slice(0, 2), slice(2, 4)), strict=True):
        half.update(Features(features.hidden[part] + 0, features.lengths[part], features.grid))
    reduced = Moments(*(a + b for a, b in zip(halves[0].state(), halves[1].state(), strict=True)))
    for merged in (halves[0] + halves[1], reduced):
        assert merged.count == 75
        for mine, theirs in zip(merged.state(), whole.state(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_moments_survive_a_mean_far_above_the_std():
    features = stack([2000], layers=1)
    far = Features(features.hidden.double() * 0.01 + 1000.0, features.lengths, features.grid)
    moments, standardise = Moments.empty(1, 4), Standardiser(1, 4)
    moments.update(far)
    standardise.calibrate(moments)
    expected = far.hidden[0, 0].std(0, correction=0)
    torch.testing.assert_close(standardise.std[0].double(), expected, rtol=1e-5, atol=0.0)


def test_calibration_is_kept_with_the_weights():
    features = stack([30])
    fusion = calibrated(Fusion(shapes(features), "sum", 4), [features])
    again = Fusion(shapes(features), "sum", 4)
    again.load_state_dict(fusion.state_dict())
    assert torch.equal(again([features]).hidden, fusion([features]).hidden)
    with pytest.raises(ValueError, match="two valid frames or more, got 0"):
        Standardiser(3, 4).calibrate(Moments.empty(3, 4))


def test_standardised_features_keep_their_dtype():
    features = stack([30])
    fusion = calibrated(Fusion(shapes(features), "sum", 4), [features])
    half = Features(features.hidden.bfloat16(), features.lengths, features.grid)
    fused = fusion([half]).hidden
    assert fused.dtype == torch.bfloat16
    torch.testing.assert_close(fused.float(), fusion([features]).hidden, rtol=0.02, atol=0.02)


def test_concat_and_hconv_have_the_published_size():
    fusion = Fusion([Shape(13, 768, WAV2VEC2), Shape(13, 768, WHISPER)], "concat", 768)
    assert round((parameters(fusion) + parameters(HConv(13, 768))) / 1e6, 2) == 5.60


def test_what_does_not_fit_is_named():
    features = stack([9, 4])
    fusion = Fusion(shapes(features, features), "sum", 4)
    with pytest.raises(ValueError, match="built for 2 upstreams, got 1"):
        fusion([features])
    with pytest.raises(ValueError, match=r"upstream 1 was announced as Shape\(layers=3"):
        fusion([features, stack([9, 4], layers=5)])
    with pytest.raises(ValueError, match="sum, concat"):
        Fusion(shapes(features, features), "mean", 4)
    with pytest.raises(ValueError, match="width of 4, got width=8"):
        Fusion(shapes(features), "sum", 8)
    with pytest.raises(ValueError, match="got none"):
        Fusion([], "sum", 8)
