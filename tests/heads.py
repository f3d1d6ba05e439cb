"""Heads of SUPERB in small, and frames for them to hear."""

import torch
from torch import nn

from distill.tasks.superb import Dictation

WIDTH, OUTPUTS = 24, 7
LENGTHS = [40, 23, 31]  # frames


def frames(garbage: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    frames_BTD = torch.full((len(LENGTHS), max(LENGTHS) + 5, WIDTH), garbage)
    for clip, length in zip(frames_BTD, LENGTHS, strict=True):
        clip[:length] = torch.randn(length, WIDTH, generator=generator)
    return frames_BTD, torch.tensor(LENGTHS)


def small(make) -> nn.Module:
    torch.manual_seed(0)
    return (make(WIDTH, OUTPUTS, 16) if make is Dictation else make(WIDTH, OUTPUTS)).eval()
