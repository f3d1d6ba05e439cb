"""What more processes bring: audio seconds per second of distillation, on as many cores or GPUs as processes."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.clock import STEPS, WARM, Clock
from benchmarks.hearing import some
from benchmarks.steps import MACHINE, distilling, training
from distill import runtime
from distill.data.batches import accumulation
from distill.data.corpora import load_splits
from distill.distillation import sources, supervise
from distill.files import read_json, write_json
from distill.loading import load
from distill.recipe import Recipe
from distill.supervision.targets import memory, online
from students import make_student
from teachers import FAMILIES, build_teacher

MOST = 8  # processes that are tried without being asked for
SECONDS = 1800  # after which a launch is given up


def places() -> list[int]:
    """Where processes can run without sharing: the GPUs, or this process's cores."""
    return list(range(torch.cuda.device_count())) or sorted(os.sched_getaffinity(0))


def counts(asked: str, there: int) -> list[int]:
    """How many processes are tried: those asked for as `1,2`, else powers of two; ValueError where places are short."""
    if not asked:
        return [count for count in (1, 2, 4, MOST) if count <= there]
    wanted = [int(word) if word.isdigit() else 0 for word in asked.split(",")]
    if min(wanted) < 1 or max(wanted) > there:
        raise ValueError(f"processes={asked}: give numbers from 1 to {there}, as many cores or GPUs as there are")
    return wanted


def scaling(words: Sequence[str], tried: Sequence[int]) -> dict[str, dict[str, float]]:
    """Processes -> kind of targets -> audio seconds per second of all of them together."""
    with TemporaryDirectory() as folder:
        return {str(count): launch(words, count, Path(folder) / f"{count}.json") for count in tried}


def launch(words: Sequence[str], processes: int, path: Path) -> dict[str, float]:
    """What so many processes measure, on a CPU held to as many cores, so that one process does not compute on two."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "MASTER_"))}
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(MACHINE), "--num_processes", str(processes)]
    command = [sys.executable, *launcher, "--main_process_port", "0", "-m", "benchmarks.scaling", str(path), *words]
    before = os.sched_getaffinity(0)
    try:
        if not torch.cuda.is_available():
            os.sched_setaffinity(0, places()[:processes])  # what is started now keeps to these
        done = subprocess.run(command, cwd=MACHINE.parent, env=kept, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{processes} processes took more than {SECONDS} s; leave them out: processes=1") from error
    finally:
        os.sched_setaffinity(0, before)
    if done.returncode:
        raise OSError(f"{processes} processes could not be measured:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return read_json(path)


def measure(recipe: Recipe) -> dict[str, float]:
    """Audio seconds per second of distillation in this launch, online and from memory."""
    settings, accelerator = recipe.distill, runtime.start(MACHINE)
    clock = Clock(accelerator.device)
    with accelerator.main_process_first():
        clips = load_splits(recipe.data)["train"]
    teacher = build_teacher(recipe.teacher, recipe.seed, runtime.precision()).to(accelerator.device)
    student = make_student(recipe.student, recipe.seed).to(accelerator.device)
    supervision = supervise(teacher, sources(student, teacher, settings), settings, runtime.precision())
    few = some(clips, len(clips) * (WARM + STEPS + 1) * settings.batch_seconds / clips.seconds())
    stored = memory(supervision, few, settings.forward_seconds, accelerator.device)
    passes, found = accumulation(settings.batch_seconds, settings.forward_seconds, accelerator.num_processes), {}
    for kind, source, own in (("online", online(supervision), clips), ("memory", stored, few)):
        learner = distilling(clock, teacher, student, own, source, replace(settings, targets=kind))
        found[f"distill, {kind}"] = training(clock, *learner, settings, passes)["rate"]
    return found


def lines(found: dict[str, dict[str, float]]) -> list[str]:
    """A line for each number of processes: rates, and how many times that of the first number."""
    if len(found) < 2:
        return ["", "scaling over processes: not measured, it takes a second core or GPU"]
    first, *_ = found.values()
    head = f"{'processes':<20}" + "".join(f"{name.removeprefix('distill, '):>11}{'times':>8}" for name in first)
    rows = [
        f"  {count:<18}" + "".join(f"{rate:>11.1f}{rate / first[name]:>8.2f}" for name, rate in rates.items())
        for count, rates in found.items()
    ]
    return ["", head, *rows]


def main(path: Path, words: list[str]) -> None:
    """One process of a launch; the first writes what was measured."""
    runtime.quiet()
    found = measure(load(words, FAMILIES))
    if os.environ["RANK"] == "0":
        write_json(path, found)
    runtime.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
