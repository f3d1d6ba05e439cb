"""Alignment: frames by linear interpolation at their centres in time, layers by relative depth."""

import pytest
import torch
from stacks import SLOW, WAV2VEC2, WHISPER, stack
from torch import Tensor

from distill.features import Features, Grid
from distill.fusion import align_layers, align_time


def along_time(values_T: Tensor, frames: int, grid: Grid) -> Features:
    """One clip, one layer, one channel."""
    return Features(values_T.view(1, 1, -1, 1), torch.tensor([frames]), grid)


def slow_align_time(features: Features, grid: Grid, frames_B: Tensor) -> Tensor:
    """The definition, one frame at a time, in float64."""
    clips, layers, _, width = features.hidden.shape
    out = torch.zeros(clips, layers, int(frames_B.max()), width, dtype=torch.float64)
    hidden = features.hidden.double()
    for clip in range(clips):
        last = int(features.lengths[clip]) - 1
        for frame in range(int(frames_B[clip])):
            seconds = frame / grid.rate + grid.first
            position = min(max((seconds - features.grid.first) * features.grid.rate, 0.0), float(last))
            lower = int(position)
            share = position - lower
            below, above = hidden[clip, :, lower], hidden[clip, :, min(lower + 1, last)]
            out[clip, :, frame] = (1 - share) * below + share * above
    return out


@pytest.mark.parametrize("source", [WAV2VEC2, WHISPER, SLOW])
@pytest.mark.parametrize("wanted", [WAV2VEC2, WHISPER, SLOW, Grid(62.5, 0.03)])
def test_time_alignment_equals_its_definition(source, wanted):
    features, frames_B = stack([9, 4, 1], source), torch.tensor([8, 6, 2])
    aligned = align_time(features, wanted, frames_B)
    torch.testing.assert_close(aligned.hidden.double(), slow_align_time(features, wanted, frames_B))
    assert aligned.grid == wanted and aligned.lengths.tolist() == [8, 6, 2]


def test_the_same_grid_and_frames_give_the_very_same_features():
    features = stack([9, 4])
    assert align_time(features, WAV2VEC2, torch.tensor([9, 4])) is features
    assert align_time(features, Grid(50.0, 0.0125), torch.tensor([9, 4])).hidden is features.hidden


def test_the_same_grid_with_other_frame_counts_copies_frames_exactly():
    features = stack([9, 4])
    aligned = align_time(features, WAV2VEC2, torch.tensor([7, 5]), frames=10).hidden
    assert torch.equal(aligned[0, :, :7], features.hidden[0, :, :7])
    assert torch.equal(aligned[1, :, :5], features.hidden[1, :, [0, 1, 2, 3, 3]])
    assert aligned.shape[2] == 10 and not aligned[0, :, 7:].any() and not aligned[1, :, 5:].any()


@pytest.mark.parametrize(("source", "wanted"), [(WAV2VEC2, WHISPER), (WHISPER, WAV2VEC2), (SLOW, WHISPER)])
def test_a_ramp_in_time_is_the_same_ramp_on_another_grid(source, wanted):
    seconds_T = source.centres(40).float()
    aligned = align_time(along_time(seconds_T, 40, source), wanted, torch.tensor([40]))
    centres_T = wanted.centres(40).float().clamp(seconds_T[0], seconds_T[-1])  # clamped at both ends
    torch.testing.assert_close(aligned.hidden.flatten(), centres_T, rtol=1e-6, atol=1e-6)


def test_a_constant_stays_exactly_that_constant():
    for wanted in (WHISPER, SLOW, Grid(62.5, 0.03)):
        aligned = align_time(along_time(torch.full((20,), 0.3), 20, WAV2VEC2), wanted, torch.tensor([23]))
        assert torch.equal(aligned.hidden.flatten(), torch.full((23,), 0.3))


def test_time_alignment_is_linear_in_the_values():
    one, other = stack([9, 4], seed=1), stack([9, 4], seed=2)
    frames_B = torch.tensor([9, 5])
    both = Features(2 * one.hidden - 3 * other.hidden, one.lengths, one.grid)
    parts = [align_time(features, WHISPER, frames_B).hidden for features in (one, other)]
    torch.testing.assert_close(align_time(both, WHISPER, frames_B).hidden, 2 * parts[0] - 3 * parts[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_time_alignment_keeps_the_dtype_and_interpolates_in_float32_or_better(dtype):
    features = stack([9, 4])
    features = Features(features.hidden.to(dtype), features.lengths, features.grid)
    wanted = Grid(43.7, 0.0131)  # no fraction is exact in few bits
    aligned = align_time(features, wanted, torch.tensor([8, 4])).hidden
    expected = slow_align_time(features, wanted, torch.tensor([8, 4]))
    assert aligned.dtype == dtype
    torch.testing.assert_close(aligned, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_a_clip_of_no_frames_is_refused():
    with pytest.raises(ValueError, match=r"got \[3, 0\] frames"):
        align_time(stack([3, 0]), SLOW, torch.tensor([2, 1]))


def test_layers_are_matched_by_relative_depth():
    depth_L = torch.linspace(0, 1, 5).view(1, 5, 1, 1)
    torch.testing.assert_close(align_layers(depth_L, 7).flatten(), torch.linspace(0, 1, 7))
    hidden = stack([6], layers=5).hidden
    assert align_layers(hidden, 5) is hidden
    assert torch.equal(align_layers(hidden, 9)[:, ::2], hidden)  # a layer that falls on a layer is that layer
    assert torch.equal(align_layers(hidden[:, :1], 4), hidden[:, :1].expand(-1, 4, -1, -1))
    with pytest.raises(ValueError, match="2 layers or more"):
        align_layers(hidden, 1)
