"""Heads of SUPERB in small, and frames for heads to hear."""

from collections.abc import Sequence

import torch
from torch import nn

from distill.tasks.superb import Dictation

WIDTH, OUTPUTS = 24, 7
LENGTHS = [40, 23, 31]  # frames


def frames(
    garbage: float, lengths: Sequence[int] = LENGTHS, width: int = WIDTH, spare: int = 5
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same clips side by side whatever lies behind them, and their frames; spare: of garbage behind the longest."""
    generator = torch.Generator().manual_seed(0)
    frames_BTD = torch.full((len(lengths), max(lengths) + spare, width), garbage)
    for clip, length in zip(frames_BTD, lengths, strict=True):
        clip[:length] = torch.randn(length, width, generator=generator)
    return frames_BTD, torch.tensor(lengths)


def small(make) -> nn.Module:
    torch.manual_seed(0)
    return (make(WIDTH, OUTPUTS, 16) if make is Dictation else make(WIDTH, OUTPUTS)).eval()
