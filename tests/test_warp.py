"""The time warp of SpecAugment in the published recognition head: what it moves, how far, and when."""

import numpy as np
import pytest
import torch
from heads import LENGTHS, frames, small
from torch import nn

from distill.tasks.superb import Dictation, Masks, Warp, stretch


def ramp(frames: int, clips: int = 1) -> torch.Tensor:
    """Every frame is its number: (clips, frames, 2)."""
    return torch.arange(frames, dtype=torch.float32)[None, :, None].repeat(clips, 1, 2)


@pytest.mark.parametrize("frames", [11, 12, 16, 40])
def test_a_warped_ramp_rises_all_the_same_and_no_frame_goes_far(frames):
    torch.manual_seed(0)
    warped_BT = Warp()(ramp(frames, 200), torch.full((200,), frames))[..., 0]
    assert warped_BT.shape == (200, frames) and warped_BT.isfinite().all()
    assert (warped_BT.diff(dim=1) > 0).all()
    moved_B = (warped_BT - torch.arange(frames)).abs().amax(1)
    assert moved_B.max() < 5 and (moved_B > 2).any()
    assert len(moved_B.unique()) >= 10, "clips are warped alike"


def test_a_warp_of_no_reach_and_of_a_short_clip_changes_nothing():
    frames_BTD, lengths_B = frames(0.0)
    assert torch.equal(Warp(0)(frames_BTD, lengths_B), frames_BTD)
    assert torch.equal(Warp(20)(frames_BTD, lengths_B), frames_BTD), "40 frames do not reach beyond 20 on both sides"
    assert not torch.equal(Warp(11)(frames_BTD, lengths_B), frames_BTD)


def test_a_warp_stays_within_valid_frames():
    warped = []
    for garbage in (0.0, 30.0):
        torch.manual_seed(0)
        frames_BTD, lengths_B = frames(garbage)
        warped.append(Warp()(frames_BTD, lengths_B))
        for before, after, length in zip(frames_BTD, warped[-1], LENGTHS, strict=True):
            assert torch.equal(before[length:], after[length:]) and not torch.equal(before[:length], after[:length])
    for clip, length in enumerate(LENGTHS):
        assert torch.equal(warped[0][clip, :length], warped[1][clip, :length])


def test_stretching_is_cubic_convolution():
    """Against its formula (Keys, 1981, with a = -0.75), frame by frame; outside, the first and last frame go on."""

    def weight(distance: float) -> float:
        a, x = -0.75, abs(distance)
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    clip_TD = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    for frames_ in (5, 9, 14):
        expected = []
        for frame in range(frames_):
            at = (frame + 0.5) * 9 / frames_ - 0.5
            near = range(int(np.floor(at)) - 1, int(np.floor(at)) + 3)
            expected.append(sum(weight(at - i) * clip_TD[min(max(i, 0), 8)] for i in near))
        torch.testing.assert_close(stretch(clip_TD, frames_), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_the_warp_is_part_of_training_alone():
    head, (frames_BTD, lengths_B) = small(Dictation), frames(0.0)
    head.masks, head.drop = Masks(0, 0, 0, 0), nn.Identity()
    plain_BTC = head(frames_BTD, lengths_B)
    head.train()
    assert not torch.allclose(head(frames_BTD, lengths_B), plain_BTC, atol=1e-4)
    head.warp = Warp(0)
    torch.testing.assert_close(head(frames_BTD, lengths_B), plain_BTC)
