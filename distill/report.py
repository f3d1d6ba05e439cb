"""The report stage: one self-contained page for people, the same as Markdown with images, and runs compared."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import jinja2

from distill.evidence import figures, plots, tables
from distill.files import read_json, write_text
from distill.limits import RecipeError
from distill.loading import changed, read_saved

TEMPLATES = Path(__file__).parent / "evidence" / "templates"
MEASURED = ("data.", "corpora.", "evaluate.")  # keys of a recipe that decide how scores are measured
FILES = {
    "evaluation.json": "every score, cost, interval and test of this page",
    "evaluation": "each test clip's prediction, for every row and task",
    "analysis.json": "layers, training curves, errors by group",
    "metrics.jsonl": "the journal of training",
    "recipe.yaml": "everything that was decided; recipe=<this file> runs it again",
    "environment.json": "versions, platform and command",
    "student": "the student as transformers opens it, and its card",
    "teacher": "what was fitted: scales, interface, heads",
}


def write_report(folder: Path) -> Path:
    """`report.html`, and `report.md` with its images in `report/`, of an evaluated run; what is missing is left out."""
    evaluation = read_json(folder / "evaluation.json")
    analysis = read_json(folder / "analysis.json") if (folder / "analysis.json").exists() else {}
    facts = evaluation | {"analysis": analysis, "seconds": seconds(evaluation)}
    places, recipe = tables.standing(evaluation), read_saved(folder / "recipe.yaml")
    settings = recipe.evaluate
    with plots.style():
        drawings = [
            *figures.of_rows(facts, places),
            *figures.of_training(analysis),
            *figures.of_layers(analysis),
            *figures.of_errors(evaluation, analysis),
        ]
        found = {
            "title": folder.resolve().name,
            "machine": facts.get("machine"),
            "lead": lead(facts),
            "recipe": recipe,
            "corpora": {task.upper(): recipe.corpus_of(task) for task in settings.tasks if task in settings.corpora},
            "budgets": ", ".join(f"{task.upper()} {settings.budget(task)}" for task in settings.tasks),
            "environment": read_json(folder / "environment.json"),
            "scores": tables.score_table(facts, places),
            "costs": tables.cost_table(facts, places),
            "ready": tables.ready_table(facts),
            "tests": tables.paired_table(facts) if "student" in places else None,
            "sweep": tables.sweep_table(facts),
            "times": tables.time_table(facts),
            "files": {name: words for name, words in FILES.items() if (folder / name).exists()},
        }
        return render("report", folder, found, drawings)


def write_comparison(runs: Sequence[Path], folder: Path) -> Path:
    """`comparison.html` and `comparison.md` of the students and teachers of several evaluated runs.

    Raises RecipeError for a run that was not evaluated.
    """
    for run in runs:
        if not (run / "evaluation.json").exists():
            raise RecipeError(f"report.runs: {run} has no evaluation.json; evaluate it first, or leave it out")
    facts = {run.name: read_json(run / "evaluation.json") for run in runs}
    places = {}
    for name, evaluation in facts.items():
        for row, label in (("student", name), ("teacher", f"{name}, teacher")):
            if row in evaluation["rows"]:
                places[label] = f"{name}/rows/{row}"
    recipes = [read_saved(run / "recipe.yaml") for run in runs]
    differ = {run.name: changed(recipes[0], recipe) for run, recipe in zip(runs, recipes, strict=True)}
    with plots.style():
        found = {
            "title": " and ".join(facts),
            "scores": tables.score_table(facts, places),
            "costs": tables.cost_table(facts, places),
            "differ": {name: keys for name, keys in differ.items() if keys},
            "unlike": sorted({key for keys in differ.values() for key in keys if key.startswith(MEASURED)}),
            "runs": {run.name: os.path.relpath(run, folder) for run in runs},
        }
        return render("comparison", folder, found, list(figures.of_rows(facts, places)))


def render(name: str, folder: Path, found: dict, drawings: Sequence[figures.Drawing]) -> Path:
    """Both forms of a page from its two templates; the images of the Markdown appear whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    images = folder / f".{name}.unfinished"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    for drawing in drawings:
        (images / f"{drawing.name}.png").write_bytes(plots.png(drawing.made))
    shutil.rmtree(folder / name, ignore_errors=True)
    images.rename(folder / name)
    pictures = {drawing.name: plots.svg(drawing.made) for drawing in drawings}
    given = found | {"drawings": drawings, "pictures": pictures, "folder": name}
    write_text(folder / f"{name}.md", environment.get_template(f"{name}.md").render(given))
    write_text(folder / f"{name}.html", environment.get_template(f"{name}.html").render(given))
    return folder / f"{name}.html"


def seconds(evaluation: dict) -> dict[str, float]:
    """Time of the evaluation over all rows, by what it was spent on."""
    spent = [row["seconds"] for row in evaluation["rows"].values() if "seconds" in row]
    return {part: sum(one[part] for one in spent) for part in ("hearing", "probes")} if spent else {}


def lead(facts: dict) -> dict[str, tables.Cell]:
    """The numbers of the first sentence."""
    forms = {
        "parameters": ("rows/student/parameters", tables.count),
        "teacher": ("rows/teacher/parameters", tables.count),
    }
    found = {name: tables.cell(facts, at, form) for name, (at, form) in forms.items()}
    at = "rows/student/retention"
    return found | {"retention": tables.cell(facts, f"{at}/mean", tables.share, bound=f"{at}_interval/mean")}
