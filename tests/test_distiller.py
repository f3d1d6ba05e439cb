"""The Distiller: pairs, heads, alignment of targets, and a loss that does not know how a batch was made."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from distill.distiller import BALANCE, Distiller, Group, pairs
from distill.encoders.waveform import front_end_grid
from distill.features import Encoder, Features, Grid, zero_padding
from distill.fusion import align_time

HOP = 320
GRID = Grid(50.0, 0.01)


class Slices(Encoder):
    """A student that reads frames of HOP samples; layer l is a projection times l + 1."""

    def __init__(self, layers: int = 4, width: int = 6, grid: Grid = GRID):
        super().__init__()
        self.grid, self.layers, self.width = grid, layers, width
        self.project = nn.Linear(HOP, width, bias=False)

    def frames(self, samples_B):
        return samples_B // HOP

    def forward(self, audio_BN, lengths_B):
        frames_B = self.frames(lengths_B)
        frames_BTN = audio_BN.unfold(1, HOP, HOP)
        scale_L = torch.arange(1, self.layers + 1)[:, None, None]
        hidden_BLTD = self.project(frames_BTN)[:, None] * scale_L
        return Features(zero_padding(hidden_BLTD, frames_B), frames_B, self.grid)


PAIRS = ((1, 2), (3, 4))
WIDE = [Group("", PAIRS, 6)]  # as wide as the student


def distiller(**changes) -> Distiller:
    torch.manual_seed(0)
    settings = {
        "student": Slices(),
        "groups": [Group("", PAIRS, 5)],
        "interface_width": 3,
        "loss": "l1_cosine",
        "weights": [1.0, 3.0],
        "interface_weight": 0.5,
    }
    return Distiller(**(settings | changes))


def batch(frames: list[int], grid: Grid = GRID, *, width: int = 5):
    """Audio, lengths, targets for two pairs, interface targets."""
    generator = torch.Generator().manual_seed(1)
    frames_B = torch.tensor(frames)
    audio_BN = torch.randn(len(frames), max(frames) * HOP, generator=generator)
    hidden = torch.randn(len(frames), 2, max(frames), width, generator=generator)
    interface = torch.randn(len(frames), max(frames), 3, generator=generator)
    return audio_BN, frames_B * HOP, Features(zero_padding(hidden, frames_B), frames_B, grid), interface


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


TWO = [Group("", PAIRS, 5), Group("thin", ((2, 1), (3, 2)), 3)]


def two_groups():
    """Audio, lengths, four targets of which the last two are three features wide, interface targets."""
    audio, lengths, targets, interface = batch([7, 4])
    thin = targets.hidden.flip(1).clone()
    thin[..., 3:] = 0.0
    both = Features(torch.cat([targets.hidden, thin], 1), targets.lengths, targets.grid)
    return audio, lengths, both, interface


@pytest.mark.parametrize("loss", ["l1_cosine", "mse", "gram", "cka"])
def test_groups_count_alike_however_wide_they_are(loss):
    audio, lengths, both, _ = two_groups()
    together = distiller(groups=TWO, interface_width=None, loss=loss)
    sums = []
    for number, group in enumerate(TWO):
        alone = distiller(groups=[group], interface_width=None, loss=loss)
        alone.heads.load_state_dict(together.heads[2 * number : 2 * number + 2].state_dict())
        own = both.hidden[:, 2 * number : 2 * number + 2, :, : group.width]
        sums.append(alone(audio, lengths, Features(own, both.lengths, both.grid), None))
    outcome = together(audio, lengths, both, None)
    torch.testing.assert_close(outcome.loss_sum, (sums[0].loss_sum + sums[1].loss_sum) / 2)
    expected = torch.cat([one.agreement.explained_variance() for one in sums])
    torch.testing.assert_close(outcome.agreement.explained_variance(), expected)


def test_groups_count_by_the_ratio_of_their_weights():
    audio, lengths, both, _ = two_groups()

    def loss(*weights: float) -> torch.Tensor:
        groups = [replace(group, weight=weight) for group, weight in zip(TWO, weights, strict=True)]
        return distiller(groups=groups, interface_width=None)(audio, lengths, both, None).loss_sum

    equal, first, second = loss(1.0, 1.0), loss(1.0, 1e-6), loss(1e-6, 1.0)
    assert not torch.isclose(first, second, rtol=1e-2)
    torch.testing.assert_close(equal, (first + second) / 2, rtol=1e-5, atol=0)
    torch.testing.assert_close(loss(1.0, 3.0), 0.25 * first + 0.75 * second, rtol=1e-5, atol=0)
    torch.testing.assert_close(loss(10.0, 30.0), loss(1.0, 3.0))
    with pytest.raises(ValueError, match=r"must be above 0, got .* leave a source out"):
        loss(1.0, 0.0)


def test_groups_name_their_targets():
    assert [name for group in TWO for name in group.names()] == ["1", "2", "thin_1", "thin_2"]


def test_a_group_is_dropped_unless_its_loss_is_the_highest():
    inputs, count = two_groups(), 400
    model = distiller(groups=TWO, drop=0.75, interface_weight=0.0)
    whole = distiller(groups=TWO, interface_weight=0.0)
    with torch.no_grad():
        sums = whole._by_group(torch.tensor([1.0, 1.0, 3.0, 3.0])), torch.tensor(1), torch.zeros(())
        drawn = torch.stack([model._balanced(*sums) for _ in range(count)])
        assert (drawn[:, 1] == 3.0).all(), "the highest"
        assert set(drawn[:, 0].tolist()) == {0.0, 1.0}
        assert 0.17 < float(drawn[:, 0].mean()) < 0.33, "kept once in four"
        assert torch.equal(model.eval()(*inputs).loss_sum, whole.eval()(*inputs).loss_sum)


def test_a_learned_doubt_settles_at_the_logarithm_of_the_loss():
    inputs = two_groups()
    model, equal = (distiller(groups=TWO, interface_weight=0.0, balance=balance) for balance in BALANCE[1::-1])
    assert torch.equal(model(*inputs).loss_sum, equal(*inputs).loss_sum), "no doubt at the start"
    sums, count = torch.tensor([2.0, 40.0]), torch.tensor(10)
    with torch.no_grad():
        model.doubts.copy_((sums / count).log())
    (gradient,) = torch.autograd.grad(model._balanced(sums, count, torch.zeros(())).sum(), [model.doubts])
    torch.testing.assert_close(gradient, torch.zeros(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("balance", BALANCE[1:])
def test_a_single_source_has_nothing_to_be_balanced_with(balance):
    one, inputs = distiller(balance=balance), batch([7, 4])
    assert torch.equal(one(*inputs).loss_sum, distiller()(*inputs).loss_sum)
    assert set(one.state_dict()) == set(distiller().state_dict())


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
