"""Targets behind one door: the distiller cannot tell a teacher that listens now from one heard before."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from distill.data.batches import Batch
from distill.data.clips import Clips
from distill.features import Encoder, Features, zero_padding
from distill.frames import FrameCache
from distill.fusion import Standardiser

Targets = Callable[
    [Batch], tuple[Features, Tensor | None]
]  # layers (B, K, T, D), interface output (B, T, D')


class Supervision(Encoder):
    """What of a teacher supervises a student: some of its layers and, as one more, its interface's output."""

    def __init__(self, teacher: Encoder, layers: Sequence[int], interface: nn.Module | None):
        super().__init__()
        self.teacher, self.interface, self.chosen = teacher, interface, list(layers)
        self.grid, self.width = teacher.grid, teacher.width
        self.layers = len(self.chosen) + (interface is not None)

    def frames(self, samples_B: Tensor) -> Tensor:
        return self.teacher.frames(samples_B)

    @torch.no_grad()
    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        """The interface's output, where it is asked for, stands last, filled up with zeros to D features."""
        heard = self.teacher(audio_BN, lengths_B)
        hidden_BLTD = heard.hidden[:, self.chosen]
        if self.interface is not None:
            output_BTD = self.interface(heard.hidden)
            filled_BTD = nn.functional.pad(output_BTD, (0, self.width - output_BTD.shape[2]))
            filled_B1TD = zero_padding(filled_BTD[:, None], heard.lengths)
            hidden_BLTD = torch.cat([hidden_BLTD, filled_B1TD], 1)
        return replace(heard, hidden=hidden_BLTD)

    def part(self, features: Features) -> tuple[Features, Tensor | None]:
        """Layers, and the interface's output with its own width."""
        if self.interface is None:
            return features, None
        count = len(self.chosen)
        output_BTD = features.hidden[:, count, :, : self.interface.width]  # pyright: ignore[reportArgumentType]
        return replace(features, hidden=features.hidden[:, :count]), output_BTD


def online(supervision: Supervision) -> Targets:
    """The teacher listens to every batch."""
    return lambda batch: supervision.part(supervision(batch.audio, batch.lengths))


def memory(supervision: Supervision, clips: Clips, seconds: float, device: torch.device) -> Targets:
    """The teacher has listened to every clip once, in batches that never change; float16 in memory."""
    identity = Standardiser(supervision.layers, supervision.width).to(device)
    cache = FrameCache.extract(supervision, clips, identity, seconds, device)

    def recall(batch: Batch) -> tuple[Features, Tensor | None]:
        hidden_BLTD, lengths_B = cache.batch(batch.rows, None, None)
        features = Features(hidden_BLTD.to(device), lengths_B.to(device), supervision.grid)
        return supervision.part(features)

    return recall


TARGETS = ("online", "memory")
