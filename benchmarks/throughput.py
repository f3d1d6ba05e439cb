"""Throughput: audio seconds per second in every stage of a recipe, and where the time of a training step goes.

python benchmarks/throughput.py [recipe=wavlm+whisper] [key=value ...]
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch import nn

from distill import runtime
from distill.data.batches import Batch, Batches, accumulation
from distill.data.clips import Clips
from distill.data.corpora import load_splits
from distill.distillation import Distillation, build
from distill.distiller import Distiller, pairs
from distill.evaluation import Evaluate
from distill.features import SAMPLE_RATE, Encoder
from distill.files import write_json
from distill.fit import Fit, Fitting, Labels
from distill.frames import FrameCache, by_length
from distill.frozen import Frozen
from distill.fusion import Standardiser
from distill.loading import load
from distill.logmel import LogMel
from distill.loop import optimizer
from distill.probe import Split, train
from distill.recipe import Distill, Recipe
from distill.targets import Supervision, Targets, memory, online
from distill.tasks import TASKS
from distill.tasks.task import draw
from distill.teacher import FusedTeacher
from students import make_student
from teachers import FAMILIES, build_teacher

MACHINE = Path(__file__).resolve().parent.parent / "accelerate_config.yaml"
WARM, STEPS = 2, 5  # repetitions that are not counted, and those that medians are taken over
PROGRESS = 0.5  # at which fit is measured: its first quarter has a cheaper loss than CTC
POOL = 160  # clips that probes are trained on


class Clock:
    """Seconds by part. Parts lie inside each other, and a second belongs to the innermost alone."""

    def __init__(self, device: torch.device):
        self.device, self.open, self.since = device, [], 0.0
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.enter(name)
        yield
        self.leave()

    def watch(self, name: str, module: nn.Module) -> None:
        """The forward passes of a module are a part."""
        module.register_forward_pre_hook(lambda module, inputs: self.enter(name))
        module.register_forward_hook(lambda module, inputs, output: self.leave())

    def enter(self, name: str) -> None:
        self._turn()
        self.open.append(name)

    def leave(self) -> None:
        self._turn()
        self.open.pop()

    def _turn(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = perf_counter()
        if self.open:
            self.seconds[self.open[-1]] += now - self.since
        self.since = now


def fitting(clock: Clock, teacher: FusedTeacher, tasks: list[str], clips: Clips) -> tuple[Fitting, Fit]:
    """What fit trains, and its objective."""
    labels = [Labels.of(TASKS[name], clips) for name in tasks]
    module = Fitting(deepcopy(teacher.fusion), deepcopy(teacher.interface), [one.task for one in labels])
    clock.watch("fusion", module.fusion)
    clock.watch("interface", module.interface)
    return module, Fit(clips, teacher.encoders(), labels)


def distilling(
    clock: Clock, teacher: FusedTeacher, student: Encoder, clips: Clips, targets: Targets, settings: Distill
) -> tuple[Distiller, Distillation]:
    """What distillation trains, and its objective."""
    chosen = pairs(student.layers, teacher.layers, settings.layers)
    module = build(deepcopy(student), teacher, settings, chosen, 0)
    clock.watch("student", module.student)

    def timed(batch: Batch):
        with clock.part("targets"):
            return targets(batch)

    return module, Distillation(clips, student, timed, len(chosen), teacher.width)


def training(clock: Clock, module: nn.Module, objective, settings, passes: int) -> dict:
    """`time_steps` under DeepSpeed. The learning rate stays 0: nothing is learned, at the same cost."""
    accelerator = runtime.start(MACHINE, accumulation=passes, clip=settings.clip)
    engine, _ = accelerator.prepare(module, optimizer(module, settings.weight_decay))
    steps = time_steps(clock, engine, objective, settings.batch_seconds, passes)
    runtime.finish(accelerator)
    return steps


def time_steps(clock: Clock, engine, objective, seconds: float, passes: int) -> dict:
    """Cost of a step of so many seconds of audio in so many forward passes; engine has `backward` and `step`."""
    deal = {"start": 0, "steps": WARM + STEPS, "passes": passes, "process": 0, "processes": 1}
    feed = iter(Batches(objective.clips, objective.counts, batch_seconds=seconds, seed=0, **deal))
    laps, heard, padded = [], [], 0
    for _ in range(WARM + STEPS):
        clock.seconds.clear()
        heard.append(0.0)
        for _ in range(passes):
            with clock.part("data"):
                batch = next(feed).to(clock.device)
            with clock.part("heads, loss"):
                loss, _ = objective.outcome(engine, batch, PROGRESS)
            with clock.part("backward"):
                engine.backward(loss)
            with clock.part("optimizer"):
                engine.step()
            heard[-1] += batch.seconds()
            padded += batch.audio.numel()
        laps.append(dict(clock.seconds))
    rates = [audio / sum(lap.values()) for audio, lap in zip(heard, laps, strict=True)]
    typical = {part: median(lap[part] for lap in laps[WARM:]) for part in laps[-1]}
    share = {part: spent / sum(typical.values()) for part, spent in typical.items()}
    return {"rate": median(rates[WARM:]), "share": share, "padding": 1 - sum(heard) * SAMPLE_RATE / padded}


def rate(audio: float, work: Callable[[], object]) -> float:
    """Audio seconds per second of some work that ends on the CPU."""
    times = []
    for _ in range(WARM + STEPS):
        started = perf_counter()
        work()
        times.append(perf_counter() - started)
    return audio / median(times[WARM:])


def hearing(encoder: Encoder, clips: Clips, seconds: float, device: torch.device) -> float:
    """Audio seconds per second into a FrameCache, by the batch of the middling clips."""
    identity = Standardiser(encoder.layers, encoder.width).to(device)
    batches = list(by_length(clips.samples, seconds))
    few = clips.select(batches[len(batches) // 2].tolist())
    return rate(few.seconds(), lambda: FrameCache.extract(encoder, few, identity, seconds, device))


def probing(name: str, clips: Clips, cache: FrameCache, settings: Evaluate, device: torch.device) -> float:
    """Audio seconds per second, as cropped by the task, in a training that hears every clip once."""
    rows = TASKS[name].select(clips)
    steps = max(len(rows) // settings.batch, 1)
    rows = draw(rows, steps * settings.batch)
    split = Split(clips.select(rows.tolist()), cache, rows)
    task, budget = TASKS[name].prepare(split.clips), replace(settings.budget(name), steps=steps)
    audio = np.minimum(split.clips.samples / SAMPLE_RATE, task.crop_seconds or np.inf).sum()
    return rate(float(audio), lambda: train(task, split, budget, min(settings.learning_rates), 0, device))


def some(clips: Clips, count: float) -> Clips:
    """About so many of the clips, always the same ones."""
    return clips.select(draw(np.arange(len(clips)), round(count)).tolist())


def train_all(
    clock: Clock, recipe: Recipe, teacher: FusedTeacher, student: Encoder, clips: Clips
) -> tuple[dict, float]:
    """Steps of fit and of distillation, and the rate at which targets are heard."""
    settings = recipe.distill
    steps = {"fit": training(clock, *fitting(clock, teacher, recipe.fit.tasks, clips), recipe.fit, 1)}
    clock.watch("fusion", teacher.fusion)
    layers = [layer for _, layer in pairs(student.layers, teacher.layers, settings.layers)]
    supervision = Supervision(teacher, layers, summary=settings.interface_weight > 0)
    heard = hearing(Frozen(supervision), clips, settings.forward_seconds, clock.device)
    few = some(clips, len(clips) * (WARM + STEPS) * settings.batch_seconds / clips.seconds())
    recall = memory(supervision, few, settings.forward_seconds, clock.device)
    passes = accumulation(settings.batch_seconds, settings.forward_seconds, 1)
    for kind, own, targets in (("online", clips, online(supervision)), ("memory", few, recall)):
        learner = distilling(clock, teacher, student, own, targets, settings)
        steps[f"distill, {kind}"] = training(clock, *learner, settings, passes)
    return steps, heard


def evaluate_all(rows: Mapping[str, Encoder], clips: Clips, settings: Evaluate, device: torch.device) -> dict:
    """Rates of hearing by every row, and of training probes on the teacher."""
    seconds, teacher, pool = settings.forward_seconds, rows["teacher"], some(clips, POOL)
    rates = {f"hear, {name}": hearing(encoder, clips, seconds, device) for name, encoder in rows.items()}
    identity = Standardiser(teacher.layers, teacher.width).to(device)
    cache = FrameCache.extract(teacher, pool, identity, seconds, device)
    return rates | {f"probe, {name}": probing(name, pool, cache, settings, device) for name in settings.tasks}


def bench(recipe: Recipe) -> dict:
    """The content of bench.json."""
    accelerator = runtime.start(MACHINE)
    device, machine = accelerator.device, runtime.describe(accelerator)
    clips = load_splits(recipe.data)["train"]
    clock, teacher = Clock(device), build_teacher(recipe.teacher, recipe.seed, runtime.precision()).to(device)
    for name, upstream in teacher.upstreams.items():
        clock.watch(name, upstream)
    student = make_student(recipe.student, recipe.seed).to(device)
    steps, heard = train_all(clock, recipe, teacher, student, clips)
    rows = {"log-mel": LogMel(), **teacher.upstreams, "teacher": teacher, "student": student}
    evaluation = evaluate_all({name: Frozen(encoder) for name, encoder in rows.items()}, clips, recipe.evaluate, device)
    rates = {name: step.pop("rate") for name, step in steps.items()} | {"hear, targets": heard} | evaluation
    memory_gb = getrusage(RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB
    return {"recipe": recipe.recipe, "scale": recipe.scale, "machine": machine, "memory_gb": memory_gb} | {
        "audio_seconds_per_second": rates,
        "steps": steps,
    }


def table(result: dict) -> str:
    """The result as plain text."""
    steps = result["steps"]
    parts = dict.fromkeys(part for step in steps.values() for part in step["share"])
    rows = {part: [step["share"].get(part, 0.0) for step in steps.values()] for part in parts}
    rows["padding"] = [step["padding"] for step in steps.values()]
    lines = [f"{result['recipe']} at scale {result['scale']} on {result['machine']}"]
    lines += ["", f"audio seconds per second, median of {STEPS}"]
    lines += [f"  {name:<18}{rate:>8.1f}" for name, rate in result["audio_seconds_per_second"].items()]
    lines += ["", f"{'% of a step':<20}" + "".join(f"{name:>18}" for name in steps)]
    lines += [f"  {part:<18}" + "".join(f"{100 * value:>18.1f}" for value in values) for part, values in rows.items()]
    return "\n".join([*lines, "", f"peak resident memory {result['memory_gb']:.2f} GB"])


def main(argv: list[str]) -> None:
    """Measure, print, and write `runs/<name>/bench.json`."""
    runtime.quiet()
    given = argv if any(word.startswith("recipe=") for word in argv) else ["recipe=wavlm+whisper", *argv]
    try:
        recipe = load(given, FAMILIES)
        result = bench(recipe)
        path = Path(recipe.runs) / recipe.name / "bench.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, result)
    except (ValueError, OSError) as error:
        sys.exit(f"throughput.py: {error}")
    print(f"{table(result)}\nwritten to {path}")
    runtime.leave()


if __name__ == "__main__":
    main(sys.argv[1:])
