"""The stages of a run: what each of them is given."""

from pathlib import Path

from miniature import Miniature

from distill import stages
from distill.loading import load
from distill.run import Run
from teachers import FAMILIES


def test_the_seed_of_a_student_draws_its_distillation_and_nothing_else():
    """So that other students of one teacher differ in nothing but chance."""
    run = Run(load(["recipe=wavlm", "seed=3", "distill.seed=5"], FAMILIES), Path("runs/x"))
    settings = {"fit": run.recipe.fit, "distill": run.recipe.distill, "finetune-asr": run.recipe.finetune}
    seeds = {stage: stages.plan(run, stage, asked, 1).seed for stage, asked in settings.items()}
    assert seeds == {"fit": 3, "distill": 5, "finetune-asr": 3}


def test_a_run_of_no_steps_is_reported_too(miniature: Miniature, tmp_path: Path):
    """As teachers and students that nothing has trained are compared with those that have learned."""
    words = ["fit.steps=0", "distill.steps=0", "evaluate.tasks=[er]", "evaluate.rows=[log-mel,student]"]
    miniature.run(miniature.words(tmp_path, *words))
    assert "log-mel" in (tmp_path / "run/report.md").read_text()
