"""The stages of a run: what each of them is given."""

from pathlib import Path

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
