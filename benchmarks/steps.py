"""What a training step costs, part by part: fit, and distillation from every kind of targets."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clock import BACKWARD, STEPS, WARM, Clock
from distill import runtime
from distill.data.batches import Batch, Batches
from distill.data.clips import Clips
from distill.distillation import Distillation, build, restored, sources
from distill.features import SAMPLE_RATE, Encoder
from distill.fit import Fit, Fitting, Labels
from distill.loop import Objective, optimizer
from distill.recipe import Distill
from distill.recipe import Fit as FitSettings
from distill.supervision.coding import CodeDistillation
from distill.tasks import TASKS
from distill.teacher import FusedTeacher

MACHINE = Path(__file__).resolve().parent.parent / "accelerate_config.yaml"
PROGRESS = 0.5  # at which fit is measured: its first quarter has a cheaper loss than CTC
BEYOND = f"{BACKWARD}, student"  # before it the part `backward` is that of heads and loss
# what of a step is neither hearing nor learning; of several sources the fusion is told among the targets
SUPERVISING = ("fusion", "targets", "heads, loss", BACKWARD)
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # dense bf16 operations a second, by a GPU's name

Feed = Iterator[tuple[Batch, float]]  # batches, and the seconds of audio in them that are no padding


class Engine(Protocol):
    """What trains: a module that is called, goes backward and takes steps."""

    def __call__(self, *inputs): ...

    def backward(self, loss: Tensor) -> object: ...

    def step(self) -> object: ...


def fitting(clock: Clock, teacher: FusedTeacher, tasks: list[str], clips: Clips) -> tuple[Fitting, Fit]:
    """What fit trains, and its objective."""
    labels = [Labels.of(TASKS[name], clips) for name in tasks]
    module = Fitting(deepcopy(teacher.fusion), deepcopy(teacher.interface), [one.task for one in labels])
    clock.watch("fusion", module.fusion)
    clock.watch("interface", module.interface)
    return module, Fit(clips, teacher.encoders(), labels)


def distilling(
    clock: Clock, teacher: FusedTeacher, student: Encoder, clips: Clips, targets: Callable, settings: Distill
) -> tuple[nn.Module, Distillation | CodeDistillation]:
    """What distillation trains, and its objective; targets of the kind that the settings name."""
    groups = sources(student, teacher, settings)
    names = [name for group in groups for name in group.names()]
    module, times = build(deepcopy(student), teacher, settings, groups, 0), restored(student, teacher, settings)
    clock.watch("student", module.student)
    module.student.register_forward_hook(lambda student, inputs, heard: clock.split_backward(BEYOND, heard.hidden))

    def timed(batch: Batch):
        with clock.part("targets"):
            return targets(batch)

    if settings.targets == "codes":
        coded = [*names, *["interface"] * (len(module.heads) - len(names))]
        return module, CodeDistillation(clips, student, timed, coded, times=times)
    width = max(group.width for group in groups)
    return module, Distillation(clips, student, timed, names, width, times=times)


def training(clock: Clock, module: nn.Module, objective: Objective, settings: FitSettings | Distill, passes: int):
    """`time_steps` under DeepSpeed. The learning rate stays 0: nothing is learned, at the same cost."""
    accelerator = runtime.start(MACHINE, accumulation=passes, clip=settings.clip)
    engine, _ = accelerator.prepare(module, optimizer(module, settings.weight_decay))
    process, processes = accelerator.process_index, accelerator.num_processes
    deal = {"start": 0, "steps": WARM + STEPS + 1, "passes": passes, "process": process, "processes": processes}
    feed = Batches(objective.clips, objective.counts, batch_seconds=settings.batch_seconds, seed=0, **deal)
    steps = time_steps(clock, engine, objective, ((batch, batch.seconds()) for batch in feed), passes)
    runtime.finish(accelerator)
    return steps | {"rate": steps["rate"] * processes}


def time_steps(clock: Clock, engine: Engine, objective: Objective, feed: Feed, passes: int) -> dict:
    """Cost of a step of so many forward passes."""
    laps, heard, padded = [], [], 0
    for _ in range(WARM + STEPS):
        clock.seconds.clear()
        audio, samples = one_step(clock, engine, objective, feed, passes)
        heard.append(audio)
        padded += samples
        laps.append(dict(clock.seconds))
    rates = [audio / sum(lap.values()) for audio, lap in zip(heard, laps, strict=True)]
    typical = {part: median(lap[part] for lap in laps[WARM:]) for part in laps[-1]}
    share = {part: spent / sum(typical.values()) for part, spent in typical.items()}
    padding = 1 - sum(heard) * SAMPLE_RATE / padded
    with FlopCounterMode(display=False) as counter:
        audio, _ = one_step(clock, engine, objective, feed, passes)
    speed = counter.get_total_flops() / audio * median(rates[WARM:])
    result = {"rate": median(rates[WARM:]), "share": share, "padding": padding, "flops": speed}
    result["seconds"] = {part: spent / median(heard[WARM:]) for part, spent in typical.items()}
    return result | utilisation(speed, clock.device)


def supervising(steps: dict[str, dict]) -> dict[str, float]:
    """The share of fusion and losses in a step of distillation, by the kind of targets."""
    told = {name: step["share"] for name, step in steps.items() if BEYOND in step["share"]}
    return {name: sum(share.get(part, 0.0) for part in SUPERVISING) for name, share in told.items()}


def one_step(clock: Clock, engine: Engine, objective: Objective, feed: Feed, passes: int) -> tuple[float, int]:
    """Audio-seconds that are no padding, and samples with it."""
    heard, samples = 0.0, 0
    for _ in range(passes):
        with clock.part("data"):
            batch, seconds = next(feed)
            batch = batch.to(clock.device)
        with clock.part("heads, loss"):
            loss, _ = objective.outcome(engine, batch, PROGRESS)  # pyright: ignore[reportArgumentType]
        with clock.part(BACKWARD):
            engine.backward(loss)
        with clock.part("optimizer"):
            engine.step()
        heard, samples = heard + seconds, samples + batch.audio.numel()
    return heard, samples


def utilisation(speed: float, device: torch.device) -> dict[str, float]:
    """Model FLOP utilisation, on a GPU whose peak is known; operations are those of matrices and convolutions."""
    if device.type != "cuda":
        return {}
    peaks = [peak for name, peak in PEAKS.items() if name in torch.cuda.get_device_name(device)]
    return {"utilisation": speed / peaks[0]} if peaks else {}
