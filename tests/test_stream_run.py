"""A run that hears a stream: the loop keeps its place in it, and an interruption changes nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from miniature import CONFIG, ROOT, Miniature, Moment, journal, weights
from streams import feed, source
from torch import Tensor, nn

from distill.data.batches import Batch
from distill.data.clips import Clips
from distill.loop import Plan, optimizer, train

BOTH = os.sched_getaffinity(0)  # a core for each of two processes, where there are two
pytestmark = pytest.mark.usefixtures("offline")


class StoppedError(Exception):
    """As a kill would."""


@dataclass
class Level:
    """Learns to tell the level of clips; counts are clips."""

    clips: Clips
    stop: int  # at this pass
    heard: list[list[str]] = field(default_factory=list)

    def counts(self, rows: np.ndarray) -> Tensor:
        raise AssertionError("a stream has no rows")

    def outcome(self, model: nn.Module, batch: Batch, progress: float) -> tuple[Tensor, Tensor]:
        if len(self.heard) == self.stop:
            raise StoppedError
        self.heard.append(batch.ids)
        loss = (model(batch.audio.abs().mean(1, keepdim=True)) - 1).square().sum() / batch.counts[0]
        return loss, loss.detach().double()[None]

    def read(self, tally: Tensor) -> dict[str, float]:
        return {"loss": float(tally[0])}


def learn(four: Path, folder: Path, stop: int) -> tuple[Level, dict[str, Tensor]]:
    """What eight steps of two passes teach, each from its newest checkpoint; until it is stopped."""
    folder.mkdir(exist_ok=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    machine = Accelerator(cpu=True, gradient_accumulation_steps=2)
    torch.manual_seed(1)
    module, level = nn.Linear(1, 1), Level(cast(Clips, None), stop)  # nobody may ask for its clips
    model, trainer = machine.prepare(module, optimizer(module, 0.1))
    plan = Plan("toy", 0, 8, 3.0, 2, 0.1, 0.25, 3, 1)
    with contextlib.suppress(StoppedError):
        train(machine, model, trainer, level, plan, folder, feed(source(four, buffer=8.0)))
    return level, {name: value.clone() for name, value in module.state_dict().items()}


def test_the_loop_keeps_the_place_in_the_stream_and_goes_on_from_it(four, tmp_path):
    whole, learned = learn(four, tmp_path / "whole", -1)
    stopped, _ = learn(four, tmp_path / "stopped", 9)  # in step 4, after the checkpoint of step 3
    assert (tmp_path / "stopped/checkpoints/toy/step-000003/stream-00000.json").exists()
    resumed, again = learn(four, tmp_path / "stopped", -1)
    assert len(whole.heard) == 16 and stopped.heard == whole.heard[:9] and resumed.heard == whole.heard[6:]
    assert all(torch.equal(learned[name], again[name]) for name in learned)


def words(miniature: Miniature, runs: Path, folder: Path) -> list[str]:
    given = ["stages=[fit,distill]", "distill.targets=online", f"distill.stream.name={folder}"]
    return miniature.words(runs, *given, "distill.stream.buffer=16", "data.shortest=0.25")


def test_a_student_is_distilled_on_a_stream(miniature: Miniature, four, tmp_path):
    said = miniature.run(words(miniature, tmp_path, four))
    assert f"distilled on a stream: {four}, train\n4 parquet files" in said and "too short" in said
    assert [line["step"] for line in journal(tmp_path / "run") if line["stage"] == "distill"] == list(range(1, 7))
    assert f"Trained on {four}, its teacher on" in (tmp_path / "run/student/README.md").read_text()


@pytest.mark.slow
def test_killed_it_goes_on_as_if_it_were_not(miniature: Miniature, four, tmp_path):
    miniature.run(words(miniature, tmp_path / "whole", four))
    killed = words(miniature, tmp_path / "killed", four)
    job = miniature.start(killed, moment=Moment("os.mkdir", "checkpoints/distill/step-000004.unfinished"))
    assert job.code() == -signal.SIGKILL, job.said()
    miniature.run(killed)
    run, whole = tmp_path / "killed/run", tmp_path / "whole/run"
    assert (run / "student/model.safetensors").read_bytes() == (whole / "student/model.safetensors").read_bytes()
    assert journal(run) == journal(whole)


@pytest.mark.slow
def test_two_processes_hear_a_stream_and_killed_go_on_as_if_they_were_not(miniature: Miniature, four, tmp_path):
    launcher = ["--config_file", str(CONFIG), "--num_processes", "2", "--main_process_port", "0"]
    said = miniature.launch(launcher, words(miniature, tmp_path / "whole", four), BOTH)
    assert "2 processes" in said and said.count("4 parquet files") == 1
    killed, run = words(miniature, tmp_path / "killed", four), tmp_path / "killed/run"
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, "distill.py", *killed]
    process = subprocess.Popen(command, cwd=ROOT, env=miniature.environment(), start_new_session=True)
    try:
        while not (run / "checkpoints/distill/step-000002").exists():
            assert process.poll() is None
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    miniature.launch(launcher, killed, BOTH)
    mine, theirs = weights(run), weights(tmp_path / "whole/run")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert journal(run) == journal(tmp_path / "whole/run")
