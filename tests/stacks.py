"""Random layers on known grids, for tests of alignment and fusion."""

import torch

from distill.features import Features, Grid

WAV2VEC2, WHISPER, SLOW = Grid(50.0, 0.0125), Grid(50.0, 0.0), Grid(25.0, 0.02)


def stack(lengths: list[int], grid: Grid = WAV2VEC2, *, layers: int = 3, width: int = 4, seed: int = 0) -> Features:
    """Random layers with zero padding."""
    lengths_B = torch.tensor(lengths)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(lengths), layers, max(lengths), width, generator=generator)
    mask = torch.arange(max(lengths)) < lengths_B[:, None]
    return Features(hidden * mask[:, None, :, None], lengths_B, grid)
