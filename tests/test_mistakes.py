"""What a user can get wrong ends in a message of a few lines, and leaves everything as it was."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from miniature import ROOT, Miniature, files

from distill.limits import RecipeError


@pytest.fixture
def fails(miniature: Miniature):
    """Runs `python distill.py` with these words; what it says, which is short and has no traceback."""

    def go(words: list[str]) -> str:
        job = miniature.start(words)
        assert job.code() == 1, job.said()
        said = job.said().partition("distill.py: ")[2]
        assert said and "Traceback" not in job.said(), job.said()
        assert len(said.splitlines()) <= 6, said
        return said

    return go


WRONG = {
    "a typo in a key": (["distill.step=3"], ["'distill.step'", "did you mean 'steps'?"]),
    "a key of another section": (["steps=3"], ["'steps'", "did you mean fit.steps or distill.steps"]),
    "a wrong type": (["fit.steps=many"], ["fit.steps wants an int", "'many'"]),
    "a value out of bounds": (["distill.warmup=1.5"], ["distill.warmup must be", "below 1", "1.5"]),
    "no number of steps": (["evaluate.batch=0"], ["evaluate.batch must be", "0"]),
    "an unknown scale": (["scale=minni"], ["scale", "'minni'", "did you mean 'mini'?"]),
    "an unknown stage": (["stages=[fit,destill]"], ["stages", "'destill'", "did you mean 'distill'?"]),
    "an unknown family": (["teacher.upstreams=[wavml]"], ["'wavml'", "did you mean 'wavlm'?"]),
    "an unknown architecture": (["student.architecture=hubart"], ["'hubart'", "hubert"]),
    "a front end that the upstream has not": (
        ["student.feat_extract_norm=layer"],
        ["the upstream has feat_extract_norm group, the student layer", "student.front_end="],
    ),
    "a student deaf to short clips": (
        ["student.conv_kernel=[20,6,3,2,200]", "student.front_end="],
        ["too short for one frame"],
    ),
    "no key at all": (["fast"], ["'fast'", "key=value"]),
    "a student under a taken name": (["evaluate.students=[x/teacher]"], ["teacher is the name of another row"]),
    "a card without the student": (
        ["stages=[fit,distill,evaluate,publish]", "publish.dry_run=true", "evaluate.rows=[teacher]"],
        ["evaluate.rows=['teacher'] leaves out the student", "take evaluate.rows=[student,teacher]"],
    ),
    "a missing checkpoint": (["teacher.checkpoints.wavlm=./nowhere"], ["./nowhere", "no such folder", "scale=mini"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_user_can_get_wrong_is_told_in_a_few_lines(miniature: Miniature, fails, tmp_path, what):
    given, expected = WRONG[what]
    said = fails(miniature.words(tmp_path, *given))
    for words in expected:
        assert words in said
    made = {path.name for path in tmp_path.glob("run/*")}
    assert made <= {"recipe.yaml", "environment.json"}, "something was trained before it was said"


def test_sharded_heads_that_gradients_cannot_reach_are_refused_before_fit(
    miniature: Miniature, fails, tmp_path, monkeypatch
):
    machine = {"USE_DEEPSPEED": "true", "MIXED_PRECISION": "no", "DEEPSPEED_ZERO_STAGE": "3"}
    whole = miniature.environment() | {f"ACCELERATE_{name}": value for name, value in machine.items()}
    monkeypatch.setattr(Miniature, "environment", lambda self: whole)
    assert "set zero_stage: 2" in fails(miniature.words(tmp_path, "distill.balance=gradient"))
    assert {path.name for path in tmp_path.glob("run/*")} == {"recipe.yaml", "environment.json"}


def test_an_unknown_recipe_names_the_known_ones(fails):
    said = fails(["recipe=wavlm+wisper"])
    assert "unknown recipe 'wavlm+wisper'" in said and "did you mean 'wavlm+whisper'?" in said and "hubert" in said


def test_another_recipe_in_an_old_folder_says_what_differs_and_leaves_it_alone(miniature: Miniature, fails, launched):
    before = files(launched[0])
    said = fails(miniature.words(launched[0].parent, "distill.steps=7", "student.layers=3"))
    assert "differ in distill.steps, student.layers" in said and "name=" in said
    assert str(launched[0] / "recipe.yaml") in said
    assert files(launched[0]) == before


@pytest.mark.parametrize("place", ["runs", "run", "parent"])
def test_a_run_folder_that_cannot_be_made_is_named(miniature: Miniature, fails, tmp_path, place):
    """A file where a folder is wanted: to root no folder is read-only."""
    runs = {"runs": tmp_path / "runs", "run": tmp_path, "parent": tmp_path / "runs" / "deeper"}[place]
    (tmp_path / "run" if place == "run" else tmp_path / "runs").write_text("a file")
    said = fails(miniature.words(runs))
    assert f"cannot write the run folder {runs / 'run'}" in said and "runs=<folder>" in said


def test_only_the_main_process_writes_in_a_run_folder_and_all_refuse_another_recipe(tmp_path):
    """Several that began it together took each other's files for a full disk."""
    from distill.recipe import Recipe
    from distill.run import open_run

    recipe = Recipe("wavlm", name="run", runs=str(tmp_path))
    open_run(recipe, begins=False)
    assert not (tmp_path / "run").exists()
    open_run(recipe)
    (tmp_path / "run/teacher").mkdir()
    for begins in (True, False):
        with pytest.raises(RecipeError, match="differ in seed"):
            open_run(replace(recipe, seed=1), begins)


def test_another_run_that_has_no_student_is_refused_before_anything_is_trained(miniature: Miniature, fails, tmp_path):
    said = fails(miniature.words(tmp_path, f"evaluate.students=[{tmp_path}/nope]"))
    assert f"evaluate.students: {tmp_path}/nope has no student" in said
    assert not (tmp_path / "run/teacher").exists()


def test_a_read_only_run_folder_is_named(monkeypatch, tmp_path):
    from distill import run
    from distill.recipe import Recipe

    def refuse(self: Path, *args, **settings) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(OSError, match=r"run: .*Permission denied.*\n.*runs=<folder>"):
        run.open_run(Recipe("wavlm+whisper", name="run", runs=str(tmp_path)))


def test_the_plain_command_itself_fails_without_a_traceback(miniature: Miniature, tmp_path):
    """Not a fork: `python distill.py`, as a user types it."""
    words = [sys.executable, "distill.py", *miniature.words(tmp_path, "fit.step=1")]
    done = subprocess.run(words, cwd=ROOT, env=miniature.environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("distill.py: unknown key 'fit.step'") and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4
    assert not any(tmp_path.iterdir())


def test_a_stage_out_of_order_says_what_comes_before(miniature: Miniature, fails, tmp_path):
    said = fails(miniature.words(tmp_path, "stages=[distill]"))
    assert "no finished stage fit" in said and "stages=[fit,distill]" in said
