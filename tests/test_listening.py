"""What a fitted teacher listens to, and sources that weigh by it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from miniature import Miniature
from spoken import Levels, speak

from distill.data.clips import Clips
from distill.fit import Fitting, Labels
from distill.fusion import Moments
from distill.listening import listening, needed, weights
from distill.recipe import Distill
from distill.tasks import TASKS
from distill.tasks.task import draw
from distill.teacher import FusedTeacher

CPU = torch.device("cpu")


def fitted(interface: str) -> tuple[FusedTeacher, dict, list]:
    """A teacher of two equal upstreams whose fusion is deaf to the second, and random heads of two tasks."""
    clips, teacher = speak(30, 0), FusedTeacher({"heard": Levels(), "ignored": Levels()}, "concat", 0, interface, 0)
    for standardise, encoder in zip(teacher.fusion.standardisers(), teacher.encoders(), strict=True):
        moments = Moments.empty(3, 4)
        moments.update(encoder(*[torch.randn(2, 32_000), torch.tensor([32_000, 32_000])]))
        standardise.calibrate(moments)
    with torch.no_grad():
        teacher.fusion.combine.project.weight[:, 4:] = 0
    tasks = [TASKS["er"], TASKS["lid"]]
    labels = [Labels.of(task, clips) for task in tasks]
    heads = Fitting(teacher.fusion, teacher.interface, [one.task for one in labels]).heads.state_dict()
    return teacher, heads, tasks


def test_a_teacher_does_not_listen_to_what_its_fusion_leaves_out():
    teacher, heads, tasks = fitted("hconv")
    found = listening(teacher, heads, tasks, speak(30, 0), 5.0, CPU)
    assert found["clips"] == 30 and found["interface_weights"] is None
    for task in ("er", "lid"):
        whole, without = found["tasks"][task]["loss"], found["tasks"][task]["without"]
        assert [without["ignored"]["all"], *without["ignored"]["layers"]] == pytest.approx([whole] * 4)
        assert abs(without["heard"]["all"] - whole) > 1e-4
        assert len(without["heard"]["layers"]) == 3


def test_a_task_of_few_clips_is_asked_of_some_of_them(monkeypatch):
    monkeypatch.setattr("distill.listening.CLIPS", 4)
    clips, (teacher, heads, tasks) = speak(30, 0), fitted("hconv")
    asked = set(draw(np.arange(30), 4).tolist())
    styles = ["" if i in asked else style for i, style in enumerate(clips.column("style"))]
    partly = Clips(clips.dataset.remove_columns("style").add_column("style", styles))
    found = listening(teacher, heads, tasks, partly, 5.0, CPU)
    assert all(losses["loss"] > 0.1 for losses in found["tasks"].values()) and found["clips"] == 8
    assert listening(teacher, heads, tasks, clips, 5.0, CPU)["clips"] == 4


def test_a_teacher_that_sums_layers_listens_by_their_weights():
    teacher, heads, tasks = fitted("weighted_sum")
    with torch.no_grad():
        teacher.interface.scores.copy_(torch.tensor([9.0, 0.0, -40.0]))
    found = listening(teacher, heads, tasks, speak(30, 0), 5.0, CPU)
    assert found["interface_weights"] == pytest.approx(torch.tensor([9.0, 0.0, -40.0]).softmax(0).tolist())
    losses = found["tasks"]["lid"]
    rises = [abs(loss - losses["loss"]) for loss in losses["without"]["heard"]["layers"]]
    assert rises[0] > 10 * rises[1] > 0 and rises[2] == pytest.approx(0.0, abs=1e-6)
    assert weights(fitted("hconv")[0]) is None


def told(**tasks: tuple[float, float, float]) -> dict:
    """What `listening` finds, of the loss of each task: whole, without the first upstream, without the second."""
    losses = {
        task: {"loss": whole, "without": {"a": {"all": a}, "b": {"all": b}}} for task, (whole, a, b) in tasks.items()
    }
    return {"tasks": losses}


def test_an_upstream_is_needed_as_much_as_losses_grow_without_it():
    both = needed(told(er=(1.0, 2.0, 1.0), asr=(3.0, 3.0, 12.0)))
    assert both["b"] / both["a"] == pytest.approx(2.0, abs=0.05), (
        "a doubled loss of one task, a fourfold one of another"
    )
    assert sum(both.values()) == pytest.approx(2.0)
    assert needed(told(er=(1.0, 2.0, 1.0), asr=(300.0, 300.0, 1200.0))) == pytest.approx(both), "in units of the loss"
    assert needed(told(er=(1.0, 4.0, 1.0)))["a"] > 1.9
    unlearned = needed(told(er=(2.0, 2.001, 2.0), asr=(3.0, 2.9, 3.0)))
    assert unlearned == pytest.approx({"a": 1.0, "b": 1.0}, abs=0.05), "noise says nothing, nor does a loss that falls"
    assert all(0 <= weight < 3 for weight in needed(told(er=(0.0, 0.0, 0.0))).values())
    teacher, heads, tasks = fitted("hconv")
    heard = needed(listening(teacher, heads, tasks, speak(30, 0), 5.0, CPU))
    assert heard["ignored"] <= heard["heard"]


def test_weights_that_are_found_multiply_those_that_are_given():
    given = Distill(source_weights={"fused": 0.5, "wavlm": 2.0})
    found = given.weighed({"wavlm": 1.5, "whisper": 0.25})
    assert found.sources(["wavlm", "whisper"]) == {"": 0.5, "wavlm": 3.0, "whisper": 0.25}
    assert given.source_weights == {"fused": 0.5, "wavlm": 2.0}


def test_a_run_weighs_its_sources_by_what_its_teacher_needs(miniature: Miniature, tmp_path: Path):
    """The same student, bit for bit, as of a run that is given these weights; the report tells what was found."""
    words = ["stages=[fit,distill]", "fit.learning_rate=0.05"]
    said = miniature.run(miniature.words(tmp_path / "found", *words, "distill.balance=listening"))
    run = tmp_path / "found/run"
    weights = needed(json.loads((run / "listening.json").read_text()))
    in_words = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
    assert f"lose without them: {in_words}" in said
    given = [f"distill.source_weights.{name}={weight!r}" for name, weight in weights.items()]
    students = {}
    for name, more in {"given": given, "equal": []}.items():
        miniature.run(miniature.words(tmp_path / name, *words, "distill.balance=equal", *more))
        students[name] = (tmp_path / name / "run/student/model.safetensors").read_bytes()
        assert not (tmp_path / name / "run/listening.json").exists(), "nobody asked"
    assert (run / "student/model.safetensors").read_bytes() == students["given"] != students["equal"]
