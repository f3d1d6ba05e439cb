"""Batches by seconds of audio: who hears which clips in which step, as a pure function of the seed.

The unit is the optimizer step: its clips are drawn first and then dealt to processes and forward passes, so that
the number of processes changes nothing but the order of sums.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from distill.data.clips import Clips, pad
from distill.features import SAMPLE_RATE

BLUR = 0.15  # seconds by which lengths are blurred before sorting, so that batches differ from epoch to epoch


@dataclass(frozen=True)
class Batch:
    """What one process hears in one forward pass."""

    rows: np.ndarray  # (B,) of the clips
    ids: list[str]
    audio: Tensor  # (B, N) float32, zeros after each clip
    lengths: Tensor  # (B,) samples
    counts: Tensor  # (J,) what each part of the loss is divided by: totals over the whole optimizer step
    weight: float = 1.0  # of its loss and of what is told of it; 0: another pass of the step hears these clips too

    def to(self, device: torch.device) -> "Batch":
        parts = (moved(part, device) for part in (self.audio, self.lengths, self.counts))
        return Batch(self.rows, self.ids, *parts, weight=self.weight)

    def seconds(self) -> float:
        return self.weight * float(self.lengths.sum()) / SAMPLE_RATE


def moved(part: Tensor, device: torch.device) -> Tensor:
    """On the device; to a GPU from pinned memory, so that copying does not wait for what is computed there."""
    return (part.pin_memory() if device.type == "cuda" else part).to(device, non_blocking=True)


def epoch(samples: np.ndarray, batch_seconds: float, seed: int, number: int, blur: float = BLUR) -> list[np.ndarray]:
    """One epoch's steps: every clip once, clips of like length together, about `batch_seconds` in each.

    blur: seconds by which lengths may seem other than they are; more mixes more, and pads more.
    """
    rng = np.random.default_rng([seed, number])
    order = np.argsort(samples + rng.uniform(0, blur * SAMPLE_RATE, len(samples)), kind="stable")
    heard = np.cumsum(samples[order]) / SAMPLE_RATE
    steps = max(int(np.ceil(heard[-1] / batch_seconds)), 1)
    step_of = np.minimum((heard - 1e-9) * steps / heard[-1], steps - 1).astype(int)  # equal shares, no small rest
    groups = np.split(order, np.flatnonzero(np.diff(step_of)) + 1)
    return [groups[i] for i in rng.permutation(len(groups))]


def deal(rows: np.ndarray, samples: np.ndarray, parts: int) -> list[np.ndarray]:
    """A step's clips in `parts` hands of about as many seconds, longest clips first, so that each hand pads little.

    No hand is empty but the last ones, where there are fewer clips than hands.
    """
    order = rows[np.argsort(-samples[rows], kind="stable")]
    if len(rows) < parts:
        return np.split(order, np.arange(1, parts))
    middles = np.cumsum(samples[order]) - samples[order] / 2
    number = np.arange(1, parts)
    cuts = np.searchsorted(middles, samples[order].sum() * number / parts)
    cuts = np.maximum.accumulate(np.maximum(cuts - number, 0)) + number  # no hand is empty
    return np.split(order, np.minimum(cuts, len(order) - parts + number))


def accumulation(batch_seconds: float, forward_seconds: float, processes: int) -> int:
    """Forward passes per step and process, so that none hears much more than `forward_seconds`."""
    return max(int(np.ceil(batch_seconds / (forward_seconds * processes) - 1e-9)), 1)


class Batches(Dataset):
    """All forward passes of one process, in order; item i belongs to step `start + i // passes`.

    counts: rows of a whole step -> what its losses are divided by, (J,).
    """

    def __init__(
        self,
        clips: Clips,
        counts: Callable[[np.ndarray], Tensor],
        *,
        batch_seconds: float,
        seed: int,
        start: int,
        steps: int,
        passes: int,
        process: int,
        processes: int,
        blur: float = BLUR,
    ):
        self.clips, self.counts = clips, counts
        self.batch_seconds, self.seed = batch_seconds, seed
        self.start, self.steps, self.passes = start, steps, passes
        self.process, self.processes = process, processes
        self._epoch = lru_cache(maxsize=2)(lambda number: epoch(clips.samples, batch_seconds, seed, number, blur))

    def __len__(self) -> int:
        return (self.steps - self.start) * self.passes

    def __getitem__(self, item: int) -> Batch:
        if item >= len(self):
            raise IndexError(item)
        step, forward = self.start + item // self.passes, item % self.passes
        whole = self.rows(step)
        hands = deal(whole, self.clips.samples, self.passes * self.processes)
        own = hands[forward * self.processes + self.process]
        # processes must agree on what there is to reduce: one without a clip hears another's shortest, for nothing
        rows = own if len(own) else whole[[self.clips.samples[whole].argmin()]]
        audio_BN, lengths_B = pad([self.clips.audio(row) for row in rows])
        ids = [self.clips.ids[row] for row in rows]
        return Batch(rows, ids, audio_BN, lengths_B, self.counts(whole), float(len(own) > 0))

    def rows(self, step: int) -> np.ndarray:
        """The clips of one optimizer step, whoever hears them."""
        steps_per_epoch = len(self._epoch(0))
        return self._epoch(step // steps_per_epoch)[step % steps_per_epoch]
