"""The loop we compare with, as distillers are commonly published, on the same clips and architectures.

Clips drawn at random and padded to the longest of the batch, all frames heard and all in the loss, the teacher
online in every epoch, float32, AdamW and a plain torch loop.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.clock import Clock
from benchmarks.steps import Feed, distilling, time_steps
from distill.data.batches import Batch
from distill.data.clips import Clips, pad
from distill.features import SAMPLE_RATE, Encoder
from distill.recipe import Distill
from distill.supervision.targets import Supervision, online
from distill.teacher import FusedTeacher


class Plain:
    """A module and its optimizer, and nothing between them and torch."""

    def __init__(self, module: nn.Module, clip: float):
        self.module, self.clip = module, clip
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=0.0)

    def __call__(self, *inputs):
        return self.module(*inputs)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        if self.clip:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()


def drawn(clips: Clips, seconds: float) -> Iterator[np.ndarray]:
    """Rows of batches of as many clips as have `seconds` on the average, in no order."""
    count = max(round(seconds * len(clips) / clips.seconds()), 1)
    order = np.random.default_rng(0).permutation(len(clips))
    while True:
        yield np.resize(order, count)
        order = np.roll(order, -count)


def whole(clips: Clips, student: Encoder, seconds: float) -> Feed:
    """Batches whose padding counts as speech, and the seconds in them that are."""
    for rows in drawn(clips, seconds):
        audio_BN, lengths_B = pad([clips.audio(row) for row in rows])
        full_B = torch.full_like(lengths_B, audio_BN.shape[1])
        frames = student.frames(full_B).sum().double()[None]
        yield (
            Batch(rows, [clips.ids[row] for row in rows], audio_BN, full_B, frames),
            float(lengths_B.sum()) / SAMPLE_RATE,
        )


def reference(clock: Clock, supervision: Supervision, student: Encoder, clips: Clips, settings: Distill) -> dict:
    """What a step of the plain loop costs; one pass of `batch_seconds`, as far as memory allows one."""
    teacher: FusedTeacher = supervision.teacher
    module, objective = distilling(clock, teacher, deepcopy(student), clips, online(supervision), settings)
    seconds = min(settings.batch_seconds, settings.forward_seconds)
    module.train()
    return time_steps(clock, Plain(module, settings.clip), objective, whole(clips, student, seconds), 1)


def ratios(steps: dict[str, dict], write: Mapping[str, float], epochs: int = 10) -> dict[str, float]:
    """How much faster than the reference we are, in audio-seconds per second.

    Over so many epochs every clip is heard by the teacher once, at `write` audio-seconds per second for each kind.
    """
    plain = steps["reference"]["rate"]
    found = {name: step["rate"] / plain for name, step in steps.items() if name.startswith("distill")}
    for name, once in write.items():
        cost = 1 / once + epochs / steps[f"distill, {name}"]["rate"]
        found[f"{epochs} epochs, {name}"] = epochs / plain / cost
    return found


def break_even(steps: dict[str, dict], write: Mapping[str, float]) -> dict[str, float | None]:
    """Epochs from which on hearing every clip once, at `write` audio-seconds per second, beats online; None: never."""
    live = 1 / steps["distill, online"]["rate"]
    saved = {name: live - 1 / steps[f"distill, {name}"]["rate"] for name in write}
    return {name: 1 / write[name] / saved[name] if saved[name] > 0 else None for name in write}
