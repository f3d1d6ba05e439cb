"""What a run will take, before anything is loaded: parameters, multiply-adds, memory, disk, hours.

Models are built and run on fake tensors (torch.FakeTensorMode), which have shapes and no numbers: the count is of
the very operations that a run performs, and costs a second.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from distill.data.batches import accumulation
from distill.encoders.live import Live
from distill.losses import LOSSES
from distill.recipe import Recipe
from distill.runtime import BUCKET, LIVE

TYPICAL = {True: 2.0, False: 15.0}  # seconds of a clip of the embedded corpus, and of any other
SHORT = 1.0  # seconds of a clip; such clips go together too, as clips of like length make a pass
THROUGHPUTS = (100, 500, 2000)  # audio seconds per second
BESIDE = (  # measured in rehearsals of wavlm+whisper at base: LOG.md
    "  beside these, on a CPU: the framework, 0.8 GB; 0.4 GB that no tensor accounts for; the mapped corpus"
)
Inputs = Callable[[int, float], dict[str, Tensor]]  # clips, seconds of each -> what a stock model is called with
LossFunction = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # of distill.losses


@dataclass(frozen=True)
class Listener:
    """A stock model, an upstream or the student, on fake tensors."""

    name: str
    model: nn.Module
    inputs: Inputs
    layers: int  # L of its stack
    width: int  # D
    rate: float  # frames per second

    def weights(self) -> int:
        return sum(weight.numel() for weight in self.model.parameters())

    def stack(self, seconds: float, size: int) -> float:
        """Bytes of its layers for so much audio, in numbers of `size` bytes."""
        return seconds * self.rate * self.layers * self.width * size

    def macs(self, seconds: float) -> float:
        """Multiply-adds in a second of audio, of one clip of so many seconds."""
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.model(**self.inputs(1, seconds))
        return counter.get_total_flops() / 2 / seconds

    def hearing(self, clips: int, seconds: float) -> int:
        """Most bytes at once, beside its weights, while it listens to so many clips; its stack among them."""
        with torch.no_grad(), Live() as live:
            kept = self.model(**self.inputs(clips, seconds), output_hidden_states=True)
        del kept
        return live.peak

    def learning(self, clips: int, seconds: float, loss: Callable[[tuple[Tensor, ...]], Tensor]) -> int:
        """Most bytes at once in a forward and a backward pass, beside weights and the gradients of all of them."""
        self.model.zero_grad()  # of a count before this one
        with Live() as live:
            output = self.model(**self.inputs(clips, seconds), output_hidden_states=True)
            loss(output.hidden_states).backward()
        gradients = sum(w.grad.numel() * w.grad.element_size() for w in self.model.parameters() if w.grad is not None)
        return live.peak - gradients


Parts = tuple[list[Listener], Listener, int]  # upstreams, student, weights of fusion and interface


@dataclass(frozen=True)
class Load:
    """What is asked of a run, from its recipe and its machine."""

    clips: int  # in one forward pass
    seconds: float  # of each clip
    pairs: int  # K target layers, the interface's output among them
    zero: int  # DeepSpeed ZeRO stage
    processes: int
    shares: int  # processes that share the upstreams' weights; 1: each holds all of them

    @classmethod
    def of(cls, recipe: Recipe, machine: Path) -> "Load":
        """Of distillation with a recipe, as it was launched, or else as an accelerate config file would launch it."""
        config, settings = yaml.safe_load(machine.read_text()), recipe.distill
        zero = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") or config["deepspeed_config"]["zero_stage"])
        spoken = recipe.data.corpus == "embedded" and not settings.stream.name
        processes, seconds = int(os.environ.get("WORLD_SIZE") or config["num_processes"]), TYPICAL[spoken]
        passes = accumulation(settings.batch_seconds, settings.forward_seconds, processes)
        clips = max(round(settings.batch_seconds / passes / processes / seconds), 1)
        pairs = len(settings.sources(recipe.teacher.upstreams)) * settings.layers + (settings.interface_weight > 0)
        shares = processes if recipe.teacher.shard else 1
        return cls(clips, seconds, pairs, zero, processes, shares)


def trained(weights: int, zero: int, processes: int) -> float:
    """Bytes of what trains, per process, in float32: weights, gradients, and Adam's copy and two moments.

    ZeRO 1 shares out the optimizer, 2 the gradients too, 3 the weights too (arXiv 1910.02054); 0 has no copy.
    """
    parts = {"weights": 4.0, "gradients": 4.0, "optimizer": 8.0 if zero == 0 else 12.0}
    shared = {"optimizer": 1, "gradients": 2, "weights": 3}
    return weights * sum(size / (processes if zero >= shared[part] else 1) for part, size in parts.items())


def at_hand(upstreams: list[Listener], shares: int) -> float:
    """How many of the upstreams' weights a process holds: its share, and what a pass gathers at once."""
    weights = [one.weights() for one in upstreams]
    return sum(weights) / shares + (min(max(weights), LIVE) if shares > 1 else 0)


def bucket(zero: int) -> float:
    """Bytes in which DeepSpeed collects gradients while the student learns; ZeRO 0 has none."""
    return 4.0 * BUCKET if zero else 0.0


def stepping(weights: int, zero: int, processes: int) -> float:
    """Bytes beside `trained` while the optimizer steps: the gradients flattened once more, and two of Adam's own.

    Each is of a process's share; without ZeRO they are of one weight at a time, and are not counted.
    """
    return 12.0 * weights / processes if zero else 0.0


def fused(upstreams: list[Listener], load: Load, size: int) -> tuple[float, float]:
    """Bytes of all upstreams' stacks together, and of one fused stack, for one forward pass."""
    seconds = load.clips * load.seconds
    rate, layers = max(one.rate for one in upstreams), max(one.layers for one in upstreams)
    width = max(one.width for one in upstreams)
    return sum(one.stack(seconds, size) for one in upstreams), seconds * rate * layers * width * size


def listening(upstreams: list[Listener], load: Load, size: int) -> float:
    """Most bytes of the teacher's pass: an upstream beside the stacks of those before it, or the fusion.

    An upstream's own pass ends with three copies of its stack (its states, joined, padding set to zero); the
    fusion holds every stack, every aligned stack, and two more while it interpolates.
    """
    seconds, before, most = load.clips * load.seconds, 0.0, 0.0
    for one in upstreams:
        stack = one.stack(seconds, size)
        most = max(most, before + max(one.hearing(load.clips, load.seconds), 3 * stack))
        before += stack
    stacks, whole = fused(upstreams, load, size)
    return max(most, stacks + (len(upstreams) + 2) * whole if len(upstreams) > 1 else 2 * stacks)


def targets(upstreams: list[Listener], load: Load, size: int) -> float:
    """Bytes of a second's targets."""
    return max(one.rate for one in upstreams) * max(one.width for one in upstreams) * load.pairs * size


def learning(student: Listener, load: Load, width: int, loss: LossFunction, *, half: bool) -> float:
    """Most bytes of the student's two passes against targets of `width` features; half: bfloat16 by autocast."""
    pairs, heads = load.pairs, nn.ModuleList(nn.Linear(student.width, width) for _ in range(load.pairs))

    def compare(hidden: tuple[Tensor, ...]) -> Tensor:
        layers = [hidden[-1 - pair % len(hidden)] for pair in range(pairs)]  # several sources have a layer told
        predicted = torch.stack([head(layer) for head, layer in zip(heads, layers, strict=True)], 1)
        target = torch.zeros(predicted.shape)
        return loss(predicted, target, torch.ones(len(predicted), predicted.shape[2], dtype=torch.bool))[0].sum()

    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        bytes_ = student.learning(load.clips, load.seconds, compare)
    return bytes_ - 4 * pairs * (student.width + 1) * width  # the heads' gradients, which `trained` counts


def memory(
    upstreams: list[Listener], student: Listener, fitted: int, load: Load, loss: LossFunction, *, half: bool
) -> dict[str, float]:
    """Bytes per process by what they are for; with `half` the upstreams must be bfloat16 already.

    fitted: weights of fusion and interface. The teacher listens, then the student learns, then the optimizer steps, so
    only the largest of these three counts in the sum. A copy of the student waits on the CPU for what it will be.
    """
    width, size = max(one.width for one in upstreams), 2 if half else 4
    weights = student.weights() + load.pairs * (student.width + 1) * width
    held = {
        "upstreams, fusion, interface": size * at_hand(upstreams, load.shares) + 4.0 * fitted,
        "student, heads: weights, gradients, Adam": trained(weights, load.zero, load.processes),
        "a copy of them, on the CPU": 0.0 if half else 4.0 * weights,
    }
    passing = {
        "while the teacher listens": listening(upstreams, load, size),
        "while the student learns": learning(student, load, width, loss, half=half) + bucket(load.zero),
        "while the optimizer steps": stepping(weights, load.zero, load.processes),
    }
    return held | passing | {"most at once": sum(held.values()) + max(passing.values())}


def outlook(recipe: Recipe, parts: Callable[[torch.dtype], Parts], machine: Path) -> str:
    """The plan as plain text, in float32 as a CPU computes and in bfloat16 as a GPU does; call it in FakeTensorMode."""
    load, loss = Load.of(recipe, machine), LOSSES[recipe.distill.loss]
    upstreams, student, fitted = parts(torch.float32)
    lines = [f"{recipe.recipe} at scale {recipe.scale}; nothing was loaded", ""]
    lines += [f"{'':<44}{'parameters':>12}{'GMAC/s':>10}{'layers':>10}{'width':>8}"]
    for one in (*upstreams, student):
        work = f"{one.macs(load.seconds) / 1e9:.2f}"
        lines += [f"{one.name:<44}{one.weights() / 1e6:>10.2f} M{work:>10}{one.layers:>10}{one.width:>8}"]
    lines += [f"{'fusion and interface':<44}{fitted / 1e6:>10.2f} M", ""]
    kinds = {"float32": (upstreams, student, fitted), "bfloat16": parts(torch.bfloat16)}
    rows = {name: memory(*built, load, loss, half=name == "bfloat16") for name, built in kinds.items()}
    short = replace(load, clips=max(round(load.clips * load.seconds / SHORT), 1), seconds=SHORT)
    for name, built in kinds.items():
        worst = memory(*built, short, loss, half=name == "bfloat16")["most at once"]
        rows[name][f"most at once, of {short.clips} clips of {SHORT:g} s"] = worst
    heading = f"GB per process ({load.processes}, ZeRO {load.zero}), {load.clips} x {load.seconds:g} s in a pass"
    lines += [f"{heading:<44}" + "".join(f"{name:>12}" for name in rows)]
    for part in rows["float32"]:
        lines += [f"  {part:<42}" + "".join(f"{row[part] / 1e9:>12.2f}" for row in rows.values())]
    lines += [BESIDE, ""]
    lines += [f"targets of an hour of audio in float16: {3600 * targets(upstreams, load, 2) / 1e9:.2f} GB"]
    lines += time_lines(recipe.distill.steps * recipe.distill.batch_seconds)
    return "\n".join([*lines, scoring(recipe), features(recipe, upstreams)])


def scoring(recipe: Recipe) -> str:
    """Which corpora are heard by the evaluation, and for which tasks."""
    corpora: dict[str, list[str]] = {}
    for task in recipe.evaluate.tasks:
        corpora.setdefault(recipe.corpus_of(task), []).append(task)
    heard = "; ".join(f"{', '.join(tasks)} on {corpus}" for corpus, tasks in corpora.items())
    return f"evaluation, {recipe.evaluate.heads} heads: {heard}"


def features(recipe: Recipe, upstreams: list[Listener]) -> str:
    """What is kept of the largest row, the teacher's, while it is scored on a task."""
    deep, wide = max(one.layers for one in upstreams), max(one.width for one in upstreams)
    hour = 3600 * max(one.rate for one in upstreams) * deep * wide * 2
    place = {"memory": "in memory", "disk": "on the disk"}[recipe.evaluate.cache]
    return (
        f"features of an hour of audio: {hour / 1e9:.2f} GB {place}; {recipe.evaluate.train_clips} clips at most learn"
    )


def time_lines(seconds: float) -> list[str]:
    """Hours of distillation by the throughput of all processes together."""
    hours = ", ".join(f"{seconds / 3600 / rate:.1f} h at {rate}" for rate in THROUGHPUTS)
    return [f"distillation hears {seconds / 3600:.1f} h of audio: {hours} audio seconds per second"]
