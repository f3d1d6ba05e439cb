"""A long clip in overlapping windows, for encoders that hear no more than one window at a time."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """What is heard of a clip at once, and what is kept of it; all in frames of the clip."""

    start: int
    end: int
    first: int  # kept from here
    stop: int  # to here

    @property
    def frames(self) -> int:
        return self.end - self.start


def windows(frames: int, size: int, overlap: int) -> list[Window]:
    """Windows of `size` frames over a clip, evenly spread, joined at the middle of what two of them share.

    Neighbours share `overlap` frames or more, below `size`; a clip that fits is one window of its own length.
    """
    steps = -(-max(frames - size, 0) // (size - overlap))
    starts = [step * (frames - size) // steps if steps else 0 for step in range(steps + 1)]
    ends = [min(start + size, frames) for start in starts]
    seams = [(after + end) // 2 for after, end in zip(starts[1:], ends[:-1], strict=True)]
    return [Window(*each) for each in zip(starts, ends, [0, *seams], [*seams, frames], strict=True)]
