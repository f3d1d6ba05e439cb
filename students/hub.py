"""The folders of a run as its repositories on the Hub will hold them, each with its card."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.files import read_json, write_json, write_text
from distill.limits import RecipeError
from distill.loading import read_saved, save
from distill.places import unplaced
from distill.recipe import Recipe
from distill.run import Run
from students.card import Facts, finetuned_card, student_card
from students.deployment import FILES

STUDENT = "student"  # the repository of the bare name; a fine-tuned one is called after its task


def demand_publishable(recipe: Recipe) -> None:
    """RecipeError where this run could not be published when all the rest of it is done."""
    if "publish" not in recipe.stages:
        return
    rows = recipe.evaluate.rows
    if rows and "student" not in rows:
        raise RecipeError(
            f"evaluate.rows={rows} leaves out the student, whose scores its card tells; "
            f"take evaluate.rows=[student,{','.join(rows)}], or leave publish out of the stages"
        )
    if recipe.teacher.weights == "random" and not recipe.publish.dry_run:
        raise RecipeError(
            "teacher.weights=random is a rehearsal, whose student is of no use; look at what would be sent, "
            "publish.dry_run=true, or publish one of teacher.weights=published"
        )


def measured(run: Run, finetuned: Mapping[str, Any]) -> dict[str, Any]:
    """What evaluation.json says, with the scores of fine-tuned models, and the sizes and costs of the ONNX files."""
    result = read_json(run.evaluation)
    rows = result["rows"]
    files = {"student": run.student / "model.safetensors"} | {name: run.onnx / file for name, file in FILES.items()}
    for name in rows.keys() & files.keys():
        rows[name] |= {"bytes": files[name].stat().st_size, "macs": rows["student"]["macs"]}  # one graph, one count
    for name in rows.keys() & FILES.keys():
        rows[name].pop("peak_memory", None)  # onnxruntime's own tensors are not seen by its count
    return result | {"finetuned": dict(finetuned)}


def hub_folders(run: Run, facts: Facts, finetuned: Sequence[str]) -> dict[str, Path]:
    """Write `hub/` anew, all or nothing; repository -> its folder. finetuned: tasks that have a model."""
    place = run.folder / "hub"
    partial = place.with_name(".hub.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        repos = fill_all(run, partial, facts, finetuned)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(place, ignore_errors=True)
    partial.rename(place)
    return {repo: place / name for repo, name in repos.items()}


def fill_all(run: Run, place: Path, facts: Facts, finetuned: Sequence[str]) -> dict[str, str]:
    """A folder for the student and for each fine-tuned model; repository -> name of its folder."""
    result, known = read_json(run.evaluation), {}
    recipe = unplaced(read_saved(run.folder / "recipe.yaml"), known)
    environment = unplaced(read_json(run.folder / "environment.json"), known)
    facts = replace(facts, recipe=unplaced(facts.recipe, known))
    repo = run.recipe.publish.repo or f"you/{run.recipe.name.replace('+', '-')}"
    names = {task: f"{repo}-{task}" for task in finetuned}
    onnx = run.recipe.publish.onnx
    cards = {STUDENT: student_card(facts, repo, result, names, onnx=onnx)}
    cards |= {task: finetuned_card(facts, name, result, task, repo) for task, name in names.items()}
    for name, card in cards.items():
        shutil.copytree(run.student if name == STUDENT else run.finetuned / name, place / name)
        shutil.copyfile(run.evaluation, place / name / run.evaluation.name)
        save(recipe, place / name / "recipe.yaml")
        write_json(place / name / "environment.json", environment)
        write_text(place / name / "README.md", card)
    if onnx:
        shutil.copytree(run.onnx, place / STUDENT / "onnx")
    return {repo: STUDENT} | {name: task for task, name in names.items()}
