"""Students of other runs among the rows of an evaluation."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from spoken import Levels

from distill.evaluation import evaluate_rows
from distill.protocol import Evaluate
from distill.recipe import Recipe
from distill.run import Run

CPU = torch.device("cpu")
QUICK = Evaluate(tasks=["er"], learning_rates=[1e-3], steps={"er": 4}, seeds=[0], train_clips=40, score_clips=30)


def student_of(run: Path, content: str) -> str:
    (run / "student").mkdir(parents=True, exist_ok=True)
    (run / "student" / "model.safetensors").write_text(content)
    return str(run)


def test_another_runs_student_is_known_by_what_it_is_and_not_by_its_folders_name(tmp_path, splits):
    first, second = student_of(tmp_path / "a" / "other", "weights"), student_of(tmp_path / "b" / "other", "others")
    rows, place = {"own": Levels(), "other": Levels(0.3)}, Run(Recipe("wavlm", name="r", runs=str(tmp_path)), tmp_path)
    heard, folder = {}, tmp_path / "evaluation"

    def evaluate(student: str) -> set[str]:
        """Which rows were measured anew."""
        asked = replace(QUICK, students=[student], rows=["own"])
        found = evaluate_rows(rows, {"data": splits}, asked, folder, CPU, say=lambda _: None)
        place.evaluation.write_text(json.dumps(found))
        assert done(student)
        before, now = dict(heard), {name: row.heard for name, row in rows.items()}
        heard.update(now)
        return {name for name in rows if now[name] != before.get(name)}

    def done(student: str) -> bool:
        asked = replace(place.recipe, evaluate=replace(QUICK, students=[student], rows=["own"]))
        return Run(asked, tmp_path).finished("evaluate")

    assert evaluate(first) == {"own", "other"} and not done(second)
    assert evaluate(second) == {"other"} and not done(first)
    assert evaluate(second) == set()
    student_of(tmp_path / "b" / "other", "learned anew")
    assert not done(second) and evaluate(second) == {"other"}
