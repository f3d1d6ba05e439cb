"""What an encoder says about a batch of clips: Features on a frame grid, and the Encoder contract.

Shape letters used everywhere: B clips, N samples, L layers, T frames, D features.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from distill import SAMPLE_RATE


@dataclass(frozen=True)
class Grid:
    """Where the frames of an encoder lie in time."""

    rate: float  # frames per second
    first: float  # seconds from the start of the clip to the centre of frame 0

    def centres(self, frames: int, device: torch.device | None = None) -> Tensor:
        """Centres of the first `frames` frames, in seconds: (T,), float64."""
        return torch.arange(frames, dtype=torch.float64, device=device) / self.rate + self.first

    def finer(self, times: int) -> "Grid":
        """Every frame as so many shorter ones side by side."""
        return Grid(self.rate * times, self.first - (times - 1) / (2 * times * self.rate))


@dataclass(frozen=True)
class Features:
    """The layers of an encoder for a batch of clips; frames past a clip's own length are zero."""

    hidden: Tensor  # (B, L, T, D)
    lengths: Tensor  # (B,) valid frames of each clip, int64
    grid: Grid

    def __post_init__(self):
        if self.hidden.ndim != 4:
            raise ValueError(f"hidden must be (B, L, T, D), got the shape {tuple(self.hidden.shape)}")

    def mask(self) -> Tensor:
        """True on valid frames: (B, T)."""
        return frame_mask(self.lengths, self.hidden.shape[2])

    def detach(self) -> "Features":
        return replace(self, hidden=self.hidden.detach())


def frame_mask(lengths_B: Tensor, frames: int) -> Tensor:
    """True where a frame belongs to its clip: (B, T)."""
    return torch.arange(frames, device=lengths_B.device) < lengths_B[:, None]


def zero_padding(hidden_BLTD: Tensor, lengths_B: Tensor) -> Tensor:
    """The same layers with every frame past a clip's length set to zero."""
    mask = frame_mask(lengths_B, hidden_BLTD.shape[2])
    return hidden_BLTD.masked_fill(~mask[:, None, :, None], 0.0)


class Encoder(nn.Module, ABC):
    """Everything that listens: an upstream, the fused teacher, a cached one, the student, log-mel.

    A clip's features are the same alone and in a batch, whatever stands in the padding of `audio`.
    """

    grid: Grid
    layers: int  # L, the embedding output among them
    width: int  # D

    @abstractmethod
    def frames(self, samples_B: Tensor) -> Tensor:
        """Valid frames of clips of so many samples: (B,) -> (B,), int64; 0 where a clip is too short."""

    @abstractmethod
    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        """float32 audio at 16 kHz, with each clip's length in samples -> its layers.

        Raises ValueError for a clip too short for one frame or longer than the model takes.
        """


def demand_frames(encoder: Encoder, lengths_B: Tensor) -> Tensor:
    """Valid frames of each clip; ValueError that names the first clip with none."""
    frames_B = encoder.frames(lengths_B)
    if bool((frames_B < 1).any()):
        clip = int((frames_B < 1).nonzero()[0, 0])
        raise ValueError(
            f"clip {clip} of the batch has {int(lengths_B[clip])} samples "
            f"({int(lengths_B[clip]) / SAMPLE_RATE:.4f} s), too short for one frame of "
            f"{type(encoder).__name__}; leave out clips below {shortest(encoder)} samples"
        )
    return frames_B


def shortest(encoder: Encoder) -> int:
    """Samples in the shortest clip that gives one frame."""
    samples = torch.arange(1, 60 * SAMPLE_RATE)
    return int(samples[encoder.frames(samples) > 0][0])


def parameters(module: nn.Module) -> int:
    """How many parameters a module has, trained and frozen; also where processes share them (ZeRO 3 empties them)."""
    return sum(vars(p).get("ds_numel", p.numel()) for p in module.parameters())
