"""The stages of a run: what each of them is given."""

from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
from miniature import Miniature
from spoken import make_clips

from distill import runtime, stages
from distill.data.trials import Trials
from distill.loading import load
from distill.run import Run
from distill.tasks import TASKS
from teachers import FAMILIES


def test_the_seed_of_a_student_draws_its_distillation_and_nothing_else():
    """So that other students of one teacher differ in nothing but chance."""
    run = Run(load(["recipe=wavlm", "seed=3", "distill.seed=5"], FAMILIES), Path("runs/x"))
    settings = {"fit": run.recipe.fit, "distill": run.recipe.distill, "finetune-asr": run.recipe.finetune}
    seeds = {stage: stages.plan(run, stage, asked, 1).seed for stage, asked in settings.items()}
    assert seeds == {"fit": 3, "distill": 5, "finetune-asr": 3}


def test_fine_tuned_verification_is_scored_on_all_clips_of_its_trial_list(monkeypatch, tmp_path):
    """A draw of `evaluate.score_clips` would lack some of them."""
    clips = make_clips(speaker=["x", "x", "y", "y", "z", "z"])
    clips.trials = Trials(["0", "0", "2"], ["1", "5", "3"], [1, 0, 1], [1, 2, 3])
    run = Run(load(["recipe=wavlm", "evaluate.score_clips=2"], FAMILIES), tmp_path)
    downstream = MagicMock(**{"stock.parameters.return_value": []})

    def score(model, task, clips, seconds, device):
        return task.score(list(np.eye(len(clips))), clips)

    monkeypatch.setattr(runtime, "start", lambda *given, **more: MagicMock(is_main_process=True))
    monkeypatch.setattr(runtime, "finish", lambda accelerator: None)
    monkeypatch.setattr(stages, "finetune", lambda *given: (downstream, TASKS["sv"]))
    monkeypatch.setattr(stages, "score", score)
    saved, splits = [], {"train": clips, "test": clips}
    found = stages.finetune_student(run, MagicMock(), "sv", splits, tmp_path, lambda *given: saved.append(given))
    assert found["clips"] == 5 and len(saved) == 1


def test_a_run_of_no_steps_is_reported_too(miniature: Miniature, tmp_path: Path):
    """As teachers and students that nothing has trained are compared with those that have learned."""
    words = ["fit.steps=0", "distill.steps=0", "evaluate.tasks=[er]", "evaluate.rows=[log-mel,student]"]
    miniature.run(miniature.words(tmp_path, *words))
    assert "log-mel" in (tmp_path / "run/report.md").read_text()
