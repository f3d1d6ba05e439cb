"""Losses over valid frames, and the agreement of predictions with targets."""

import numpy as np
import pytest
import torch

from distill import losses
from distill.losses import LOSSES, Agreement, cka, gram, l1_cosine, l1_cosine_gram, mse, smooth_l1

LENGTHS = torch.tensor([6, 3])


def batch(seed: int = 0, *, clips: int = 2, layers: int = 3, frames: int = 6, width: int = 5):
    generator = torch.Generator().manual_seed(seed)
    pred, target = torch.randn(2, clips, layers, frames, width, generator=generator)
    return pred, target, torch.arange(frames) < LENGTHS[:clips, None]


def by_hand(pred, target, mask, distance):
    """Sums (K,) of a distance between two vectors over valid frames."""
    sums = np.zeros(pred.shape[1])
    for clip, frame in mask.nonzero().tolist():
        for layer in range(pred.shape[1]):
            sums[layer] += distance(pred[clip, layer, frame].numpy(), target[clip, layer, frame].numpy())
    return torch.from_numpy(sums).float()


def cosine(p, t):
    return p @ t / np.linalg.norm(p) / np.linalg.norm(t)


DISTANCES = {
    l1_cosine: lambda p, t: np.abs(p - t).mean() + 1 - cosine(p, t),
    mse: lambda p, t: ((p - t) ** 2).mean(),
    smooth_l1: lambda p, t: np.where(np.abs(p - t) < 1, (p - t) ** 2 / 2, np.abs(p - t) - 0.5).mean(),
}


DISTANCES[losses.cosine] = lambda p, t: 1 - cosine(p, t)


def gram_of(hidden):
    return np.array([[cosine(one, other) for other in hidden] for one in hidden])


def alike(pred, target):
    """CKA by its definition: Hilbert-Schmidt independence of centred kernels."""
    middle = np.eye(len(pred)) - 1 / len(pred)
    left, right = (middle @ (x @ x.T) @ middle for x in (pred, target))
    return (left * right).sum() / np.sqrt((left * left).sum() * (right * right).sum())


CLIPS = {  # of a whole clip's valid frames
    gram: lambda p, t: ((gram_of(p) - gram_of(t)) ** 2).sum() / len(p),
    cka: lambda p, t: len(p) * (1 - alike(p, t)),
}


@pytest.mark.parametrize("loss", CLIPS)
def test_a_loss_over_relations_is_that_of_each_clip_alone(loss):
    pred, target, mask = batch()
    expected = np.zeros(3)
    for clip, length in enumerate(LENGTHS):
        for layer in range(3):
            own = (pred[clip, layer, :length].double().numpy(), target[clip, layer, :length].double().numpy())
            expected[layer] += CLIPS[loss](*own)
    sums, count = loss(pred, target, mask)
    assert count == 9
    torch.testing.assert_close(sums, torch.from_numpy(expected).float())


def test_cka_does_not_mind_a_rotation_and_gram_minds_the_order_of_frames():
    pred, target, mask = batch()
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1))).Q
    torch.testing.assert_close(cka(pred, target @ rotation, mask)[0], cka(pred, target, mask)[0])
    torch.testing.assert_close(cka(target @ rotation * 3, target, mask)[0], torch.zeros(3), atol=1e-4, rtol=0)
    assert gram(target.flip(2)[:, :, :], target, torch.ones(2, 6, dtype=torch.bool))[0].min() > 0.1


def test_a_sum_of_losses_is_the_sum_of_its_parts():
    both, parts = l1_cosine_gram(*batch()), [loss(*batch())[0] for loss in (l1_cosine, gram)]
    torch.testing.assert_close(both[0], parts[0] + parts[1])


@pytest.mark.parametrize("loss", DISTANCES)
def test_a_loss_is_the_sum_of_its_distance_over_valid_frames(loss):
    pred, target, mask = batch()
    sums, count = loss(pred, target, mask)
    assert count == 9
    torch.testing.assert_close(sums, by_hand(pred, target, mask, DISTANCES[loss]))


@pytest.mark.parametrize("loss", LOSSES.values())
@pytest.mark.parametrize("garbage", [1e30, torch.inf, -torch.inf, torch.nan])
def test_padding_reaches_neither_value_nor_gradient(loss, garbage):
    pred, target, mask = batch()
    clean = pred.clone().requires_grad_()
    expected = loss(clean, target, mask)[0]
    expected.sum().backward()
    padding = ~mask[:, None, :, None]
    dirty = pred.masked_fill(padding, garbage).requires_grad_()
    sums, _ = loss(dirty, target.masked_fill(padding, garbage), mask)
    sums.sum().backward()
    assert torch.equal(sums, expected) and torch.equal(dirty.grad, clean.grad)
    assert not dirty.grad[1, :, 3:].any() and dirty.grad[1, :, :3].any()


@pytest.mark.parametrize("loss", LOSSES.values())
def test_a_loss_does_not_depend_on_how_a_batch_is_split(loss):
    pred, target, mask = batch()
    whole, count = loss(pred, target, mask)
    parts = [loss(pred[n : n + 1], target[n : n + 1], mask[n : n + 1]) for n in range(2)]
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole)
    assert parts[0][1] + parts[1][1] == count


@pytest.mark.parametrize("loss", LOSSES.values())
def test_a_loss_is_zero_at_its_target_and_computed_in_float32(loss):
    pred, target, mask = batch()
    torch.testing.assert_close(loss(target, target, mask)[0], torch.zeros(3), rtol=0.0, atol=1e-5)
    half = loss(pred.bfloat16(), target, mask)[0]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(pred.bfloat16().float(), target, mask)[0])
    with pytest.raises(ValueError, match=r"predictions are \(2, 1, 6, 5\), targets \(2, 3, 6, 5\)"):
        loss(pred[:, :1], target, mask)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_a_silent_frame_has_a_finite_gradient(loss):
    pred, target, mask = batch()
    pred[0, 0, 0], target[0, 0, 1] = 0.0, 0.0
    pred.requires_grad_()
    loss(pred, target, mask)[0].sum().backward()
    assert pred.grad.isfinite().all()


def test_agreement_equals_numpy():
    pred, target, mask = batch()
    target = target + 3.0  # the mean matters
    agreement = Agreement.of(pred + 3.0, target, mask)
    for layer in range(3):
        p, t = (pred + 3.0)[:, layer][mask].double().numpy(), target[:, layer][mask].double().numpy()
        explained = 1 - ((p - t) ** 2).sum() / ((t - t.mean(0)) ** 2).sum()
        assert agreement.explained_variance()[layer].item() == pytest.approx(explained, rel=1e-5)
        cosines = [cosine(*pair) for pair in zip(p, t, strict=True)]
        assert agreement.cosine()[layer].item() == pytest.approx(np.mean(cosines), rel=1e-5)
    assert agreement.frames == 9 and agreement.tensor().dtype == torch.float64


def test_agreement_knows_perfect_and_mean_only_predictions():
    _, target, mask = batch()
    perfect = Agreement.of(target, target, mask)
    torch.testing.assert_close(perfect.explained_variance(), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(perfect.cosine(), torch.ones(3, dtype=torch.float64))
    mean_KD = torch.stack([target[:, layer][mask].mean(0) for layer in range(3)])
    only_mean = Agreement.of(mean_KD[None, :, None].expand_as(target), target, mask)
    assert only_mean.explained_variance().abs().max() < 1e-6


def test_agreements_of_parts_add_up_and_travel_as_one_tensor():
    pred, target, mask = batch()
    whole = Agreement.of(pred, target, mask)
    parts = [Agreement.of(pred[n : n + 1], target[n : n + 1], mask[n : n + 1]) for n in range(2)]
    reduced = Agreement.from_tensor(parts[0].tensor() + parts[1].tensor())
    for merged in (parts[0] + parts[1], reduced):
        torch.testing.assert_close(merged.tensor(), whole.tensor())
        torch.testing.assert_close(merged.explained_variance(), whole.explained_variance())
        torch.testing.assert_close(merged.cosine(), whole.cosine())
    assert whole.tensor().shape == (3, 4 + 5)


def test_agreement_ignores_padding_and_keeps_no_graph():
    pred, target, mask = batch()
    padding = ~mask[:, None, :, None]
    dirty = [values.masked_fill(padding, torch.inf) for values in (pred, target)]
    heard = Agreement.of(dirty[0].requires_grad_(), dirty[1], mask)
    assert torch.equal(heard.tensor(), Agreement.of(pred, target, mask).tensor())
    assert not heard.tensor().requires_grad
