"""A probe: an interface and a head, trained on the frozen features of one encoder for one task."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import cos, nan, pi

import numpy as np
import torch
from torch import Tensor, nn

from distill.data.clips import Clips
from distill.encoders.frames import FrameCache
from distill.interface import INTERFACES
from distill.tasks import Task
from distill.tasks.asr import Spelled

SPELLING = 50  # frames a second, about, that a head which scores each of them is given at least
POOL = 8  # batches that are shuffled together, then sorted by length: little padding, still random


@dataclass(frozen=True)
class Budget:
    """What every probe of a task may spend, whatever encoder it listens to."""

    interface: str
    steps: int  # optimizer steps
    batch: int  # clips
    weight_decay: float  # AdamW's; 0 makes it Adam
    clip: float  # largest norm of the gradient
    warmup: float  # share of the steps
    decay: bool  # after it the rate falls to 0 by a cosine, or stays
    checks: int = 1  # how often validation is looked at, evenly over the steps; the best state is kept

    def __str__(self) -> str:
        """For a reader of a report."""
        kept = f", the best of {self.checks} states by validation" if self.checks > 1 else ""
        return f"{self.steps} steps of {self.batch} clips{kept}"


@dataclass(frozen=True)
class Split:
    """The clips of one split that a task uses, and where their features lie in the cache."""

    clips: Clips
    cache: FrameCache
    rows: np.ndarray  # (clips,) rows of the cache


class Probe(nn.Module):
    """Layers -> one vector per frame -> what the task's loss and score want.

    rate: of the frames. Where a task scores each frame and there are few, its head gets each of them several times:
    at 25 a second an eighth of the embedded corpus has fewer frames than characters.
    """

    def __init__(self, task: Task, interface: str, layers: int, width: int, rate: float):
        super().__init__()
        self.interface = INTERFACES[interface](layers, width)
        self.head = task.head(self.interface.width)
        self.times = max(round(SPELLING / rate), 1) if task.framewise else 1

    def forward(self, hidden_BLTD: Tensor, lengths_B: Tensor):
        if self.times == 1:
            return self.head(self.interface(hidden_BLTD), lengths_B)
        frames_BTD = self.interface(hidden_BLTD).repeat_interleave(self.times, dim=1)
        outputs = self.head(frames_BTD, lengths_B * self.times)
        return outputs if isinstance(outputs, Spelled) else Spelled(outputs, lengths_B * self.times)


@dataclass
class Best:
    """The state of a probe that scored best on validation, of those it was looked at in; of equals the first."""

    task: Task
    validation: Split
    budget: Budget
    value: float = nan
    state: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self):
        steps, checks = self.budget.steps, self.budget.checks
        self.steps = {round(steps * (i + 1) / checks) for i in range(checks)}  # after which it is looked at

    def look(self, probe: Probe, device: torch.device) -> None:
        """Keep the probe's weights if no earlier ones were as good; it goes on training as before."""
        value = score(self.task, probe, self.validation, self.budget.batch, device)[self.task.metric]
        probe.train()
        if not self.state or (value < self.value if self.task.lower_is_better else value > self.value):
            self.value, self.state = value, {name: weight.clone() for name, weight in probe.state_dict().items()}


def train(
    task: Task,
    split: Split,
    budget: Budget,
    rate: float,
    seed: int,
    device: torch.device,
    validation: Split | None = None,
) -> Probe | None:
    """A probe trained with this highest learning rate; None when it diverged. Equal seeds, equal probes.

    With a validation split, the best by it of `budget.checks` states, of which the last is one.
    """
    best = Best(task, validation, budget) if validation is not None and budget.checks > 1 else None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # dropout and masks draw too
        return _train(task, split, budget, rate, seed, device, best)


def _train(
    task: Task, split: Split, budget: Budget, rate: float, seed: int, device: torch.device, best: Best | None
) -> Probe | None:
    generator = torch.Generator().manual_seed(seed)
    layers, width = split.cache.hidden_FLD.shape[1:]
    probe = Probe(task, budget.interface, layers, width, split.cache.rate).to(device)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=budget.weight_decay, fused=True)
    targets = task.targets(split.clips)
    crop = None if task.crop_seconds is None else round(task.crop_seconds * split.cache.rate)
    lengths = split.cache.lengths[split.rows].numpy()
    for step, chosen in enumerate(batches(lengths, budget.batch, budget.steps, generator)):
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step, budget)
        hidden_BLTD, lengths_B = split.cache.batch(split.rows[chosen], crop, generator)
        outputs = probe(hidden_BLTD.to(device), lengths_B.to(device))
        total, count = task.loss(outputs, lengths_B.to(device), [targets[i] for i in chosen], step / budget.steps)
        if not bool(total.isfinite()):
            return None
        optimizer.zero_grad()
        (total / count).backward()
        nn.utils.clip_grad_norm_(probe.parameters(), budget.clip)
        optimizer.step()
        if best is not None and step + 1 in best.steps:
            best.look(probe, device)
    if not all(bool(weight.isfinite().all()) for weight in probe.parameters()):
        return None
    if best is not None:
        probe.load_state_dict(best.state)
    return probe


def score(task: Task, probe: Probe | None, split: Split, batch: int, device: torch.device) -> dict[str, float]:
    """The task's metrics on a whole split; the worst value for a probe that diverged."""
    if probe is None:
        return {task.metric: task.worst}
    return task.score(predict(task, probe, split, batch, device), split.clips)


@torch.no_grad()
def predict(task: Task, probe: Probe, split: Split, batch: int, device: torch.device) -> list:
    """The task's prediction for every clip of a split, in its order."""
    probe.eval()
    order = np.argsort(split.cache.lengths[split.rows].numpy(), kind="stable")
    predictions = [None] * len(order)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        hidden_BLTD, lengths_B = split.cache.batch(split.rows[chosen], None, None)
        lengths_B = lengths_B.to(device)
        outputs = probe(hidden_BLTD.to(device), lengths_B)
        for i, prediction in zip(chosen, task.predictions(outputs, lengths_B), strict=True):
            predictions[i] = prediction
    return predictions


def batches(lengths: np.ndarray, size: int, steps: int, generator: torch.Generator) -> Iterator[np.ndarray]:
    """So many batches of clips of similar length; every clip comes once before any comes again."""
    waiting: list[np.ndarray] = []
    for _ in range(steps):
        if not waiting:
            waiting = _shuffled(lengths, size, generator)
        yield waiting.pop()


def _shuffled(lengths: np.ndarray, size: int, generator: torch.Generator) -> list[np.ndarray]:
    order = torch.randperm(len(lengths), generator=generator).numpy()
    found = []
    for start in range(0, len(order), POOL * size):
        pool = order[start : start + POOL * size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        found += [pool[i : i + size] for i in range(0, len(pool), size)]
    return [found[i] for i in torch.randperm(len(found), generator=generator)]


def schedule(step: int, budget: Budget) -> float:
    """Share of the highest learning rate: linear up, then half a cosine down to 0 or level."""
    rising = budget.warmup * budget.steps
    if step < rising:
        return (step + 1) / (rising + 1)
    if not budget.decay:
        return 1.0
    return 0.5 * (1 + cos(pi * (step - rising) / (budget.steps - rising)))
