"""Rows with an upstream in common hear each clip once for all of them, and hear what each would hear alone."""

from collections import namedtuple
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from spoken import Levels, speak
from torch import Tensor

from distill import evaluation, hearing
from distill.data.clips import Clips, pad
from distill.encoders.frames import CALIBRATION_CLIPS, by_length, bytes_of, hear_together
from distill.encoders.frozen import Frozen, once
from distill.evaluation import evaluate_group
from distill.features import Encoder
from distill.fusion import Moments, Standardiser
from distill.hearing import PARTS, groups, hear_splits, passes
from distill.protocol import Evaluate
from distill.tasks.task import draw
from distill.teacher import FusedTeacher

CPU = torch.device("cpu")
QUICK = Evaluate(
    tasks=["sv", "er", "lid"],
    learning_rates=[1e-2],
    seeds=[0],
    steps={"sv": 3, "er": 3, "lid": 3},
    train_clips=40,
    score_clips=20,
    forward_seconds=6.0,
    cache="disk",
)


def rows_of(teacher: FusedTeacher, *wanted: str) -> dict[str, Encoder]:
    """The upstreams and their teacher as the launch script makes them rows."""
    rows = dict(teacher.upstreams) | {"teacher": teacher}
    return {name: Frozen(rows[name]) for name in wanted or rows}


def counting() -> FusedTeacher:
    """A teacher whose two upstreams count the clips they hear; the same at every call."""
    torch.manual_seed(0)
    return FusedTeacher({"one": Frozen(Levels()), "two": Frozen(Levels(0.1))}, "sum", 0, "weighted_sum", 0)


def counts(teacher: FusedTeacher) -> list[int]:
    """Clips that each upstream has heard since it was last asked."""
    found = [one.encoder.heard for one in teacher.encoders()]
    for one in teacher.encoders():
        one.encoder.heard = 0
    return found


def evaluated(rows: Mapping[str, Encoder], splits: Mapping[str, Clips], settings: Evaluate, folder: Path) -> list[str]:
    """What is said while these rows are scored into a folder."""
    said: list[str] = []
    folder.mkdir(exist_ok=True)
    for group in groups(rows):
        evaluate_group(group, {"data": splits}, settings, folder, CPU, say=said.append)
    return said


def cells(folder: Path) -> dict:
    """Every cell of a folder but for its times, and the predictions beside it."""
    found = {path.stem: evaluation.read_json(path)["result"] for path in folder.glob("*.json")}
    said = {path.stem: np.load(path)["predictions"].tolist() for path in folder.glob("*.npz")}
    return {name: (cell.pop("seconds") and cell, said[name]) for name, cell in found.items()}


def alone(encoder: Encoder, clips: Clips, train: Clips, seconds: float) -> Tensor:
    """An encoder's standardised features of clips end to end, (F, L, D), heard by nobody else, put in their order."""
    moments, standardise = Moments.empty(encoder.layers, encoder.width), Standardiser(encoder.layers, encoder.width)
    some = train.select(draw(np.arange(len(train)), CALIBRATION_CLIPS).tolist())
    with torch.no_grad():
        for rows in by_length(some.samples, seconds):
            moments.update(encoder(*pad([some.audio(row) for row in rows])))
        standardise.calibrate(moments)
        found = {}
        for rows in by_length(clips.samples, seconds):
            features = standardise(encoder(*pad([clips.audio(row) for row in rows])))
            for row, hidden_LTD, length in zip(rows, features.hidden, features.lengths, strict=True):
                found[int(row)] = hidden_LTD[:, :length].transpose(0, 1).half()
    return torch.cat([found[row] for row in range(len(clips))])


@pytest.mark.parametrize(
    ("wanted", "cache"),
    [(("wavlm", "whisper", "teacher"), "memory"), (("teacher", "whisper"), "disk"), (("teacher",), "memory")],
)
def test_what_is_heard_together_is_bit_for_bit_what_each_hears_alone(pair, tmp_path, wanted, cache):
    few = {part: speak(count, seed) for seed, (part, count) in enumerate(zip(PARTS, (12, 6, 7), strict=True))}
    rows, settings = rows_of(pair("group"), *wanted), replace(QUICK, cache=cache, forward_seconds=4.0)
    together = hear_splits(rows, few, ["sv", "lid"], settings, CPU, tmp_path)
    for name, encoder in rows.items():
        for part in PARTS:
            heard, clips = together[name]["lid"][part], few[part]
            assert heard.cache is together[name]["sv"][part].cache
            used = hearing.union(hearing.choose(few, ["sv", "lid"], settings)[part])
            expected_FLD = alone(encoder, clips.select(used.tolist()), few["train"], settings.forward_seconds)
            assert torch.equal(heard.cache.hidden_FLD, expected_FLD)


@pytest.mark.parametrize("wanted", [("one", "two", "teacher"), ("teacher", "one"), ("teacher",), ("two",)])
def test_an_upstream_hears_each_clip_once_for_all_rows_that_need_it(splits, tmp_path, wanted):
    for name in wanted:
        evaluated(rows_of(counting(), name), splits, QUICK, tmp_path / "alone")
    teacher = counting()
    said = evaluated(rows_of(teacher, *wanted), splits, QUICK, tmp_path / "together")
    assert sum("heard" in line for line in said) == 1 and said[0].startswith(f"evaluate {', '.join(wanted)}: heard")
    assert cells(tmp_path / "together") == cells(tmp_path / "alone")
    clips, needed = once_over(splits, QUICK, tmp_path), {"one", "two"} if "teacher" in wanted else set(wanted)
    assert counts(teacher) == [clips if name in needed else 0 for name in teacher.upstreams]


def once_over(splits: Mapping[str, Clips], settings: Evaluate, folder: Path) -> int:
    """Clips that a row hears by itself for all tasks."""
    row = Levels()
    evaluated({"row": row}, splits, settings, folder / f"once-{'-'.join(settings.tasks)}")
    return row.heard


def test_a_killed_evaluation_goes_on_together_where_rows_wait_for_the_same(splits, tmp_path):
    teacher, folder = counting(), tmp_path / "run"
    evaluated(rows_of(teacher), splits, QUICK, folder)
    whole, _ = cells(folder), counts(teacher)
    assert not evaluated(rows_of(teacher), splits, QUICK, folder) and counts(teacher) == [0, 0]
    er, both = (once_over(splits, replace(QUICK, tasks=tasks), tmp_path) for tasks in (["er"], ["er", "lid"]))
    for missing, heard in (
        (["two.er"], [0, er]),
        (["two.er", "teacher.er"], [er, er]),
        (["two.er", "teacher.er", "teacher.lid"], [both, er + both]),
        (["one.er", "one.lid", "two.er", "teacher.er", "teacher.lid"], [both, er + both]),
    ):
        for name in missing:
            (folder / f"{name}.json").unlink()
        said = evaluated(rows_of(teacher), splits, QUICK, folder)
        assert counts(teacher) == heard
        assert sum("validation" in line for line in said) == len(missing)
        assert cells(folder) == whole


def test_two_processes_go_on_from_different_cells(splits, tmp_path):
    evaluated(rows_of(counting()), splits, QUICK, tmp_path / "run")
    whole = cells(tmp_path / "run")
    for name in ("two.sv", "teacher.er", "one.er", "one.lid"):
        (tmp_path / "run" / f"{name}.json").unlink()
    for rank in (1, 0):
        rows, said = rows_of(counting()), []
        place = tmp_path / "run"
        evaluate_group(rows, {"data": splits}, QUICK, place, CPU, rank=rank, world=2, say=said.append)
        assert any("heard" in line for line in said)
    assert cells(tmp_path / "run") == whole


def test_processes_with_different_cells_come_together_equally_often(splits, tmp_path):
    rows = rows_of(counting())
    for waiting in (
        {"one": ["er"], "two": ["er"], "teacher": ["er"]},
        {"one": ["er"], "two": ["lid"], "teacher": ["er", "lid"]},
        {"one": [], "two": ["lid"], "teacher": []},
        {"one": [], "two": [], "teacher": []},
    ):
        found = passes(rows, waiting, splits, QUICK, tmp_path, 1)
        assert len(found) == len(rows)
        assert sorted(name for names in found for name in names) == sorted(name for name in rows if waiting[name])


@pytest.mark.parametrize("world", [1, 2])
def test_rows_are_heard_apart_where_the_disk_has_no_room_for_all(splits, tmp_path, monkeypatch, world):
    teacher, settings = counting(), replace(QUICK, tasks=["er"], cache="disk")
    chosen = hearing.choose(splits, ["er"], settings)
    row = sum(bytes_of(Levels(), splits[part].select(hearing.union(chosen[part]).tolist())) for part in PARTS)
    usage = namedtuple("usage", "free")
    for free, said in ((3 * row * world, 1), (3 * row * world - 1, 3)):
        folder = tmp_path / str(free)
        folder.mkdir()
        monkeypatch.setattr("shutil.disk_usage", lambda place, free=free: usage(free))
        lines: list[str] = []
        corpora = {"data": splits}
        evaluate_group(rows_of(teacher), corpora, settings, folder, CPU, rank=0, world=world, say=lines.append)
        assert sum("heard" in line for line in lines) == said
    assert cells(tmp_path / str(3 * row * world)) == cells(tmp_path / str(3 * row * world - 1)) != {}


def test_features_of_a_row_are_gone_when_its_probes_are_done(splits, tmp_path, monkeypatch):
    there, evaluate_task = [], evaluation.evaluate_task

    def watched(*given):
        there.append(sorted(path.name for path in tmp_path.glob(".frames-*/*")))
        return evaluate_task(*given)

    monkeypatch.setattr(evaluation, "evaluate_task", watched)
    evaluated(rows_of(counting()), splits, replace(QUICK, tasks=["er"], cache="disk"), tmp_path)
    assert there == [["one", "teacher", "two"], ["teacher", "two"], ["teacher"]]
    assert not list(tmp_path.glob(".frames-*"))


def test_in_memory_rows_are_heard_apart(splits, tmp_path):
    teacher = counting()
    said = evaluated(rows_of(teacher), splits, replace(QUICK, tasks=["er"], cache="memory"), tmp_path / "apart")
    assert [line.split(":")[0] for line in said if "heard" in line] == [
        f"evaluate {name}" for name in ("one", "two", "teacher")
    ]
    apart, once = counts(teacher), counting()
    evaluated(rows_of(once), splits, replace(QUICK, tasks=["er"]), tmp_path / "together")
    assert apart == [2 * heard for heard in counts(once)]
    assert cells(tmp_path / "apart") == cells(tmp_path / "together")


def test_rows_go_together_that_share_an_upstream():
    teacher, student = counting(), Levels()
    rows = {"log-mel": Frozen(Levels())} | rows_of(teacher) | {"student": Frozen(student), "onnx": Frozen(student)}
    assert [list(group) for group in groups(rows)] == [["log-mel"], ["one", "two", "teacher"], ["student"], ["onnx"]]
    assert [list(group) for group in groups(rows_of(teacher, "one", "two"))] == [["one"], ["two"]]


def test_only_what_is_shared_is_remembered_and_only_for_a_batch(splits):
    shared, own = Frozen(Levels()), Frozen(Levels())
    first, second = Frozen(shared), FusedTeacher({"one": shared, "two": own}, "sum", 0, "weighted_sum", 0)
    batch = pad([splits["test"].audio(row) for row in range(3)])
    others = tuple(tensor.clone() for tensor in batch)
    with once([first, second]):
        said = first(*batch)
        assert first(*batch) is said and shared.encoder.heard == 3
        assert torch.equal(second(*batch).hidden, second(*batch).hidden)
        assert shared.encoder.heard == 3 and own.encoder.heard == 6
        assert torch.equal(first(*others).hidden, said.hidden) and shared.encoder.heard == 6
    assert first(*batch) is not said and shared.encoder.heard == 9
    heard = [
        (number, features.hidden.clone())
        for _, number, features in hear_together([first, first], splits["test"], 4.0, CPU)
    ]
    assert shared.encoder.heard == 9 + len(splits["test"])
    assert [number for number, _ in heard] == [0, 1] * (len(heard) // 2)
