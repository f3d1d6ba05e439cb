"""Fuse speech foundation models into a teacher, distill it into one small student, evaluate all of them.

accelerate launch distill.py recipe=wavlm+whisper
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from torch import Tensor

from distill import runtime, stages
from distill.data.corpora import load_splits
from distill.evaluation import table
from distill.features import Encoder
from distill.files import read_json
from distill.frozen import Frozen
from distill.loading import cost, load, text, usage
from distill.logmel import LogMel
from distill.recipe import Recipe
from distill.run import Run, open_run
from distill.teacher import FusedTeacher
from distill.waveform import Waveform
from students import make_student, start
from students.card import card
from students.export import export, open_student
from teachers import FAMILIES, build_teacher

MACHINE = Path(__file__).with_name("accelerate_config.yaml")


def run(recipe: Recipe) -> None:
    """All stages that the recipe names and that are not finished yet."""
    accelerator = runtime.start(MACHINE)
    say = accelerator.print
    with accelerator.main_process_first():
        place = open_run(recipe)
        say(f"{recipe.recipe} at scale {recipe.scale} on {runtime.describe(accelerator)}; in {place.folder}")
        waiting = [stage for stage in recipe.stages if not place.finished(stage)]
        compared = bool(recipe.report.runs) and "report" in waiting
        if compared:
            waiting.remove("report")
        splits = load_splits(recipe.data.corpus, recipe.data.embedded) if waiting else {}
    runtime.finish(accelerator)
    if waiting:
        train = splits["train"]
        say(f"to do: {', '.join(waiting)}; {train.seconds() / 3600:.2f} h of training audio in {len(train)} clips")
        say(f"all stages take about: {cost(recipe) or 'unknown, the bars below show the time left'}")
        teacher = build_teacher(recipe.teacher, recipe.seed)
        if "fit" in waiting:
            stages.fit_teacher(place, teacher, train, MACHINE)
        place.demand("fit")
        teacher.load(place.teacher)
        if "distill" in waiting:
            stages.distill_student(place, teacher, new_student(recipe, teacher), train, MACHINE, exporter(recipe))
        if "evaluate" in waiting:
            place.demand("distill")
            stages.evaluate(place, rows(place, teacher), splits, MACHINE)
        if "report" in waiting:
            place.demand("evaluate")
            stages.report(place, teacher, open_student(place.student), splits, MACHINE)
    if "evaluate" in recipe.stages:
        say(table(read_json(place.evaluation)))
    if compared and accelerator.is_main_process:
        say(f"comparison: {stages.compare_runs(place)}")
    elif "report" in recipe.stages:
        say(f"report: {place.report}")
    if place.finished("distill"):
        say(f'student: AutoModel.from_pretrained("{place.student}")')


def new_student(recipe: Recipe, teacher: FusedTeacher) -> Waveform:
    """The student before it has learned, started from an upstream where the recipe wants that."""
    student = make_student(recipe.student, recipe.seed)
    start(student, recipe.student, dict(zip(recipe.teacher.upstreams, teacher.encoders(), strict=True)))
    return student


def exporter(recipe: Recipe) -> stages.Export:
    """How a student becomes a folder with a card."""

    def publish(student: Encoder, heads: Mapping[str, Tensor], folder: Path) -> None:
        assert isinstance(student, Waveform)  # `new_student` makes no other
        export(student, heads, folder, card(student, recipe))

    return publish


def rows(place: Run, teacher: FusedTeacher) -> dict[str, Encoder]:
    """Everything that is compared, by the name of its row."""
    recipe = place.recipe
    upstreams = dict(zip(recipe.teacher.upstreams, teacher.encoders(), strict=True))
    ours = {"student": open_student(place.student), "untrained": make_student(recipe.student, recipe.seed)}
    baselines = {"log-mel": LogMel()}
    compared = baselines | upstreams | {"teacher": teacher} | ours
    others = {Path(folder).name: open_student(Path(folder) / "student") for folder in recipe.evaluate.students}
    return {name: Frozen(encoder) for name, encoder in (compared | others).items()}


def main(argv: list[str]) -> None:
    """The command line; what a user can get wrong ends in a message of a few lines."""
    if not argv or "--help" in argv or "-h" in argv:
        print(usage(FAMILIES))
        return
    runtime.quiet()
    try:
        recipe = load([word for word in argv if word != "--show"], FAMILIES)
        if "--show" in argv:
            print(text(recipe), end="")
            return
        run(recipe)
    except (ValueError, OSError) as error:
        if "FUSEDISTILL_DEBUG" in os.environ:
            raise
        sys.exit(f"distill.py: {error}\n(FUSEDISTILL_DEBUG=1 shows where)")
    runtime.leave()


if __name__ == "__main__":
    main(sys.argv[1:])
