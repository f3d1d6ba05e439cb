"""Killed at any moment and typed again, the command gives the same student, bit for bit."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from miniature import (
    CONFIG,
    ROOT,
    Miniature,
    Moment,
    assert_same_result,
    files,
    journal,
    wait_for,
    weights,
)

from distill.evaluation import table

BOTH = os.sched_getaffinity(0)  # a core for each of two processes, where there are two
FINISHED = re.compile(r"/(teacher|student)/|/evaluation/[a-z.-]+\.json$")  # teacher, student, rows and cells
# In the order in which a run comes to them: each kill lets the next command come further.
MOMENTS = [
    Moment("os.rename", "recipe.unfinished"),
    Moment("os.mkdir", "checkpoints/fit/step-000002.unfinished"),
    Moment("os.rename", "checkpoints/fit/step-000003.unfinished"),
    Moment("shutil.rmtree", "checkpoints/fit/step-000002"),  # two whole checkpoints
    Moment("os.rename", ".teacher.unfinished"),
    Moment("open", "metrics.jsonl", count=4),  # read, written anew, two lines: in the fourth step at the latest
    Moment("open", "checkpoints/distill/step-000002.unfinished"),
    Moment("os.rename", "checkpoints/distill/step-000004.unfinished"),
    Moment("os.rename", ".student.partial"),
    Moment("shutil.rmtree", "checkpoints/distill"),
    Moment("os.rename", "evaluation/wavlm.asr.json"),
    Moment("os.rename", "evaluation/student.lid.json"),
    Moment("os.rename", "evaluation.json"),
]


def test_killed_at_any_change_of_its_folder_a_run_goes_on_as_if_it_were_not(miniature: Miniature, launched, tmp_path):
    words, run = miniature.words(tmp_path), tmp_path / "run"
    finished: dict[str, tuple[int, int]] = {}
    for moment in MOMENTS:
        job = miniature.start(words, moment=moment)
        assert job.code() == -signal.SIGKILL, f"not killed at {moment}:\n{job.said()}"
        made = {name: found for name, found in files(tmp_path).items() if FINISHED.search(name)}
        assert finished.items() <= made.items(), "what was finished was repeated"
        finished = made
    miniature.run(words)
    assert finished.items() <= files(tmp_path).items(), "what was finished was repeated"
    assert not (run / "checkpoints/distill").exists()
    assert_same_result(run, launched[0])


def test_killed_at_random_times_a_run_goes_on_as_if_it_were_not(miniature: Miniature, launched, tmp_path):
    words = miniature.words(tmp_path)
    draw = random.Random()
    for stage in ("checkpoints/fit/step*", "checkpoints/distill/step*", "evaluation/teacher.*"):
        job = miniature.start(words)
        wait_for(job, tmp_path / "run", stage)
        time.sleep(draw.uniform(0, 0.1))
        job.process.kill()
        assert job.code() == -signal.SIGKILL, job.said()
    miniature.run(words)
    assert_same_result(tmp_path / "run", launched[0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_one_change_after_another(miniature: Miniature, launched, tmp_path, seed):
    """Any change of the folder may be the last, in files we never thought of."""
    draw, words, kills = random.Random(seed), miniature.words(tmp_path), 0
    while True:
        most = round(40 * 1.5**kills)  # ever later, as what is found again is opened too: the run must end
        job = miniature.start(words, moment=Moment("", "", draw.randint(1, most)))
        if job.code() == 0:
            break
        assert job.process.exitcode == -signal.SIGKILL, job.said()
        kills += 1
    assert kills >= 5
    assert_same_result(tmp_path / "run", launched[0])


def test_a_finished_run_only_shows_its_table(miniature: Miniature, launched):
    run, said = launched
    before = files(run)
    again = miniature.run(miniature.words(run.parent))
    assert files(run) == before, "it wrote something"
    for line in table(json.loads((run / "evaluation.json").read_text())).splitlines():
        assert line in again
    assert "to do:" in said and "to do:" not in again


def test_a_full_disk_ends_in_a_few_lines_and_loses_nothing(miniature: Miniature, launched, tmp_path):
    """No file may grow beyond 20 kB: room for a recipe, not for a checkpoint."""
    words, run = miniature.words(tmp_path, "stages=[fit]"), tmp_path / "run"
    assert miniature.start(words, moment=Moment("os.mkdir", "fit/step-000003.unfinished")).code() < 0
    full = miniature.start(words, most_bytes=20_000)
    assert full.code() == 1
    said = full.said().partition("distill.py: ")[2]
    assert "cannot write" in said and "step-000003" in said and "is the disk full?" in said, full.said()
    assert len(said.splitlines()) <= 4 and "Traceback" not in full.said()
    assert (run / "checkpoints/fit/step-000002").is_dir()
    miniature.run(words)
    fitted = "teacher/fused.safetensors"
    assert (run / fitted).read_bytes() == (launched[0] / fitted).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "targets", "shard"),
    [
        *((2, targets, "false") for targets in ("online", "memory", "cached", "codes")),
        *((3, "memory", "false"), (2, "online", "true"), (3, "codes", "true")),
    ],
)
def test_two_processes_killed_at_random_times_go_on_as_if_they_were_not(
    miniature: Miniature, tmp_path, stage, targets, shard
):
    """Two of them train; evaluation is the same code for one."""
    config, given = with_stage(stage, tmp_path), [f"distill.targets={targets}", f"teacher.shard={shard}"]
    launcher = ["--config_file", str(config), "--num_processes", "2", "--main_process_port", "0"]
    whole, killed = (
        miniature.words(
            *(tmp_path / name, "stages=[fit,distill]", "distill.forward_seconds=3", *given),
            f"distill.cache={tmp_path / name / 'cache'}",
        )
        for name in ("whole", "killed")
    )
    assert "2 processes" in miniature.launch(launcher, whole, BOTH)
    draw, run = random.Random(), tmp_path / "killed" / "run"
    for pattern in ("checkpoints/fit/step*", "checkpoints/fit/*.unfinished", "checkpoints/distill/step*"):
        command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, "distill.py", *killed]
        process = subprocess.Popen(
            command, cwd=ROOT, env=miniature.environment(), start_new_session=True, stdout=subprocess.DEVNULL
        )
        try:
            while not any(run.glob(pattern)):
                assert process.poll() is None
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.1))
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    miniature.launch(launcher, killed, BOTH)
    same = ("student/model.safetensors", "teacher/fused.safetensors")
    assert all((run / name).read_bytes() == (tmp_path / "whole/run" / name).read_bytes() for name in same)
    assert journal(run) == journal(tmp_path / "whole/run")
    assert weights(run)


def with_stage(zero: int, folder: Path) -> Path:
    """Our config file with another ZeRO stage."""
    text = CONFIG.read_text()
    assert "zero_stage: 2" in text
    path = folder / "config.yaml"
    path.write_text(text.replace("zero_stage: 2", f"zero_stage: {zero}"))
    return path
