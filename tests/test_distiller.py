"""The Distiller: pairs, heads, alignment of targets, and a loss that does not know how a batch was made."""

import pytest
import torch
from sliced import GRID, HOP, WIDE, Slices, batch, distiller

from distill.distiller import Distiller, Group, pairs
from distill.encoders.waveform import front_end_grid
from distill.features import Features, Grid
from distill.fusion import align_time


def test_pairs_are_evenly_spaced_over_the_layers_above_the_embedding():
    assert pairs(4, 5, 3) == [(1, 1), (2, 2), (3, 4)]
    assert pairs(13, 13, 4) == [(3, 3), (6, 6), (9, 9), (12, 12)]
    assert pairs(7, 25, 3) == [(2, 8), (4, 16), (6, 24)]
    assert pairs(5, 13, 1) == [(4, 12)]
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"{count} layer pairs asked of a student with 3 layers"):
            pairs(4, 13, count)


def test_the_heads_see_the_layers_of_their_pairs():
    model = distiller(groups=WIDE, loss="mse", interface_width=None)
    audio, lengths, _, _ = batch([7, 4])
    heard = model.student(audio, lengths)
    targets = Features(heard.hidden[:, [1, 3]].detach(), heard.lengths, heard.grid)
    assert model(audio, lengths, targets, None).loss_sum == 0  # between equal widths heads start as identity
    with torch.no_grad():
        model.heads[1].weight.mul_(2.0)
    expected = 0.75 * targets.hidden[:, 1].square().mean(-1).sum()  # the second is off by its own target
    torch.testing.assert_close(model(audio, lengths, targets, None).loss_sum, expected)


def test_the_interface_head_sees_the_last_layer():
    model = distiller(groups=WIDE, interface_width=6, loss="mse")
    audio, lengths, _, _ = batch([7, 4])
    heard = model.student(audio, lengths)
    targets = Features(heard.hidden[:, [1, 3]].detach(), heard.lengths, heard.grid)
    interface = heard.hidden[:, 3].detach()
    assert model(audio, lengths, targets, interface).loss_sum == 0
    off = model(audio, lengths, targets, 2 * interface)
    torch.testing.assert_close(off.loss_sum, 0.5 * interface.square().mean(-1).sum())
    torch.testing.assert_close(off.interface.cosine(), torch.ones(1, dtype=torch.float64))


def test_a_student_equal_to_its_teacher_reaches_zero_loss_and_full_agreement():
    model = distiller(groups=WIDE, interface_width=6)
    audio, lengths, _, _ = batch([7, 4])
    heard = model.student(audio, lengths)
    targets = Features(heard.hidden[:, [1, 3]].detach(), heard.lengths, heard.grid)
    outcome = model(audio, lengths, targets, heard.hidden[:, 3].detach())
    assert outcome.loss_sum.item() == pytest.approx(0.0, abs=1e-4) and outcome.count == 11
    for agreement in (outcome.agreement, outcome.interface):
        torch.testing.assert_close(agreement.explained_variance(), torch.ones_like(agreement.error_K))
        torch.testing.assert_close(agreement.cosine(), torch.ones_like(agreement.error_K))


def gradients(model: Distiller, outcomes) -> list[torch.Tensor]:
    total = sum(outcome.loss_sum for outcome in outcomes) / sum(outcome.count for outcome in outcomes)
    return list(torch.autograd.grad(total, list(model.parameters())))


def part(inputs, clips: slice):
    """Some clips of a batch, padded no further than they need."""
    audio, lengths, targets, interface = inputs
    frames = int(targets.lengths[clips].max())
    cut = Features(targets.hidden[clips, :, :frames], targets.lengths[clips], targets.grid)
    return audio[clips, : int(lengths[clips].max())], lengths[clips], cut, interface[clips, :frames]


@pytest.mark.parametrize("loss", ["l1_cosine", "mse", "smooth_l1"])
def test_loss_and_gradients_do_not_depend_on_how_a_batch_is_split(loss):
    model, inputs = distiller(loss=loss), batch([7, 4, 5])
    whole = [model(*inputs)]
    split = [model(*part(inputs, slice(0, 1))), model(*part(inputs, slice(1, 3)))]
    torch.testing.assert_close(split[0].loss_sum + split[1].loss_sum, whole[0].loss_sum)
    assert split[0].count + split[1].count == whole[0].count == 16
    for mine, theirs in zip(gradients(model, split), gradients(model, whole), strict=True):
        torch.testing.assert_close(mine, theirs)
    merged = split[0].agreement + split[1].agreement
    whole_too = whole[0].agreement.tensor()  # of float32 predictions, whose last bits hang on the size of a batch
    torch.testing.assert_close(merged.tensor(), whole_too, rtol=1e-5, atol=1e-5)


def test_padding_in_audio_and_targets_changes_nothing():
    model = distiller()
    audio, lengths, targets, interface = batch([7, 4])
    clean = model(audio, lengths, targets, interface)
    padding = ~targets.mask()
    hidden = targets.hidden.masked_fill(padding[:, None, :, None], torch.inf)
    targets = Features(hidden, targets.lengths, targets.grid)
    interface = interface.masked_fill(padding[..., None], torch.nan)
    noisy = audio.clone()
    noisy[1, 4 * HOP :] = 1e9
    heard = model(noisy, lengths, targets, interface)
    assert torch.equal(heard.loss_sum, clean.loss_sum)
    for mine, theirs in zip(gradients(model, [heard]), gradients(model, [clean]), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("grid", [Grid(50.0, 0.0), Grid(40.0, 0.0125)])
def test_targets_on_another_grid_are_brought_to_the_students(grid):
    model = distiller()
    audio, lengths, targets, interface = batch([7, 4], grid)
    frames_B = torch.tensor([7, 4])
    aligned = align_time(targets, GRID, frames_B)
    interface_aligned = align_time(Features(interface[:, None], targets.lengths, grid), GRID, frames_B)
    assert not torch.equal(aligned.hidden, targets.hidden)
    heard = model(audio, lengths, targets, interface)
    expected = model(audio, lengths, aligned, interface_aligned.hidden[:, 0])
    assert torch.equal(heard.loss_sum, expected.loss_sum)


def test_a_student_of_half_the_frames_tells_all_of_its_teachers():
    """By hand: frame t of the student tells frames 2 t and 2 t + 1, by the halves of a head's output."""
    model = distiller(groups=WIDE, interface_width=6, loss="mse", student=Slices(grid=Grid(25.0, 0.02)), times=2)
    with torch.no_grad():
        for head in (*model.heads, model.interface_head):
            assert torch.equal(head.weight[:6], head.weight[6:]) and torch.equal(head.weight[:6], torch.eye(6))
            head.weight.normal_()
    audio, lengths, _, _ = batch([7, 4])
    heard = model.student(audio, lengths)
    told = torch.zeros(3, 2, 14, 6)  # two layers and the interface
    for number, (layer, head) in enumerate(zip((1, 3, 3), (*model.heads, model.interface_head), strict=True)):
        for frame in range(7):
            both = heard.hidden[:, layer, frame] @ head.weight.T
            told[number, :, 2 * frame], told[number, :, 2 * frame + 1] = both[:, :6], both[:, 6:]
    targets = Features(told[:2].transpose(0, 1).detach(), 2 * heard.lengths, Grid(50.0, 0.01))
    outcome = model(audio, lengths, targets, told[2].detach())
    assert outcome.loss_sum.item() == pytest.approx(0.0, abs=1e-6) and outcome.count == 22
    assert outcome.told.hidden.shape == (2, 1, 14, 6) and outcome.told.lengths.tolist() == [14, 8]
    late = Features(targets.hidden.roll(1, 2), targets.lengths, targets.grid)
    assert model(audio, lengths, late, told[2].detach()).loss_sum > 1


def test_finer_frames_lie_within_the_coarse_ones():
    coarse = front_end_grid((20, 6, 3, 2, 2, 2), (10, 4, 2, 2, 2, 2))
    fine = front_end_grid((20, 6, 3, 2, 2), (10, 4, 2, 2, 2))
    assert coarse.rate == 25.0 and coarse.finer(2).rate == fine.rate
    assert coarse.finer(2).first == pytest.approx(fine.first, abs=1e-12)
    assert coarse.finer(1) == coarse
    torch.testing.assert_close(coarse.finer(3).centres(9).view(3, 3).mean(1), coarse.centres(3))


def test_weights_count_by_their_ratio():
    inputs = batch([7, 4])
    one, same = distiller(weights=[1.0, 3.0])(*inputs), distiller(weights=[10.0, 30.0])(*inputs)
    torch.testing.assert_close(one.loss_sum, same.loss_sum)
    first, second = (distiller(weights=weights)(*inputs).loss_sum for weights in ([1, 0], [0, 1]))
    torch.testing.assert_close(one.loss_sum, 0.25 * first + 0.75 * second)
    none, half, full = (distiller(interface_weight=weight)(*inputs).loss_sum for weight in (0.0, 0.5, 1.0))
    assert none < half
    torch.testing.assert_close(full - none, 2 * (half - none))


def test_the_loss_is_float32_under_autocast():
    model, inputs = distiller(), batch([7, 4])
    full = model(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(*inputs)
    assert half.loss_sum.dtype == torch.float32
    torch.testing.assert_close(half.loss_sum, full.loss_sum, rtol=0.02, atol=0.0)


def test_what_does_not_fit_is_named():
    inputs = batch([7, 4])
    with pytest.raises(ValueError, match="give both or neither"):
        distiller()(*inputs[:3], None)
    with pytest.raises(ValueError, match="give both or neither"):
        distiller(interface_width=None)(*inputs)
    with pytest.raises(ValueError, match="2 pairs, 3 weights"):
        distiller(weights=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="unknown loss='l2'; there are l1_cosine, mse, smooth_l1"):
        distiller(loss="l2")
    with pytest.raises(ValueError, match=r"layers 0 to 3, got the pairs \[\(1, 2\), \(4, 4\)\]"):
        distiller(groups=[Group("", ((1, 2), (4, 4)), 5)])
    with pytest.raises(ValueError, match="nor all zero"):
        distiller(weights=[0.0, 0.0])
    with pytest.raises(ValueError, match=r"predictions are \(2, 2, 7, 5\), targets \(2, 2, 7, 4\)"):
        distiller()(*batch([7, 4], width=4))
