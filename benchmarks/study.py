"""Many runs, one after another or several at once, and one table of their students: `make study`.

A study is a file of cells, each the words of a command; every cell is run once for each seed of distillation, in a
folder of its own, and a finished stage is not run again. Cells whose teachers are the same share one fitted teacher.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmarks.verdict import write_verdict
from distill.limits import RecipeError, listed
from distill.loading import load, save
from distill.run import Run, differs
from distill.supervision.identity import digest_of
from teachers import FAMILIES

CHECKPOINTS = "teacher.checkpoints."
ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "distill.py"]
USAGE = (
    "usage: python -m benchmarks.study [study=<file>] [runs=<folder>] [cells=a,b] [seeds=0,1] [jobs=1] "
    "[key=value ...]\njobs: runs at once, each on its share of the cores; what each says goes to <runs>/<its name>.log"
)


@dataclass(frozen=True)
class Study:
    """Plain data of a study; `words` are those of distill.py."""

    against: str  # the cell that all others are compared with; its first seed is evaluated with all rows
    seeds: list[int]  # of distillation; those of the heads are evaluate.seeds
    words: list[str]  # of every cell
    cells: dict[str, list[str]] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)  # task -> what it is judged by, where not by its own metric

    def __post_init__(self):
        listed("study: against", self.against, self.cells)
        if not self.seeds:
            raise RecipeError("study: seeds is empty; name one or more")


@dataclass(frozen=True)
class Trial:
    """One run of a study."""

    cell: str
    seed: int
    words: list[str]
    run: Run

    def finished(self) -> bool:
        return all(self.run.finished(stage) for stage in self.run.recipe.stages)

    def claim(self) -> None:
        """Say in the folder what is run there, before anything else lies in it."""
        self.run.folder.mkdir(parents=True, exist_ok=True)
        save(self.run.recipe, self.run.folder / "recipe.yaml")

    def teacher(self) -> str:
        """The same for runs whose fitted teachers are the same."""
        recipe = self.run.recipe
        return digest_of([asdict(part) for part in (recipe.data, recipe.teacher, recipe.fit)] + [recipe.seed])


def read_study(path: Path) -> Study:
    """A study from its file. Raises RecipeError."""
    try:
        tree = OmegaConf.merge(OmegaConf.structured(Study), yaml.safe_load(path.read_text()))
        return cast(Study, OmegaConf.to_object(tree))
    except (OSError, yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        known = ", ".join(entry.name for entry in fields(Study))
        raise RecipeError(f"cannot read the study {path}: {error}\nthere are {known}") from None


def trials(study: Study, given: Sequence[str], runs: Path) -> Iterator[Trial]:
    """All runs, first seeds first, so that a study cut short has every cell; given: words for all of them."""
    upstreams = {cell: load([*study.words, *own], FAMILIES).teacher.upstreams for cell, own in study.cells.items()}
    for name in filter(None, map(upstream_of, given)):
        listed("teacher.checkpoints", name, sorted({one for names in upstreams.values() for one in names}))
    cells = {
        cell: [*study.words, *own, *(word for word in given if upstream_of(word) in ("", *upstreams[cell]))]
        for cell, own in study.cells.items()
    }
    for seed in study.seeds:
        for cell, words in cells.items():
            rows = [] if cell == study.against and seed == study.seeds[0] else ["evaluate.rows=[student]"]
            whole = [*words, *rows, f"distill.seed={seed}", f"runs={runs}", f"name={cell}-seed{seed}"]
            recipe = load(whole, FAMILIES)
            yield Trial(cell, seed, whole, Run(recipe, Path(recipe.runs) / recipe.name))


def upstream_of(word: str) -> str:
    """The upstream whose checkpoint a word names, which is for cells with this upstream alone; else nothing."""
    return word.partition("=")[0].removeprefix(CHECKPOINTS) if word.startswith(CHECKPOINTS) else ""


def demand_same(all_: Iterable[Trial]) -> None:
    """Raises RecipeError where a folder holds a run of other settings, whose scores or teacher would pass for these."""
    for trial in all_:
        different = differs(trial.run)
        if different:
            raise RecipeError(
                f"{trial.run.folder} holds a run of other settings; they differ in {', '.join(different)}\n"
                "give this study a folder of its own: runs=<folder>"
            )


def lend_teacher(trial: Trial, others: Sequence[Trial]) -> None:
    """Copy the fitted teacher of another run where this one would fit the same; it appears whole or not at all.

    Every folder of these runs is of the recipe that is asked for now (`demand_same`).
    """
    ready = [other.run.teacher for other in others if other.run.finished("fit") and other.teacher() == trial.teacher()]
    if trial.run.finished("fit") or not ready:
        return
    trial.claim()
    unfinished = trial.run.folder / ".teacher.copied"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(ready[0], unfinished)
    unfinished.rename(trial.run.teacher)


Launch = Callable[[Sequence[str], int, int], int]


def launched(words: Sequence[str], job: int = 0, jobs: int = 1) -> int:
    """The ordinary command in a process of its own; its exit code.

    One of several jobs keeps to its share of the cores, and what it says to a file beside its run's folder.
    """
    command = [*COMMAND, *words]
    if jobs == 1:
        return subprocess.run(command, cwd=ROOT, check=False).returncode
    values = dict(word.split("=", 1) for word in words)
    log, cores = Path(values["runs"]) / f"{values['name']}.log", sorted(os.sched_getaffinity(0))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        os.sched_setaffinity(process.pid, cores[job::jobs] or [cores[job % len(cores)]])
        return process.wait()


def run_all(
    wanted: Sequence[Trial], launch: Launch = launched, others: Sequence[Trial] = (), jobs: int = 1
) -> list[str]:
    """Run what is not finished; the names of the runs that failed, which do not keep others from being run.

    others: runs whose teachers may be lent too. jobs: runs at once; of those with one teacher the first fits it, and
    the others wait for that.
    """
    fitting = {trial.teacher(): Lock() for trial in wanted}
    free: SimpleQueue[int] = SimpleQueue()
    for job in range(jobs):
        free.put(job)

    def run(number: int, trial: Trial) -> int:
        name = trial.run.folder.name
        if trial.finished():
            print(f"study {number}/{len(wanted)}: {name} is finished", flush=True)
            return 0
        job = free.get()
        try:
            with fitting[trial.teacher()]:
                lend_teacher(trial, [*wanted, *others])
                if jobs > 1 and not trial.run.finished("fit"):
                    code = launch([*trial.words, "stages=[fit]"], job, jobs)
                    if code:
                        return code
            trial.claim()  # the fit alone may have written its own stages there
            print(f"study {number}/{len(wanted)}: {name}", flush=True)
            return launch(trial.words, job, jobs)
        finally:
            free.put(job)

    with ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(run, range(1, len(wanted) + 1), wanted))
    return [trial.run.folder.name for trial, code in zip(wanted, codes, strict=True) if code]


def finished(all_: Sequence[Trial]) -> dict[str, list[Path]]:
    """Cell -> the folders of its finished runs, for cells that have one."""
    done: dict[str, list[Path]] = {}
    for trial in all_:
        if trial.finished():
            done.setdefault(trial.cell, []).append(trial.run.folder)
    return done


def some(key: str, given: str, names: Iterable[str]) -> list[str]:
    """Those of the names that are given, joined by commas; none given: all. Raises RecipeError."""
    there = list(names)
    chosen = given.split(",") if given else there
    for name in chosen:
        listed(key, name, there)
    return chosen


def main(argv: list[str]) -> None:
    """Run a study and write its verdict: study.json, study.md and study.png beside its runs."""
    if {"--help", "-h"} & set(argv):
        print(USAGE)
        return
    own = {
        "study": str(ROOT / "recipes/studies/fused.yaml"),
        "runs": "runs/study",
        "cells": "",
        "seeds": "",
        "jobs": "1",
    }
    own |= {key: value for key, _, value in (word.partition("=") for word in argv) if key in own}
    if not own["jobs"].isdecimal() or own["jobs"] == "0":
        raise RecipeError(f"jobs={own['jobs']} must be a whole number of runs at once, 1 or more")
    given = [word for word in argv if word.partition("=")[0] not in own]
    study, runs = read_study(Path(own["study"])), Path(own["runs"]).resolve()
    cells, seeds = some("cells", own["cells"], study.cells), some("seeds", own["seeds"], map(str, study.seeds))
    asked = {study.against, *cells}
    there = [
        name for name in study.cells if name in asked or any((runs / f"{name}-seed{n}").exists() for n in study.seeds)
    ]
    everything = list(trials(replace(study, cells={name: study.cells[name] for name in there}), given, runs))
    demand_same(everything)
    wanted = [trial for trial in everything if trial.cell in asked and str(trial.seed) in seeds]
    failed = run_all(wanted, others=everything, jobs=int(own["jobs"]))
    done = finished(everything)
    if study.against in done:
        print(write_verdict(done, study.against, study.metrics, runs))
    if failed:
        sys.exit(f"study: {', '.join(failed)} failed; the same command goes on from there")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"study: {error}")
