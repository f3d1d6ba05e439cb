"""Targets behind one door: the distiller cannot tell a teacher that listens now from one heard before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distill.data.batches import Batch, moved
from distill.data.clips import Clips
from distill.encoders.frames import FrameCache, hear
from distill.encoders.frozen import Frozen
from distill.encoders.sharding import in_step
from distill.features import Encoder, Features
from distill.fusion import Standardiser
from distill.supervision.caching import VERSION, open_store
from distill.supervision.codes import Codebooks, Codes, learn_codebooks
from distill.supervision.identity import corpus_digest, digest_of, libraries, module_digest
from distill.supervision.packing import PRECISIONS
from distill.tasks.task import draw
from distill.teacher import FusedTeacher

TARGETS = ("online", "memory", "cached", "codes")
SUPERVISE = ("fused", "separate", "both")  # the fused stack, each upstream's own layers, or all of them
SAMPLE = 384  # clips whose frames codebooks are learned from, a quarter of them to say how well

Targets = Callable[[Batch], tuple[Features, Tensor | None]]  # layers (B, K, T, D), interface output (B, T, D')


class Supervision(Encoder):
    """What of a fused teacher supervises a student: layers and, as one more, its interface's output.

    layers: of the fused stack. own: upstream -> some of its own layers, standardised, on the fused frames.
    dtype: what the teacher computes in, by autocast; its features are float32 all the same.
    """

    def __init__(
        self,
        teacher: FusedTeacher,
        layers: Sequence[int],
        *,
        summary: bool,
        own: Mapping[str, Sequence[int]] | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.teacher, self.chosen, self.summary, self.dtype = teacher, list(layers), summary, dtype
        self.own = {name: list(chosen) for name, chosen in (own or {}).items()}
        self.grid = teacher.grid
        sources = [teacher.width] * bool(self.chosen) + [teacher.widths()[name] for name in self.own]
        self.told = max(sources)  # features of the widest layers; others are filled up with zeros
        self.width = max(self.told, teacher.interface.width) if summary else self.told
        self.layers = self.count() + summary

    def count(self) -> int:
        """Layers that supervise, without the interface's output."""
        return len(self.chosen) + sum(len(chosen) for chosen in self.own.values())

    def frames(self, samples_B: Tensor) -> Tensor:
        return self.teacher.frames(samples_B)

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        """Fused layers, the upstreams' own, the interface's output; all filled up with zeros to D features."""
        with torch.autocast(audio_BN.device.type, self.dtype, enabled=self.dtype != torch.float32):
            fused, aligned = self._hear(audio_BN, lengths_B)
        fused = replace(fused, hidden=fused.hidden.float())
        parts = [fused.hidden[:, self.chosen]] if self.chosen else []
        parts += [aligned[name].hidden[:, chosen].float() for name, chosen in self.own.items()]
        parts += [self.teacher.summary(fused).hidden] if self.summary else []
        filled = [nn.functional.pad(part, (0, self.width - part.shape[3])) for part in parts]
        return replace(fused, hidden=torch.cat(filled, 1))

    def _hear(self, audio_BN: Tensor, lengths_B: Tensor) -> tuple[Features, dict[str, Features]]:
        """The fused stack and, where they are wanted, each upstream's own on its frames."""
        if not self.own:
            return self.teacher(audio_BN, lengths_B), {}
        aligned = self.teacher.fusion.align([encoder(audio_BN, lengths_B) for encoder in self.teacher.encoders()])
        return self.teacher.fusion.fuse(aligned), dict(zip(self.teacher.upstreams, aligned, strict=True))

    def part(self, features: Features) -> tuple[Features, Tensor | None]:
        """Layers as wide as the widest, and the interface's output with its own width."""
        if not self.summary:
            return features, None
        count = self.count()
        output_BTD = features.hidden[:, count, :, : self.teacher.interface.width]
        return replace(features, hidden=features.hidden[:, :count, :, : self.told]), output_BTD

    def identity(self) -> dict[str, object]:
        """All that its features depend on but the audio, as plain data."""
        return {
            "teacher": module_digest(self.teacher),
            "layers": self.chosen,
            "own": self.own,
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
    with in_step(accelerator.device, supervision):
        if accelerator.is_main_process and not path.exists():  # never again once something is coded with it
            path.parent.mkdir(parents=True, exist_ok=True)
            sample = learned_from(supervision, clips, seconds, books, accelerator.device)
            sample.save(path)
    accelerator.wait_for_everyone()
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
