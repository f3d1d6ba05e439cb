"""A run's folder: its recipe, its environment, and which stages are finished."""

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from distill.checkpoint import Checkpoints
from distill.files import read_json, write_json
from distill.limits import RecipeError
from distill.loading import changed, read_saved, save
from distill.recipe import Recipe
from distill.upstreams import ROWS

PACKAGES = (
    "fusedistill",
    "torch",
    "transformers",
    "accelerate",
    "deepspeed",
    "datasets",
    "evaluate",
    "numpy",
)
BEGUN = {"recipe.yaml", "environment.json"}  # what is in a run's folder from the first


@dataclass(frozen=True)
class Run:
    """`runs/<name>/`; what a stage made is there whole or not at all, and is not made again."""

    recipe: Recipe
    folder: Path

    @property
    def teacher(self) -> Path:
        return self.folder / "teacher"

    @property
    def listening(self) -> Path:
        return self.folder / "listening.json"

    @property
    def student(self) -> Path:
        return self.folder / "student"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation.json"

    @property
    def analysis(self) -> Path:
        return self.folder / "analysis.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def finished(self, stage: str) -> bool:
        """Whether what the stage makes is there: every row that is asked for, of the very student, and a report.

        What was published is asked of the Hub every time.
        """
        if stage == "evaluate":
            rows = read_json(self.evaluation)["rows"] if self.evaluation.exists() else {}
            asked, settings = self.asked(), self.recipe.evaluate
            return asked <= rows.keys() and all(settings.other(name).items() <= rows[name].items() for name in asked)
        if stage == "report":
            done = self.finished("evaluate") and newer(self.report, self.evaluation)
            return done and not self.recipe.report.runs
        made = {"fit": self.teacher, "distill": self.student}
        return stage in made and made[stage].exists()

    def asked(self) -> set[str]:
        """The rows that are wanted, those of other runs' students named as their folders are."""
        own = self.recipe.evaluate.rows or [*ROWS, *self.recipe.teacher.upstreams]
        return {*own, *(Path(folder).name for folder in self.recipe.evaluate.students)}

    @property
    def onnx(self) -> Path:
        return self.folder / "onnx"

    @property
    def finetuned(self) -> Path:
        return self.folder / "finetuned"

    def demand(self, *stages: str) -> None:
        """RecipeError that says how to get what is missing."""
        for stage in stages:
            if not self.finished(stage):
                raise RecipeError(
                    f"{self.folder} has no finished stage {stage}, which comes before; add it: "
                    f"stages=[{stage},{','.join(self.recipe.stages)}]"
                )


def demand_students(folders: Sequence[str]) -> None:
    """RecipeError for a folder of another run that has no student in it."""
    for folder in folders:
        if not (Path(folder) / "student" / "config.json").exists():
            raise RecipeError(
                f"evaluate.students: {folder} has no student ({folder}/student/config.json is missing); "
                "name the folders of runs that have distilled one, or leave it out"
            )


def newer(path: Path, source: Path) -> bool:
    """Whether a file is there and was made after the one that it was made from."""
    return path.exists() and source.exists() and path.stat().st_mtime_ns >= source.stat().st_mtime_ns


def open_run(recipe: Recipe, begins: bool = True) -> Run:
    """The run's folder, new or found again; begins: whether it is for this process to write in it, the main one's.

    Raises RecipeError when the folder holds a run of another recipe, OSError as the disk does.
    """
    run = Run(recipe, Path(recipe.runs) / recipe.name)
    different = differs(run)
    if different:
        raise RecipeError(
            f"{run.folder} holds a run of another recipe; they differ in {', '.join(different)}\n"
            f"give this one a name of its own (name=...), or go on with that one: recipe={run.folder / 'recipe.yaml'}"
        )
    there = _names(run.folder)
    if begins and (there <= BEGUN or not there >= BEGUN):
        _begin(run)
        return run
    for stage in ("fit", "distill"):
        if begins and run.finished(stage):  # and perhaps killed while it tidied up
            Checkpoints(run.folder / "checkpoints" / stage).remove()
    return run


def differs(run: Run) -> list[str]:
    """The keys in which the run that a folder holds is another; none where it is the same or has made nothing yet."""
    known = run.folder / "recipe.yaml"
    return [] if not known.exists() or _names(run.folder) <= BEGUN else changed(read_saved(known), run.recipe)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _begin(run: Run) -> None:
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(run.folder / "environment.json", environment())
        save(run.recipe, run.folder / "recipe.yaml")
    except OSError as error:
        raise OSError(
            f"cannot write the run folder {run.folder}: {error}\nfree the place, or name another: runs=<folder>"
        ) from error


def environment() -> dict:
    """What this run depends on besides its recipe."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
