"""The fit stage: calibrate the scales of the upstreams, train what the fusion learns, the interface, the task heads."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distill import runtime
from distill.data.batches import Batch, epoch
from distill.data.clips import Clips, pad
from distill.encoders.sharding import in_step
from distill.features import SAMPLE_RATE, Encoder, Features
from distill.fusion import Fusion, Moments, Standardiser
from distill.interface import Interface
from distill.loop import Plan, optimizer, train
from distill.tasks import Task
from distill.teacher import FusedTeacher

SHARE = 60.0  # seconds of audio in one pass of a calibration


@dataclass(frozen=True)
class Labels:
    """What a task wants of each training clip; None where the clip is none of its own."""

    task: Task
    targets: list[Tensor | None]

    @classmethod
    def of(cls, task: Task, clips: Clips) -> "Labels":
        rows = task.select(clips)
        ready = task.prepare(clips.select(rows))
        targets: list[Tensor | None] = [None] * len(clips)
        for row, target in zip(rows, ready.targets(clips.select(rows)), strict=True):
            targets[row] = target
        return cls(ready, targets)

    def count(self, rows: np.ndarray) -> int:
        """Labels of these clips: characters for recognition, one a clip for a class."""
        return sum(target.numel() for row in rows if (target := self.targets[row]) is not None)


class Fitting(nn.Module):
    """What fit trains, as one module: the fusion's own weights, one interface, a head for each task."""

    def __init__(self, fusion: Fusion, interface: Interface, tasks: Sequence[Task]):
        super().__init__()
        self.fusion, self.interface = fusion, interface
        self.tasks = {task.name: task for task in tasks}
        self.heads = nn.ModuleDict({task.name: task.head(interface.width) for task in tasks})

    def forward(self, stacks: list[Features], targets: dict[str, list[Tensor | None]], progress: float) -> Tensor:
        """Loss sums of every task over its own clips: (J,)."""
        fused = self.fusion(stacks)
        frames_BTD = self.interface(fused.hidden)
        return torch.stack(
            [self._task(name, frames_BTD, fused.lengths, targets[name], progress) for name in self.tasks]
        )

    def _task(
        self, name: str, frames_BTD: Tensor, lengths_B: Tensor, targets: list[Tensor | None], progress: float
    ) -> Tensor:
        rows = [row for row, target in enumerate(targets) if target is not None]
        # A head is called even when it has no clip: processes must agree on what there is to reduce.
        heard = torch.tensor(rows or [0], device=frames_BTD.device)
        outputs = self.heads[name](frames_BTD[heard], lengths_B[heard])
        if not rows:
            parts = outputs if isinstance(outputs, tuple) else (outputs,)
            return 0.0 * sum((part.sum() for part in parts), start=frames_BTD.new_zeros(()))
        wanted = [target for target in targets if target is not None]
        return self.tasks[name].loss(outputs, lengths_B[heard], wanted, progress)[0]


@dataclass(frozen=True)
class Fit:
    """The objective: the tasks' losses, each averaged over its labels, with equal weights."""

    clips: Clips
    upstreams: Sequence[Encoder]
    labels: Sequence[Labels]

    def counts(self, rows: np.ndarray) -> Tensor:
        """Labels per task in a step, at least 1: (J,)."""
        return torch.tensor([float(max(labels.count(rows), 1)) for labels in self.labels])

    def outcome(self, model: nn.Module, batch: Batch, progress: float) -> tuple[Tensor, Tensor]:
        stacks = [upstream(batch.audio, batch.lengths) for upstream in self.upstreams]
        targets = {labels.task.name: [labels.targets[row] for row in batch.rows] for labels in self.labels}
        sums_J = model(stacks, targets, progress)
        counts_J = torch.tensor([float(labels.count(batch.rows)) for labels in self.labels], device=sums_J.device)
        return (sums_J / batch.counts).sum(), torch.cat([sums_J.detach(), counts_J]).double()

    def read(self, tally: Tensor) -> dict[str, float]:
        """The mean loss of every task and, first, their sum."""
        sums_J, counts_J = tally.view(2, -1)
        losses = (sums_J / counts_J.clamp(min=1)).tolist()
        values = {f"loss_{labels.task.name}": loss for labels, loss in zip(self.labels, losses, strict=True)}
        return {"loss": float(sum(losses))} | values


def measure(
    accelerator: Accelerator,
    encoders: Sequence[Encoder],
    standardisers: Sequence[Standardiser],
    clips: Clips,
    seconds: float,
    seed: int,
) -> None:
    """Calibrate one standardiser per encoder on about `seconds` of audio, shared out to all processes."""
    moments = [standardise.moments(accelerator.device) for standardise in standardisers]
    heard = list(calibrating(clips.samples, seconds, seed))
    with in_step(accelerator.device, *encoders), torch.no_grad():
        for rows in heard[accelerator.process_index :: accelerator.num_processes]:
            audio_BN, lengths_B = (part.to(accelerator.device) for part in pad([clips.audio(row) for row in rows]))
            for encoder, moment in zip(encoders, moments, strict=True):
                moment.update(encoder(audio_BN, lengths_B))
    for standardise, moment in zip(standardisers, moments, strict=True):
        summed = [cast(Tensor, accelerator.reduce(part, "sum")) for part in moment.state()]
        standardise.calibrate(Moments(*summed))


def calibrating(samples: np.ndarray, seconds: float, seed: int) -> Iterator[np.ndarray]:
    """Rows of passes over about so many seconds."""
    heard = 0.0
    for rows in epoch(samples, SHARE, seed, 0):
        if heard >= seconds:
            return
        heard += samples[rows].sum() / SAMPLE_RATE
        yield rows


def fit(
    accelerator: Accelerator,
    teacher: FusedTeacher,
    tasks: Sequence[Task],
    clips: Clips,
    weight_decay: float,
    plan: Plan,
    folder: Path,
) -> dict[str, Tensor]:
    """Train what a calibrated teacher's fusion learns and its interface, with a head for each task.

    The teacher has learned when this returns; what returns are the heads' weights by name.
    """
    labels = [Labels.of(task, clips) for task in tasks]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        module = Fitting(deepcopy(teacher.fusion), deepcopy(teacher.interface), [one.task for one in labels])
    model, trainer = accelerator.prepare(module, optimizer(module, weight_decay))
    train(accelerator, model, trainer, Fit(clips, teacher.encoders(), labels), plan, folder)
    weights = runtime.weights(accelerator, model)
    teacher.fusion.load_state_dict(_part(weights, "fusion."))
    teacher.interface.load_state_dict(_part(weights, "interface."))
    return _part(weights, "heads.")


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
