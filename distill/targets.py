"""Targets behind one door: the distiller cannot tell a teacher that listens now from one heard before."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from distill.data.batches import Batch
from distill.data.clips import Clips
from distill.features import Encoder, Features
from distill.frames import FrameCache
from distill.frozen import Frozen
from distill.fusion import Standardiser
from distill.teacher import FusedTeacher

Targets = Callable[[Batch], tuple[Features, Tensor | None]]  # layers (B, K, T, D), interface output (B, T, D')


class Supervision(Encoder):
    """What of a fused teacher supervises a student: some layers and, as one more, its interface's output."""

    def __init__(self, teacher: FusedTeacher, layers: Sequence[int], *, summary: bool):
        super().__init__()
        self.teacher, self.chosen, self.summary = teacher, list(layers), summary
        self.grid, self.width = teacher.grid, teacher.width
        self.layers = len(self.chosen) + summary

    def frames(self, samples_B: Tensor) -> Tensor:
        return self.teacher.frames(samples_B)

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        """The interface's output, where it is asked for, stands last, filled up with zeros to D features."""
        fused = self.teacher(audio_BN, lengths_B)
        hidden_BLTD = fused.hidden[:, self.chosen]
        if self.summary:
            output_B1TD = self.teacher.summary(fused).hidden
            filled_B1TD = nn.functional.pad(output_B1TD, (0, self.width - output_B1TD.shape[3]))
            hidden_BLTD = torch.cat([hidden_BLTD, filled_B1TD], 1)
        return replace(fused, hidden=hidden_BLTD)

    def part(self, features: Features) -> tuple[Features, Tensor | None]:
        """Layers, and the interface's output with its own width."""
        if not self.summary:
            return features, None
        count = len(self.chosen)
        output_BTD = features.hidden[:, count, :, : self.teacher.interface.width]
        return replace(features, hidden=features.hidden[:, :count]), output_BTD


def online(supervision: Supervision) -> Targets:
    """The teacher listens to every batch."""
    teacher = Frozen(supervision)
    return lambda batch: supervision.part(teacher(batch.audio, batch.lengths))


def memory(supervision: Supervision, clips: Clips, seconds: float, device: torch.device) -> Targets:
    """The teacher has listened to every clip once, in batches that never change; float16 in memory."""
    identity = Standardiser(supervision.layers, supervision.width).to(device)
    cache = FrameCache.extract(Frozen(supervision), clips, identity, seconds, device)

    def recall(batch: Batch) -> tuple[Features, Tensor | None]:
        hidden_BLTD, lengths_B = cache.batch(batch.rows, None, None)
        features = Features(hidden_BLTD.to(device), lengths_B.to(device), supervision.grid)
        return supervision.part(features)

    return recall


TARGETS = ("online", "memory")
