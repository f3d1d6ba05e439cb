"""Targets behind one door: the distiller cannot tell a teacher that listens now from one heard before."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distill.caching import VERSION, open_store
from distill.codes import Codebooks, Codes, learn_codebooks
from distill.data.batches import Batch, moved
from distill.data.clips import Clips
from distill.features import Encoder, Features
from distill.frames import FrameCache, hear
from distill.frozen import Frozen
from distill.fusion import Standardiser
from distill.identity import corpus_digest, digest_of, libraries, module_digest
from distill.packing import PRECISIONS
from distill.tasks.task import draw
from distill.teacher import FusedTeacher

TARGETS = ("online", "memory", "cached", "codes")
SAMPLE = 384  # clips whose frames codebooks are learned from, a quarter of them to say how well

Targets = Callable[[Batch], tuple[Features, Tensor | None]]  # layers (B, K, T, D), interface output (B, T, D')


class Supervision(Encoder):
    """What of a fused teacher supervises a student: some layers and, as one more, its interface's output.

    dtype: what the teacher computes in, by autocast; its features are float32 all the same.
    """

    def __init__(
        self, teacher: FusedTeacher, layers: Sequence[int], *, summary: bool, dtype: torch.dtype = torch.float32
    ):
        super().__init__()
        self.teacher, self.chosen, self.summary, self.dtype = teacher, list(layers), summary, dtype
        self.grid, self.width = teacher.grid, teacher.width
        self.layers = len(self.chosen) + summary

    def frames(self, samples_B: Tensor) -> Tensor:
        return self.teacher.frames(samples_B)

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        """The interface's output, where it is asked for, stands last, filled up with zeros to D features."""
        with torch.autocast(audio_BN.device.type, self.dtype, enabled=self.dtype != torch.float32):
            fused = self.teacher(audio_BN, lengths_B)
        fused = replace(fused, hidden=fused.hidden.float())
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

    def identity(self) -> dict[str, object]:
        """All that its features depend on but the audio, as plain data."""
        return {
            "teacher": module_digest(self.teacher),
            "layers": self.chosen,
            "interface": self.summary,
            "computed_in": str(self.dtype),
        }


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
        features = Features(moved(hidden_BLTD, device), moved(lengths_B, device), supervision.grid)
        return supervision.part(features)

    return recall


def cached(
    accelerator: Accelerator, supervision: Supervision, clips: Clips, seconds: float, precision: str, place: Path
) -> Targets:
    """The teacher has listened to every clip once, in this run or another; float16 or int8 on the disk."""
    packing = PRECISIONS[precision](supervision.layers, supervision.width)
    made_of = identity(accelerator, supervision, clips, seconds)
    store = open_store(accelerator, Frozen(supervision), clips, packing, seconds, place, made_of)

    def recall(batch: Batch) -> tuple[Features, Tensor | None]:
        bytes_BTW, lengths_B = (moved(part, accelerator.device) for part in store.batch(batch.rows))
        return supervision.part(Features(packing.unpack(bytes_BTW), lengths_B, supervision.grid))

    return recall


def codes(
    accelerator: Accelerator, supervision: Supervision, clips: Clips, seconds: float, books: int, place: Path
) -> Callable[[Batch], Codes]:
    """The same as codes, `books` bytes a layer and frame, the interface's output the last layer."""
    made_of = identity(accelerator, supervision, clips, seconds) | {"books": books}
    path = place / f"codebooks-{digest_of(made_of)[:16]}.safetensors"
    with accelerator.main_process_first():
        if not path.exists():  # never learned again once something is coded with it
            path.parent.mkdir(parents=True, exist_ok=True)
            sample = learned_from(supervision, clips, seconds, books, accelerator.device)
            sample.save(path)
    packing = Codebooks.load(path).to(accelerator.device)
    made_of["codebooks"] = module_digest(packing)
    store = open_store(accelerator, Frozen(supervision), clips, packing, seconds, place, made_of)

    def recall(batch: Batch) -> Codes:
        bytes_BTW, lengths_B = (moved(part, accelerator.device) for part in store.batch(batch.rows))
        return Codes(packing.split(bytes_BTW), lengths_B, supervision.grid)

    return recall


def learned_from(supervision: Supervision, clips: Clips, seconds: float, books: int, device: torch.device) -> Codebooks:
    """Codebooks of a sample of the clips; what they keep of other clips is printed."""
    frames: list[Tensor] = []
    some = clips.select(draw(np.arange(len(clips)), SAMPLE).tolist())
    for _, features in hear(Frozen(supervision), some, seconds, device):
        frames += [own[:count] for own, count in zip(features.hidden.transpose(1, 2), features.lengths, strict=True)]
    tested, trained = torch.cat(frames[::4]), torch.cat([own for n, own in enumerate(frames) if n % 4])
    found = learn_codebooks(trained, books, 0)
    kept = ", ".join(f"{value:.2f}" for value in found.explained_variance(tested).tolist())
    print(f"codes: {found.width} bytes a frame, explained variance of each target {kept} on clips not learned from")
    return found


def identity(accelerator: Accelerator, supervision: Supervision, clips: Clips, seconds: float) -> dict[str, object]:
    """All that stored targets depend on but how they are packed, as plain data."""
    heard = {"corpus": corpus_digest(clips, accelerator), "seconds": seconds}
    return heard | supervision.identity() | {"version": VERSION, "libraries": libraries()}
