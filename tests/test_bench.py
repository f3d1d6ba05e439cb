"""The benchmark on tiny models: it accounts for all of the time, and for the padding there is."""

import io
from time import perf_counter, sleep

import datasets
import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from benchmarks.throughput import Clock, distilling, fitting, hearing, probing, table, time_steps
from distill.data.clips import Clips
from distill.evaluation import Evaluate
from distill.frames import FrameCache
from distill.frozen import Frozen
from distill.fusion import Standardiser
from distill.recipe import Distill
from distill.targets import Supervision, memory, online
from distill.teacher import FusedTeacher
from distill.waveform import Waveform
from teachers.whisper import WhisperEncoder

CPU = torch.device("cpu")
SETTINGS = Distill(layers=2, interface_weight=1.0)
QUICK = Evaluate(batch=4)
SAMPLES = (8000, 12000)  # of the clips, in turn


class Engine(nn.Module):
    """What DeepSpeed's engine is to the benchmark."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=0.0)

    def forward(self, *inputs):
        return self.module(*inputs)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


@pytest.fixture(scope="module")
def clips() -> Clips:
    rng, rows = np.random.default_rng(0), []
    for i in range(16):
        file = io.BytesIO()
        soundfile.write(file, 0.1 * rng.standard_normal(SAMPLES[i % 2]), 16_000, format="WAV", subtype="FLOAT")
        labels = {"transcript": "ab", "speaker": str(i % 3), "style": str(i % 2), "language": ("de", "en")[i % 2]}
        audio = {"bytes": file.getvalue(), "path": None}
        rows.append({"id": str(i), "audio": audio, "samples": SAMPLES[i % 2]} | labels)
    return Clips(datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False)))


@pytest.fixture
def clock() -> Clock:
    return Clock(CPU)


@pytest.fixture
def teacher(build_model, build_whisper, clock) -> FusedTeacher:
    upstreams = {
        "wavlm": Frozen(Waveform(build_model("wavlm", norm="layer"), normalize=True)),
        "whisper": Frozen(WhisperEncoder(build_whisper())),
    }
    for name, upstream in upstreams.items():
        clock.watch(name, upstream)
    return FusedTeacher(upstreams, "sum", 0, "hconv", seed=0)


def demand_whole(steps: dict, parts: set[str]) -> None:
    """All parts are there, took time, and are the whole of the step."""
    assert steps["share"].keys() == parts
    assert min(steps["share"].values()) > 0 and steps["rate"] > 0
    assert sum(steps["share"].values()) == pytest.approx(1)


def test_a_second_belongs_to_the_innermost_part_alone(clock):
    started = perf_counter()
    with clock.part("outer"):
        with clock.part("inner"):
            sleep(0.05)
        sleep(0.01)
    passed = perf_counter() - started
    assert clock.seconds["inner"] >= 0.05 and clock.seconds["outer"] >= 0.01
    assert sum(clock.seconds.values()) == pytest.approx(passed, abs=0.005)


def test_the_parts_of_a_fit_step_are_the_whole_of_it(clock, teacher, clips):
    module, objective = fitting(clock, teacher, ["asr", "sv", "er", "lid"], clips)
    steps = time_steps(clock, Engine(module), objective, 4.0, 1)
    ours = {"data", "wavlm", "whisper", "fusion", "interface", "heads, loss", "backward", "optimizer"}
    demand_whole(steps, ours)


@pytest.mark.parametrize("passes", [1, 2])
def test_the_parts_of_a_distill_step_are_the_whole_of_it(clock, teacher, clips, build_tiny_student, passes):
    student, supervision = build_tiny_student(), Supervision(teacher, [1, 2], summary=True)
    ours = {"data", "targets", "student", "heads, loss", "backward", "optimizer"}
    recall = memory(supervision, clips, 4.0, CPU)
    module, objective = distilling(clock, teacher, student, clips, recall, SETTINGS)
    demand_whole(time_steps(clock, Engine(module), objective, 4.0, passes), ours)
    module, objective = distilling(clock, teacher, student, clips, online(supervision), SETTINGS)
    demand_whole(time_steps(clock, Engine(module), objective, 4.0, passes), ours | {"wavlm", "whisper"})


def test_padding_is_what_is_no_clips(clock, teacher, clips):
    module, objective = fitting(clock, teacher, ["sv"], clips)
    whole = time_steps(clock, Engine(module), objective, 60.0, 1)  # all clips in one batch
    assert whole["padding"] == pytest.approx(1 - sum(SAMPLES) / (2 * max(SAMPLES)))
    single, objective = fitting(clock, teacher, ["sv"], clips.select(range(0, 16, 2)))
    assert time_steps(clock, Engine(single), objective, 60.0, 1)["padding"] == 0


def test_hearing_and_probing_have_a_rate_and_it_is_shown(teacher, clips):
    cache = FrameCache.extract(teacher, clips, Standardiser(teacher.layers, teacher.width), 4.0, CPU)
    rates = {name: probing(name, clips, cache, QUICK, CPU) for name in QUICK.tasks}
    rates["teacher"] = hearing(Frozen(teacher), clips, 4.0, CPU)
    assert min(rates.values()) > 0
    steps = {"fit": {"share": {"data": 0.25, "backward": 0.75}, "padding": 0.031}}
    result = {"recipe": "a+b", "scale": "mini", "machine": "CPU", "memory_gb": 1.0}
    shown = table(result | {"steps": steps, "audio_seconds_per_second": rates})
    assert all(f"{value:.1f}" in shown for value in (*rates.values(), 25.0, 75.0, 3.1))
