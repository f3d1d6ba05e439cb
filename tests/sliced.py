"""A student that slices its audio into frames, a Distiller of it, and batches for both."""

import torch
from torch import nn

from distill.distiller import Distiller, Group
from distill.features import Encoder, Features, Grid, zero_padding

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
