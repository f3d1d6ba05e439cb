"""The benchmark on tiny models: it accounts for all of the time, and for the padding there is."""

import io
from dataclasses import replace
from time import perf_counter, sleep

import datasets
import numpy as np
import pytest
import soundfile
import torch

from benchmarks import anatomy, presets
from benchmarks.clock import BACKWARD, STEPS, WARM, Clock
from benchmarks.hearing import hearing, probing
from benchmarks.reference import Plain, break_even, ratios, reference, whole
from benchmarks.scaling import counts, launch, places
from benchmarks.steps import BEYOND, Feed, distilling, fitting, supervising, time_steps
from benchmarks.throughput import table
from distill.data.batches import Batches
from distill.data.clips import Clips
from distill.encoders.frames import FrameCache
from distill.encoders.frozen import Frozen
from distill.fusion import Standardiser
from distill.protocol import Evaluate
from distill.recipe import Distill
from distill.supervision.targets import Supervision, memory, online
from distill.teacher import FusedTeacher

CPU = torch.device("cpu")
SETTINGS = Distill(layers=2, interface_weight=1.0, supervise="fused")
QUICK = Evaluate(batch=4)
SAMPLES = (8000, 12000)  # of the clips, in turn


def feed(objective, seconds: float, passes: int = 1) -> Feed:
    """What `time_steps` hears, in one process."""
    deal = {"start": 0, "steps": WARM + STEPS + 1, "passes": passes, "process": 0, "processes": 1}
    batches = Batches(objective.clips, objective.counts, batch_seconds=seconds, seed=0, **deal)
    return ((batch, batch.seconds()) for batch in batches)


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
def teacher(pair, clock) -> FusedTeacher:
    made = pair("layer")
    for name, upstream in made.upstreams.items():
        clock.watch(name, upstream)
    return made


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


def test_a_backward_pass_is_split_where_the_gradient_comes_back():
    passed = [0.0]

    def takes(seconds: float, tensor: torch.Tensor) -> torch.Tensor:
        tensor.register_hook(lambda gradient: passed.__setitem__(0, passed[0] + seconds))
        return tensor

    clock = Clock(CPU, lambda: passed[0])
    weight = takes(4.0, torch.ones(1, requires_grad=True))
    heard = 2 * weight
    clock.split_backward("rest", heard)
    loss = takes(2.0, 2 * heard).sum()
    torch.autograd.grad(loss, heard, retain_graph=True)  # as a loss that weighs gradients does, in no part of its own
    assert not clock.seconds
    with clock.part(BACKWARD):
        loss.backward()
    assert clock.seconds == {BACKWARD: 2.0, "rest": 4.0}
    clock.split_backward("rest", heard.detach())  # a pass without a gradient


def test_what_is_neither_hearing_nor_learning_is_fusion_and_losses():
    told = {
        "wavlm": 0.5,
        "fusion": 0.04,
        "targets": 0.01,
        "heads, loss": 0.02,
        "student": 0.2,
        BACKWARD: 0.03,
        BEYOND: 0.2,
    }
    found = supervising({"fit": {"share": {"fusion": 1.0, BACKWARD: 1.0}}, "distill, online": {"share": told}})
    assert found == {"distill, online": pytest.approx(0.1)}


def test_the_parts_of_a_step_at_any_scale_are_told(capsys):
    student = ["student.layers=2", "distill.layers=2", "distill.supervise=fused"]
    anatomy.main(["clips=2", "seconds=0.5", "scale=mini", *student])
    title, *rows, total, supervised = [line for line in capsys.readouterr().out.splitlines() if line][1:]
    spent = {row[:22].strip(): float(row.split()[-2]) for row in rows}
    parts = {"data", "targets", "wavlm", "whisper", "fusion", "front end", "student", "heads, loss", "optimizer"}
    assert spent.keys() == parts | {BACKWARD, BEYOND, f"{BACKWARD}, front end"}
    assert sum(spent.values()) == pytest.approx(float(total.split()[-1]), abs=0.1)
    assert title.startswith("ms per audio second") and supervised.startswith("fusion and losses: ")


def test_the_parts_of_a_fit_step_are_the_whole_of_it(clock, teacher, clips):
    module, objective = fitting(clock, teacher, ["asr", "sv", "er", "lid"], clips)
    steps = time_steps(clock, Plain(module, 1.0), objective, feed(objective, 4.0), 1)
    ours = {"data", "wavlm", "whisper", "fusion", "interface", "heads, loss", "backward", "optimizer"}
    demand_whole(steps, ours)


@pytest.mark.parametrize("passes", [1, 2])
def test_the_parts_of_a_distill_step_are_the_whole_of_it(clock, teacher, clips, build_tiny_student, passes):
    student, supervision = build_tiny_student(), Supervision(teacher, [1, 2], summary=True)
    ours = {"data", "targets", "student", "heads, loss", BACKWARD, BEYOND, "optimizer"}
    recall = memory(supervision, clips, 4.0, CPU)
    module, objective = distilling(clock, teacher, student, clips, recall, SETTINGS)
    demand_whole(time_steps(clock, Plain(module, 1.0), objective, feed(objective, 4.0, passes), passes), ours)
    module, objective = distilling(clock, teacher, student, clips, online(supervision), SETTINGS)
    demand_whole(
        time_steps(clock, Plain(module, 1.0), objective, feed(objective, 4.0, passes), passes),
        ours | {"wavlm", "whisper"},
    )


def test_padding_is_what_is_no_clips(clock, teacher, clips):
    module, objective = fitting(clock, teacher, ["sv"], clips)
    whole = time_steps(clock, Plain(module, 0.0), objective, feed(objective, 60.0), 1)  # all clips in one batch
    assert whole["padding"] == pytest.approx(1 - sum(SAMPLES) / (2 * max(SAMPLES)))
    single, objective = fitting(clock, teacher, ["sv"], clips.select(range(0, 16, 2)))
    assert time_steps(clock, Plain(single, 0.0), objective, feed(objective, 60.0), 1)["padding"] == 0


def test_hearing_and_probing_have_a_rate_and_it_is_shown(teacher, clips):
    cache = FrameCache.extract(teacher, clips, Standardiser(teacher.layers, teacher.width), 4.0, CPU)
    rates = {name: probing(name, clips, cache, QUICK, CPU) for name in QUICK.tasks}
    rates["teacher"] = hearing(Frozen(teacher), clips, 4.0, CPU)
    assert min(rates.values()) > 0
    spent = {"share": {"data": 0.25, "backward": 0.75}, "seconds": {"data": 0.001, "backward": 0.003}}
    steps = {"fit": spent | {"padding": 0.031, "flops": 7e9, "utilisation": 0.41}}
    result = {"recipe": "a+b", "scale": "mini", "machine": "CPU", "memory_gb": {"resident": 1.25}}
    result |= {"pays_after_epochs": {"cached": 1.5, "codes": None}, "processes": {"1": {"distill, online": 50.0}}}
    result["share_of_fusion_and_losses"] = {"fit": 0.055}
    result["processes"]["2"] = {"distill, online": 90.0}
    result |= {"ratio_to_reference": {"distill, online": 2.35}, "real_time_factor": {"student": {"one clip": 0.0123}}}
    shown = table(result | {"steps": steps, "audio_seconds_per_second": rates})
    assert all(f"{value:.1f}" in shown for value in rates.values())
    for value in (25.0, 75.0, 5.5, 3.1, 1.0, 3.0, 7.0, 41.0, 2.35):
        assert f" {value:.2f}\n" in shown
    assert "0.0123" in shown and "resident 1.25 GB" in shown and " 1.50\n" in shown and " never\n" in shown
    assert [line.split() for line in shown.splitlines() if line.startswith("  2 ")] == [["2", "90.0", "1.80"]]
    alone = result | {"steps": steps, "audio_seconds_per_second": {}, "processes": {}}
    assert "it takes a second core" in table(alone)


def test_the_reference_hears_padding_as_speech_and_counts_it_not(clips, teacher, clock, build_tiny_student):
    student, supervision = build_tiny_student(), Supervision(teacher, [1, 2], summary=True)
    batches = whole(clips, student, 5.0)
    heard = [next(batches) for _ in range(2)]
    assert sorted(row for batch, _ in heard for row in batch.rows) == list(range(16)), "an epoch"
    for batch, seconds in heard:
        assert bool((batch.lengths == batch.audio.shape[1]).all())
        assert seconds == pytest.approx(clips.samples[batch.rows].sum() / 16_000)
    settings = replace(SETTINGS, batch_seconds=5.0)
    steps = reference(clock, supervision, student, clips, settings)
    assert steps["padding"] > 0.1 and steps["flops"] > 0
    demand_whole(
        steps, {"data", "targets", "student", "heads, loss", BACKWARD, BEYOND, "optimizer", "wavlm", "whisper"}
    )


def test_epochs_share_the_cost_of_writing():
    rates = {"reference": 10.0, "distill, online": 20.0, "distill, cached": 100.0, "distill, codes": 50.0}
    steps = {name: {"rate": rate} for name, rate in rates.items()}
    found = ratios(steps, {"cached": 40.0, "codes": 20.0})
    assert found["distill, online"] == 2 and found["distill, cached"] == 10
    assert found["10 epochs, cached"] == pytest.approx((10 / 10) / (1 / 40 + 10 / 100))
    assert found["10 epochs, codes"] == pytest.approx((10 / 10) / (1 / 20 + 10 / 50))


def test_stored_targets_pay_from_the_epoch_on_that_costs_less_with_them_than_online():
    rates = {"distill, online": 20.0, "distill, cached": 100.0, "distill, codes": 19.0}
    steps, write = {name: {"rate": rate} for name, rate in rates.items()}, {"cached": 40.0, "codes": 30.0}
    found = break_even(steps, write)
    epochs = found["cached"]
    assert epochs is not None and found["codes"] is None
    for more, wins in ((1.01, True), (0.99, False)):
        assert (1 / 40 + more * epochs / 100 < more * epochs / 20) is wins


def test_as_many_processes_are_tried_as_have_a_place_of_their_own():
    assert [counts("", there) for there in (1, 2, 3, 16)] == [[1], [1, 2], [1, 2], [1, 2, 4, 8]]
    assert counts("1,3", 4) == [1, 3]
    for asked in ("0", "5", "1,x", ","):
        with pytest.raises(ValueError, match="give numbers from 1 to 4"):
            counts(asked, 4)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_processes_are_launched_and_measured(miniature, tmp_path, monkeypatch, processes):
    if len(places()) < processes:
        pytest.skip("each process needs a core")
    monkeypatch.setenv("XDG_CACHE_HOME", miniature.environment()["XDG_CACHE_HOME"])
    found = launch(miniature.words(tmp_path), processes, tmp_path / "found.json")
    assert found.keys() == {"distill, online", "distill, memory"} and min(found.values()) > 0


def test_what_a_preset_costs_is_told(monkeypatch, capsys):
    monkeypatch.setattr(presets, "SECONDS", 1)
    monkeypatch.setattr(presets, "REPEATS", 1)
    monkeypatch.setattr(presets, "CLIPS", 2)
    presets.main(["5m"])
    name, parameters, work, *factors = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert (name, parameters) == ("5m", "5.0 M")
    assert 300 < float(work.removesuffix(" M")) < 900
    assert all(0.001 < float(factor) < 1 for factor in factors) and len(factors) == 2
