"""How a long clip is cut into windows."""

from itertools import pairwise

import pytest

from teachers.windows import Window, windows


def test_a_clip_that_fits_is_one_window_of_its_own_length():
    assert windows(70, 100, 30) == [Window(0, 70, 0, 70)]
    assert windows(100, 100, 30) == [Window(0, 100, 0, 100)]


def test_two_windows_join_at_the_middle_of_what_they_share():
    assert windows(140, 100, 30) == [Window(0, 100, 0, 70), Window(40, 140, 70, 140)]


@pytest.mark.parametrize("overlap", [0, 1, 30, 99])
@pytest.mark.parametrize("frames", [101, 170, 171, 240, 999])
def test_every_frame_is_kept_once_from_a_whole_window_far_from_its_ends(frames, overlap):
    cut = windows(frames, 100, overlap)
    assert [frame for one in cut for frame in range(one.first, one.stop)] == list(range(frames))
    assert all(one.frames == 100 for one in cut)
    for before, after in pairwise(cut):
        assert before.end - after.start >= overlap
        assert min(before.end - before.stop, after.first - after.start) >= overlap // 2
    assert len(cut) == -(-(frames - overlap) // (100 - overlap))  # no more than needed
