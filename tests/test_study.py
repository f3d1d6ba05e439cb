"""A study: which runs it makes of its cells, and what it runs again."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from threading import Lock
from time import sleep

import pytest
from miniature import Miniature, Moment

from benchmarks.study import (
    ROOT,
    Study,
    demand_same,
    finished,
    launched,
    lend_teacher,
    main,
    read_study,
    run_all,
    some,
    trials,
)
from benchmarks.verdict import verdict, write_verdict
from distill.limits import RecipeError
from distill.loading import read_saved, save

CELLS = {
    "fused": ["recipe=wavlm+whisper"],
    "mse": ["recipe=wavlm+whisper", "distill.loss=mse"],
    "one": ["recipe=wavlm"],
}
STUDY = Study("fused", [0, 1], ["evaluate.seeds=[0,1,2]"], CELLS)


def test_every_cell_is_a_run_for_each_seed_and_only_one_run_has_all_rows(tmp_path):
    made = list(trials(STUDY, ["fit.steps=3"], tmp_path))
    assert [trial.run.folder for trial in made] == [
        tmp_path / f"{cell}-seed{seed}" for seed in (0, 1) for cell in CELLS
    ]
    rows = {trial.run.folder.name: trial.run.recipe.evaluate.rows for trial in made}
    assert rows.pop("fused-seed0") == [] and all(row == ["student"] for row in rows.values())
    assert [trial.run.recipe.student_seed() for trial in made] == [0, 0, 0, 1, 1, 1]
    assert all(trial.run.recipe.seed == 0 and trial.run.recipe.fit.steps == 3 for trial in made)
    assert made[1].run.recipe.distill.loss == "mse"


def test_a_teacher_is_lent_where_it_would_be_the_same(tmp_path):
    made = list(trials(STUDY, [], tmp_path))
    fused, mse, other, *later = made
    fused.run.teacher.mkdir(parents=True)
    (fused.run.teacher / "fused.safetensors").write_text("fitted")
    for trial in (mse, other, *later):
        lend_teacher(trial, made)
    lent = [trial.cell for trial in made if trial.run.finished("fit")]
    assert lent == ["fused", "mse", "fused", "mse"]
    assert (later[1].run.teacher / "fused.safetensors").read_text() == "fitted"
    assert {path.name for path in later[1].run.folder.iterdir()} == {"teacher", "recipe.yaml"}


def test_a_folder_of_other_settings_is_refused_lent_teachers_among_them(tmp_path):
    """Its scores, or a teacher that was fitted otherwise, would pass for these."""
    made = list(trials(STUDY, ["fit.steps=5"], tmp_path))
    made[0].run.teacher.mkdir(parents=True)
    lend_teacher(made[1], made)
    demand_same(made)
    demand_same(list(trials(STUDY, ["fit.steps=5", "fit.save_every=2"], tmp_path)))
    other = "fit.steps=900"
    with pytest.raises(RecipeError, match=r"mse-seed0 holds a run of other settings; they differ in fit\.steps"):
        demand_same(list(trials(STUDY, [other], tmp_path)))
    study = tmp_path / "study.yaml"
    study.write_text("against: one\nseeds: [0]\nwords: []\ncells: {one: [recipe=wavlm], mse: [recipe=wavlm+whisper]}")
    with pytest.raises(RecipeError, match=r"mse-seed0 holds a run of other settings(.|\n)*runs=<folder>"):
        main([f"study={study}", f"runs={tmp_path}", "cells=one", other])


def test_a_fit_that_fails_is_not_tried_again_by_the_same_run_and_its_recipe_keeps_all_stages(tmp_path):
    made, asked = list(trials(replace(STUDY, seeds=[0]), [], tmp_path)), []

    def launch(words, job, jobs) -> int:
        asked.append((dict(word.split("=", 1) for word in words)["name"], words[-1] == "stages=[fit]"))
        if asked[-1] == ("fused-seed0", True):
            (tmp_path / "fused-seed0/teacher").mkdir(parents=True)
            save(replace(made[0].run.recipe, stages=["fit"]), tmp_path / "fused-seed0/recipe.yaml")
        return int(asked[-1] == ("one-seed0", True))

    assert run_all(made, launch, jobs=2) == ["one-seed0"]
    assert sorted(asked) == [("fused-seed0", False), ("fused-seed0", True), ("mse-seed0", False), ("one-seed0", True)]
    assert read_saved(tmp_path / "fused-seed0/recipe.yaml").stages == made[0].run.recipe.stages


def test_what_failed_keeps_nothing_else_from_running(tmp_path):
    asked = []

    def launch(words, job, jobs) -> int:
        assert (job, jobs) == (0, 1)
        asked.append(next(word for word in words if word.startswith("name=")))
        return int("name=mse-seed0" in words)

    assert run_all(list(trials(STUDY, [], tmp_path)), launch) == ["mse-seed0"]
    assert len(asked) == 6


def test_several_runs_at_once_keep_to_their_number_and_fit_each_teacher_once(tmp_path):
    made, lock, free, most, fitted, whole = list(trials(STUDY, [], tmp_path)), Lock(), set(range(2)), [0], [], []
    by_name = {trial.run.folder.name: trial for trial in made}

    def launch(words, job, jobs) -> int:
        trial = by_name[dict(word.split("=", 1) for word in words)["name"]]
        with lock:
            assert jobs == 2
            free.remove(job)  # no other run has it
            most[0] = max(most[0], 2 - len(free))
        sleep(0.2)
        with lock:
            free.add(job)
            if words[-1] == "stages=[fit]":
                fitted.append(trial.cell)
                trial.run.teacher.mkdir(parents=True)
                return 0
            whole.append((trial.cell, trial.seed, trial.run.finished("fit")))
        return int(trial.cell == "one")

    assert run_all(made, launch, jobs=2) == ["one-seed0", "one-seed1"]
    assert most == [2] and sorted(whole) == sorted((cell, seed, True) for cell in CELLS for seed in (0, 1))
    assert len(fitted) == 2 and "one" in fitted, "fused and mse have one teacher"


def test_jobs_have_cores_and_logs_of_their_own(tmp_path, monkeypatch):
    """The command is replaced by one that says which cores it may use."""
    (tmp_path / "distill.py").write_text("import os; print(sorted(os.sched_getaffinity(0)))")
    script = "import time, runpy; time.sleep(0.2); runpy.run_path('distill.py')"
    monkeypatch.setattr("benchmarks.study.ROOT", tmp_path)
    monkeypatch.setattr("benchmarks.study.COMMAND", [sys.executable, "-c", script])
    cores = sorted(os.sched_getaffinity(0))
    for job in range(len(cores) + 1):
        words = [f"runs={tmp_path}/runs", f"name=job{job}"]
        jobs = len(cores) + 1 if job == len(cores) else max(len(cores), 2)
        assert launched(words, job, jobs) == 0
        assert json.loads((tmp_path / f"runs/job{job}.log").read_text()) == [cores[job % len(cores)]]
    assert sorted(os.sched_getaffinity(0)) == cores


def test_a_checkpoint_for_all_cells_is_for_those_that_have_the_upstream(tmp_path):
    given = ["teacher.checkpoints.whisper=a/b", "teacher.checkpoints.wavlm=c/d", "fit.steps=3"]
    made = {trial.cell: trial.run.recipe for trial in trials(STUDY, given, tmp_path)}
    assert made["fused"].teacher.checkpoints == {"wavlm": "c/d", "whisper": "a/b"}
    assert made["one"].teacher.checkpoints == {"wavlm": "c/d"}
    assert all(recipe.fit.steps == 3 for recipe in made.values())
    with pytest.raises(RecipeError, match=r"teacher\.checkpoints: there is no 'wisper'; did you mean 'whisper'"):
        list(trials(STUDY, ["teacher.checkpoints.wisper=a/b"], tmp_path))


def test_some_cells_and_seeds_are_chosen_and_the_teachers_of_other_runs_are_lent(tmp_path):
    assert some("seeds", "2", ["0", "1", "2"]) == ["2"] and some("cells", "", CELLS) == list(CELLS)
    with pytest.raises(RecipeError, match="seeds: there is no '7'"):
        some("seeds", "0,7", ["0", "1"])
    made = list(trials(STUDY, [], tmp_path))
    made[0].run.teacher.mkdir(parents=True)
    later = [trial for trial in made if trial.seed == 1]
    assert run_all(later, lambda *words: 0, made) == []
    assert [trial.cell for trial in later if trial.run.finished("fit")] == ["fused", "mse"]


def test_a_study_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="study: against: there is no 'fusd'; did you mean 'fused'"):
        replace(STUDY, against="fusd")
    with pytest.raises(RecipeError, match="cannot read the study"):
        read_study(tmp_path / "none.yaml")
    for text in ("cell: {one: [recipe=wavlm]}", "seeds: [0]", "- one", ""):
        (tmp_path / "study.yaml").write_text(text)
        with pytest.raises(RecipeError, match=r"cannot read the study .*study.yaml(.|\n)*there are against, seeds"):
            read_study(tmp_path / "study.yaml")
    for jobs in ("0", "-1", "two"):
        with pytest.raises(RecipeError, match=f"jobs={jobs} must be a whole number of runs at once, 1 or more"):
            main([f"jobs={jobs}", f"runs={tmp_path}"])


@pytest.mark.parametrize("name", ["fused", "human"])
def test_the_studies_of_the_repository_are_of_recipes_that_load(name, tmp_path):
    study = read_study(ROOT / f"recipes/studies/{name}.yaml")
    made = list(trials(study, [], tmp_path))
    assert len(made) == len(study.cells) * len(study.seeds) and len(study.seeds) >= 3
    assert all(len(trial.run.recipe.evaluate.seeds) >= 2 for trial in made)
    different = {cell: [t.run.recipe for t in made if t.cell == cell][1] for cell in study.cells}
    plain = [replace(recipe, name="") for recipe in different.values()]
    assert all(one != other for n, one in enumerate(plain) for other in plain[:n]), "two cells are the same"


@pytest.mark.slow
def test_a_study_really_runs_and_goes_on_where_it_was(miniature: Miniature, tmp_path: Path):
    own = [word for word in miniature.words(tmp_path) if not word.startswith(("recipe=", "runs=", "name="))]
    words = [word for word in own if not word.startswith("teacher.checkpoints")]
    checkpoints = [word for word in own if word.startswith("teacher.checkpoints")]
    cells = {
        "fused": ["recipe=wavlm+whisper", *checkpoints],
        "both": [
            "recipe=wavlm+whisper",
            *checkpoints,
            "distill.supervise=both",
            "distill.drop=0.5",
            "distill.mask=0.3",
        ],
    }
    study = Study("fused", [0, 1], [*words, "evaluate.tasks=[er,lid]"], cells)
    made = list(trials(study, [], tmp_path))

    def launch(words, job, jobs) -> int:
        job = miniature.start(words)
        assert job.code() == 0, job.said()
        return 0

    assert run_all(made[:3], launch) == []
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    asked: list = []
    assert run_all(made, lambda *told: asked.append(told) or launch(*told)) == []
    assert len(asked) == 1, "three were finished"
    assert all(path.stat().st_mtime_ns == then for path, then in before.items()), "and left alone"
    students = {(trial.run.student / "model.safetensors").read_bytes() for trial in made}
    assert len(students) == 4
    teachers = {(trial.run.teacher / "fused.safetensors").read_bytes() for trial in made}
    assert len(teachers) == 1
    lines = [json.loads(line) for line in (made[1].run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"distill"}, "the teacher was lent"
    assert {"explained_variance_1", "explained_variance_wavlm_2", "cosine_whisper_1"} <= lines[-1].keys()
    assert set(verdict(finished(made), "fused", {})["cells"]) == {"fused", "both"}
    assert "both (2)" in write_verdict(finished(made), "fused", {}, tmp_path)


HARDER = [
    *("distill.supervise=both", "distill.drop=0.5", "distill.balance=uncertainty", "distill.mask=0.4"),
    *("distill.noise_share=0.8", "teacher.standardise=phi-s", "teacher.interface=gumbel", "distill.targets=online"),
]


@pytest.mark.slow
def test_whatever_is_drawn_anew_a_killed_run_gives_the_same_student(miniature: Miniature, tmp_path: Path):
    """Masks, noise, dropped sources and drawn layers; and rows may be left out of the table, not only of the report."""
    words = {name: miniature.words(tmp_path / name, *HARDER, "evaluate.rows=[student]") for name in ("whole", "killed")}
    said = miniature.run(words["whole"])
    for place in ("checkpoints/fit/step-000002", "checkpoints/distill/step-000004"):
        job = miniature.start(words["killed"], moment=Moment("os.rename", f"{place}.unfinished"))
        assert job.code() < 0, f"not killed:\n{job.said()}"
    miniature.run(words["killed"])
    runs = [tmp_path / name / "run" for name in words]
    for file in ("teacher/fused.safetensors", "student/model.safetensors", "student/heads.safetensors"):
        assert len({(run / file).read_bytes() for run in runs}) == 1, f"{file} differs"
    assert set(json.loads((runs[0] / "evaluation.json").read_text())["rows"]) == {"student"}
    assert "report: " in said and (runs[0] / "report.html").exists()
    assert "untrained" in miniature.run([*words["whole"], "evaluate.rows=[student,untrained]"])
