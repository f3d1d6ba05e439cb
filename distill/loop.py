"""The one training loop. It knows no model, no teacher and no task: an Objective says what a batch costs."""

import json
import math
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from distill.checkpoint import Checkpoints
from distill.data.batches import BLUR, Batch, Batches
from distill.data.clips import Clips
from distill.data.workers import in_order


class NonFiniteLossError(ValueError):
    """A loss that is not a number; the step it belongs to was not taken."""


class Feed(Protocol):
    """Batches of another origin than an objective's clips: of a stream, whose lengths nobody knows before."""

    @property
    def place(self) -> dict:
        """What comes after the step under way, as plain data, for a checkpoint."""
        ...

    def batches(self, steps: int, place: dict | None) -> Generator[Batch]:
        """This process's forward passes of so many steps, from a place that a checkpoint kept."""
        ...


class Objective(Protocol):
    """What is trained, on what, and what is told about it."""

    @property
    def clips(self) -> Clips: ...

    def counts(self, rows: np.ndarray) -> Tensor:
        """What the losses of a step of these clips are divided by: (J,)."""
        ...

    def outcome(self, model: nn.Module, batch: Batch, progress: float) -> tuple[Tensor, Tensor]:
        """Loss, divided by the step's counts already, and a float64 tally (S,); both are summed by batches' weights."""
        ...

    def read(self, tally: Tensor) -> dict[str, float]:
        """The summed tally in words, for the log; the first entry is shown beside the progress bar."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long and how fast; seconds are of audio, steps are optimizer steps."""

    stage: str
    seed: int
    steps: int
    batch_seconds: float
    passes: int  # forward passes per step and process
    learning_rate: float  # the highest
    warmup: float  # share of the steps
    save_every: int
    log_every: int
    workers: int = 0  # processes that decode ahead
    blur: float = BLUR  # seconds, of lengths in a batch


def optimizer(module: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what is trained; biases and norms do not decay. `train` sets the learning rate at every step."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if weight.ndim > 1], "weight_decay": weight_decay},
        {"params": [weight for weight in trained if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=(0.9, 0.98))


def rate(plan: Plan, step: int) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine down to a hundredth."""
    done, warm = step / plan.steps, plan.warmup
    if done < warm:
        return plan.learning_rate * (done + 1 / plan.steps) / (warm + 1 / plan.steps)
    down = 0.5 + 0.5 * math.cos(math.pi * (done - warm) / (1 - warm))
    return plan.learning_rate * (0.01 + 0.99 * down)


def train(
    accelerator: Accelerator,
    model: nn.Module,
    trainer: torch.optim.Optimizer,
    objective: Objective,
    plan: Plan,
    folder: Path,
    feed: Feed | None = None,
) -> None:
    """Train a prepared model, going on from the newest checkpoint in `folder/checkpoints/<stage>`.

    feed: what is heard; None: the objective's clips. Raises NonFiniteLossError before the step that would have used it.
    """
    checkpoints = Checkpoints(folder / "checkpoints" / plan.stage)
    start = checkpoints.load(accelerator)
    journal = Journal(accelerator, plan, objective.read, folder / "metrics.jsonl", start)
    if feed is None:
        batches = dealt(accelerator, objective, plan, start)
    else:
        batches = feed.batches(plan.steps - start, checkpoints.place(accelerator))
    passes = accelerator.num_processes * plan.passes  # DeepSpeed averages over these; we have divided already
    watch = Watch(accelerator)
    with closing(journal), closing(batches):
        for item, batch in enumerate(batches):
            step = start + item // plan.passes
            if item % plan.passes == 0:
                for group in trainer.param_groups:
                    group["lr"] = rate(plan, step)
            torch.manual_seed(seed_of(plan.seed, item + start * plan.passes, accelerator.process_index))
            with accelerator.accumulate(model):
                loss, tally = objective.outcome(model, batch.to(accelerator.device), step / plan.steps)
                watch.add(loss, batch.ids)
                if (item + 1) % plan.passes == 0:
                    watch.demand_finite(step)
                accelerator.backward(loss * (batch.weight * passes))
                trainer.step()
                trainer.zero_grad()
            journal.add(tally, batch)
            if (item + 1) % plan.passes == 0:
                journal.step(step + 1, rate(plan, step))
                if (step + 1) % plan.save_every == 0 and step + 1 < plan.steps:
                    checkpoints.save(accelerator, step + 1, feed.place if feed else None)


def dealt(accelerator: Accelerator, objective: Objective, plan: Plan, start: int) -> Generator[Batch]:
    """This process's forward passes over the objective's clips, from a step on."""
    batches = Batches(
        objective.clips,
        objective.counts,
        batch_seconds=plan.batch_seconds,
        seed=plan.seed,
        start=start,
        steps=plan.steps,
        passes=plan.passes,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
        blur=plan.blur,
    )
    return in_order(batches, plan.workers)


def seed_of(seed: int, number: int, process: int) -> int:
    """The seed of one forward pass, so that a run that was interrupted draws what it would have drawn."""
    return int(np.random.SeedSequence([seed, number, process]).generate_state(1)[0])


class Watch:
    """Keeps an eye on the losses of a step, and asks all processes about them once, before its last backward pass.

    Asking costs a reduction and, on a GPU, a wait for all that was queued: once a step, not once a pass.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.seen: list[tuple[Tensor, list[str]]] = []

    def add(self, loss: Tensor, ids: list[str]) -> None:
        """Remember the loss of a pass and whose it is."""
        self.seen.append((loss.detach(), ids))

    def demand_finite(self, step: int) -> None:
        """Raise NonFiniteLossError in every process if a loss of any is not a number."""
        losses = torch.stack([loss for loss, _ in self.seen])
        bad = (~losses.isfinite()).sum().float()
        if float(cast(Tensor, self.accelerator.reduce(bad, "sum"))) > 0:
            own = [(float(loss), ids) for loss, ids in self.seen if not bool(loss.isfinite())]
            value, ids = own[0] if own else (float(losses[-1]), [])
            shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
            whose = f"clips {shown}" if own else "clips of another process"
            raise NonFiniteLossError(
                f"step {step}: the loss is {value} ({whose}); the step was not taken. "
                "Listen to these clips, or lower learning_rate; the last checkpoint is kept"
            )
        self.seen.clear()


class Journal:
    """The log of a stage: a progress bar, `metrics.jsonl`, and the trackers of accelerate."""

    def __init__(
        self,
        accelerator: Accelerator,
        plan: Plan,
        read: Callable[[Tensor], dict[str, float]],
        path: Path,
        start: int,
    ):
        self.accelerator, self.plan, self.read, self.path = accelerator, plan, read, path
        self._forget(start)
        slow = not sys.stderr.isatty()
        self.bar = tqdm(
            total=plan.steps,
            initial=start,
            desc=plan.stage,
            unit="step",
            mininterval=15 if slow else 0.5,
            disable=not accelerator.is_main_process,
        )
        self._restart()

    def _forget(self, start: int) -> None:
        """Take back what an interrupted run wrote about steps that are now taken again."""
        if not self.accelerator.is_main_process or not self.path.exists():
            return
        lines = [json.loads(line) for line in self.path.read_text().splitlines() if line.endswith("}")]
        kept = [line for line in lines if line["stage"] != self.plan.stage or line["step"] <= start]
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text("".join(json.dumps(line) + "\n" for line in kept))
        unfinished.replace(self.path)

    def _restart(self) -> None:
        self.tally, self.seconds, self.since = torch.zeros(0), 0.0, time.perf_counter()

    def add(self, tally: Tensor, batch: Batch) -> None:
        """Count a forward pass in."""
        counted = batch.weight * tally.detach()
        self.tally = counted if self.tally.numel() == 0 else self.tally + counted
        self.seconds += batch.seconds()

    def step(self, step: int, learning_rate: float) -> None:
        """An optimizer step was taken; every `log_every` of them the log gets a line."""
        self.bar.update()
        if step % self.plan.log_every and step != self.plan.steps:
            return
        heard = torch.tensor([self.seconds], dtype=torch.float64, device=self.tally.device)
        summed = self.accelerator.reduce(torch.cat([self.tally.double(), heard]), "sum")
        values = self.read(summed[:-1])
        values["learning_rate"] = learning_rate
        values["seconds"] = time.perf_counter() - self.since
        values["audio_seconds_per_second"] = float(summed[-1]) / values["seconds"]
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps({"stage": self.plan.stage, "step": step} | values) + "\n")
        self.accelerator.log({f"{self.plan.stage}/{name}": value for name, value in values.items()}, step=step)
        shown = next(iter(values))
        self.bar.set_postfix_str(f"{shown} {values[shown]:.3f}, {values['audio_seconds_per_second']:.0f} x real time")
        self._restart()

    def close(self) -> None:
        self.bar.close()
