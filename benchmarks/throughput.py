"""Throughput: audio seconds per second in every stage of a recipe, where the time goes, a plain loop beside it.

python -m benchmarks.throughput [recipe=wavlm+whisper] [processes=1,2] [key=value ...]
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from accelerate import Accelerator

from benchmarks.clock import STEPS, WARM, Clock
from benchmarks.hearing import evaluate_all, real_time, some
from benchmarks.reference import break_even, ratios, reference
from benchmarks.scaling import counts, places, scaling
from benchmarks.scaling import lines as scaling_lines
from benchmarks.steps import MACHINE, distilling, fitting, supervising, training
from distill import runtime
from distill.data.batches import accumulation
from distill.data.clips import Clips
from distill.data.corpora import load_splits
from distill.distillation import sources, supervise
from distill.encoders.frozen import Frozen
from distill.encoders.logmel import LogMel
from distill.features import Encoder
from distill.files import write_json
from distill.loading import load
from distill.recipe import Distill, Recipe
from distill.supervision.targets import Supervision, cached, codes, memory, online
from distill.teacher import FusedTeacher
from students import make_student
from teachers import FAMILIES, build_teacher


def targets(
    accelerator: Accelerator, supervision: Supervision, clips: Clips, settings: Distill, place: Path
) -> tuple[dict[str, Callable], dict[str, float]]:
    """Targets of every kind but online, and the audio seconds per second that making them takes."""
    stored, speeds, found = (supervision, clips, settings.forward_seconds), {}, {}
    makers = {
        "memory": lambda: memory(*stored, accelerator.device),
        "cached": lambda: cached(accelerator, *stored, settings.cache_precision, place),
        "codes": lambda: codes(accelerator, *stored, settings.codebooks, place),
    }
    for kind, make in makers.items():
        started = perf_counter()
        found[kind] = make()
        speeds[kind] = clips.seconds() / (perf_counter() - started)
    return found, speeds


def train_all(
    clock: Clock, recipe: Recipe, teacher: FusedTeacher, student: Encoder, clips: Clips, accelerator: Accelerator
) -> tuple[dict, dict]:
    """Steps of fit, of distillation from every kind of targets, and of the reference; rates of making targets."""
    settings = recipe.distill
    steps = {"fit": training(clock, *fitting(clock, teacher, recipe.fit.tasks, clips), recipe.fit, 1)}
    clock.watch("fusion", teacher.fusion)
    groups = sources(student, teacher, settings)
    supervision = supervise(teacher, groups, settings, runtime.precision())
    few = some(clips, len(clips) * (WARM + STEPS + 1) * settings.batch_seconds / clips.seconds())
    with TemporaryDirectory() as place:
        stored, speeds = targets(accelerator, supervision, few, settings, Path(place))
        passes = accumulation(settings.batch_seconds, settings.forward_seconds, accelerator.num_processes)
        for kind, source in {"online": online(supervision), **stored}.items():
            own = clips if kind == "online" else few
            learner = distilling(clock, teacher, student, own, source, replace(settings, targets=kind))
            steps[f"distill, {kind}"] = training(clock, *learner, settings, passes)
    plain = supervise(teacher, groups, settings, torch.float32)
    steps["reference"] = reference(clock, plain, student, clips, replace(settings, targets="online"))
    return steps, speeds


def bench(recipe: Recipe) -> dict:
    """The content of bench.json."""
    accelerator = runtime.start(MACHINE)
    device, machine = accelerator.device, runtime.describe(accelerator)
    clips = load_splits(recipe.data)["train"]
    clock, teacher = Clock(device), build_teacher(recipe.teacher, recipe.seed, runtime.precision()).to(device)
    for name, upstream in teacher.upstreams.items():
        clock.watch(name, upstream)
    student = make_student(recipe.student, recipe.seed).to(device)
    steps, speeds = train_all(clock, recipe, teacher, student, clips, accelerator)
    made = {f"write, {kind}": speed for kind, speed in speeds.items()}
    rows = {"log-mel": LogMel(), **teacher.upstreams, "teacher": teacher, "student": student}
    frozen = {name: Frozen(encoder) for name, encoder in rows.items()}
    evaluation = evaluate_all(frozen, clips, recipe.evaluate, device)
    seconds = recipe.evaluate.forward_seconds
    return {
        "recipe": recipe.recipe,
        "scale": recipe.scale,
        "machine": machine,
        "memory_gb": peak(device),
        "audio_seconds_per_second": {name: step["rate"] for name, step in steps.items()} | made | evaluation,
        "steps": steps,
        "share_of_fusion_and_losses": supervising(steps),
        "ratio_to_reference": ratios(steps, speeds),
        "pays_after_epochs": break_even(steps, speeds),
        "real_time_factor": {name: real_time(frozen[name], clips, seconds, device) for name in ("teacher", "student")},
    }


def peak(device: torch.device) -> dict[str, float]:
    """Most memory held so far in GB: resident, and of the GPU where there is one."""
    resident = {"resident": getrusage(RUSAGE_SELF).ru_maxrss * 1024 / 1e9}  # Linux counts in KiB
    return resident | ({"gpu": torch.cuda.max_memory_allocated(device) / 1e9} if device.type == "cuda" else {})


def table(result: dict) -> str:
    """The result as plain text."""
    steps = result["steps"]
    parts = dict.fromkeys(part for step in steps.values() for part in step["share"])
    rows = {part: [100 * step["share"].get(part, 0.0) for step in steps.values()] for part in parts}
    told = result["share_of_fusion_and_losses"]
    rows["fusion and losses"] = [100 * told.get(name, 0.0) for name in steps]
    rows["padding"] = [100 * step["padding"] for step in steps.values()]
    milliseconds = {part: [1000 * step["seconds"].get(part, 0.0) for step in steps.values()] for part in parts}
    lines = [f"{result['recipe']} at scale {result['scale']} on {result['machine']}"]
    lines += ["", f"audio seconds per second, median of {STEPS}"]
    lines += [f"  {name:<18}{rate:>8.1f}" for name, rate in result["audio_seconds_per_second"].items()]
    lines += columns("% of a step", steps, rows)
    lines += columns("ms per audio second", steps, milliseconds)
    lines += columns("operations", steps, {"10^9 a second": [step["flops"] / 1e9 for step in steps.values()]})
    if any("utilisation" in step for step in steps.values()):
        used = [100 * step.get("utilisation", 0.0) for step in steps.values()]
        lines += columns("model FLOP utilisation", steps, {"%": used})
    lines += ["", "times the plain reference loop"]
    lines += [f"  {name:<20}{ratio:>6.2f}" for name, ratio in result["ratio_to_reference"].items()]
    lines += ["", "epochs after which stored targets pay, their writing counted"]
    for name, epochs in result["pays_after_epochs"].items():
        lines += [f"  {name:<20}{'never' if epochs is None else f'{epochs:.2f}':>6}"]
    lines += scaling_lines(result["processes"])
    lines += ["", "real-time factor"]
    for name, factors in result["real_time_factor"].items():
        lines += [f"  {name}, {what:<12}{factor:>8.4f}" for what, factor in factors.items()]
    held = ", ".join(f"{where} {held:.2f} GB" for where, held in result["memory_gb"].items())
    return "\n".join([*lines, "", f"peak memory: {held}"])


def columns(title: str, steps: dict, rows: dict[str, list[float]]) -> list[str]:
    """Lines with a column for each kind of step."""
    head = f"{title:<20}" + "".join(f"{name.removeprefix('distill, '):>11}" for name in steps)
    return ["", head, *(f"  {name:<18}" + "".join(f"{value:>11.2f}" for value in row) for name, row in rows.items())]


def main(argv: list[str]) -> None:
    """Measure, print, and write `runs/<name>/bench.json`."""
    runtime.quiet()
    asked = "".join(word.removeprefix("processes=") for word in argv if word.startswith("processes="))
    given = [word for word in argv if not word.startswith("processes=")]
    given = given if any(word.startswith("recipe=") for word in given) else ["recipe=wavlm+whisper", *given]
    try:
        recipe, tried = load(given, FAMILIES), counts(asked, len(places())) if runtime.processes() == 1 else []
        result = bench(recipe) | {"processes": scaling(given, tried) if len(tried) > 1 else {}}
        path = Path(recipe.runs) / recipe.name / "bench.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, result)
    except (ValueError, OSError) as error:
        sys.exit(f"throughput.py: {error}")
    print(f"{table(result)}\nwritten to {path}")
    runtime.leave()


if __name__ == "__main__":
    main(sys.argv[1:])
