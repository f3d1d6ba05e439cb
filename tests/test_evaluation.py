"""Evaluation: cells are fair, repeatable and kept, and all rows are compared on the same clips."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from spoken import Levels

from distill import evaluation
from distill.data.clips import Clips
from distill.evaluation import deal, evaluate_rows, evaluate_task
from distill.hearing import hear_splits
from distill.probe import Split
from distill.protocol import Evaluate
from distill.tasks import PROTOCOLS, TASKS

CPU = torch.device("cpu")
QUICK = Evaluate(
    tasks=["sv", "er", "lid"],
    learning_rates=[1e-3, 1e-2],
    steps={"sv": 10, "er": 8, "lid": 6},
    train_clips=40,
    score_clips=30,
)


@pytest.mark.parametrize(("lower", "chosen"), [(False, 3e-3), (True, 1e-3)])
def test_the_rate_is_chosen_on_validation_with_the_first_seed(monkeypatch, splits, tmp_path, lower, chosen):
    trained = []

    def fake_train(task, split, budget, rate, seed, device, validation):
        assert validation is parts["validation"]
        trained.append((rate, seed))
        return rate, seed

    def fake_score(task, probe, split, batch, device):
        assert split.clips is splits["validation"]
        rate, seed = probe
        return {"accuracy": 90.0 + seed if rate == 3e-3 else 10.0 + seed}

    def fake_predict(task, probe, split, batch, device):
        assert split.clips is splits["test"]  # which prefers another rate
        rate, seed = probe
        return [f"[en]{90 + seed if rate == 1e-2 else 10 + seed}"] * len(split.clips)

    monkeypatch.setattr(evaluation, "train", fake_train)
    monkeypatch.setattr(evaluation, "score", fake_score)
    monkeypatch.setattr(evaluation, "predict", fake_predict)
    monkeypatch.setitem(PROTOCOLS, "light", {"er": Prepared(lower)})
    parts = {part: Split(clips, None, np.arange(len(clips))) for part, clips in splits.items()}
    cell = evaluate_task("er", parts, Evaluate(tasks=["er"], seeds=[0, 4]), CPU, tmp_path / "cell.npz")
    assert cell["learning_rate"] == chosen
    assert cell["seeds"] == [10.0, 14.0] and cell["value"] == 12.0
    assert cell["second"] == 24.0, "other metrics are means over seeds too"
    assert cell["validation"] == {"0.001": 10.0, "0.003": 90.0, "0.01": 10.0}
    assert trained == [(1e-3, 0), (3e-3, 0), (1e-2, 0), (chosen, 4)]
    assert cell["clips"] == {"train": 60, "validation": 30, "test": 36} and cell["budget"]["steps"] == 400
    with np.load(tmp_path / "cell.npz") as file:
        assert file["ids"].tolist() == splits["test"].ids
        assert file["predictions"].tolist() == [["10"] * 36, ["14"] * 36], "as references are"


def test_a_rate_that_errs_more_often_than_there_are_words_is_better_than_one_that_diverges(
    monkeypatch, splits, tmp_path
):
    """An error rate has no highest value; what diverged is told as 100."""
    rates = {1e-3: None, 3e-3: (3e-3, 0), 1e-2: (1e-2, 0)}
    monkeypatch.setattr(evaluation, "train", lambda task, split, budget, rate, *more: rates[rate])
    monkeypatch.setattr(evaluation, "score", lambda task, probe, *more: {"accuracy": 100.0 if probe is None else 105.0})
    monkeypatch.setattr(evaluation, "predict", lambda task, probe, split, *more: ["[en]104"] * len(split.clips))
    monkeypatch.setitem(PROTOCOLS, "light", {"er": Prepared(True)})
    parts = {part: Split(clips, None, np.arange(len(clips))) for part, clips in splits.items()}
    cell = evaluate_task("er", parts, Evaluate(tasks=["er"], seeds=[0]), CPU, tmp_path / "cell.npz")
    assert cell["learning_rate"] == 3e-3 and cell["value"] == 104.0
    assert cell["validation"] == {"0.001": 100.0, "0.003": 105.0, "0.01": 105.0}
    rates.update({3e-3: None, 1e-2: None})
    assert evaluate_task("er", parts, Evaluate(tasks=["er"], seeds=[0]), CPU, tmp_path / "cell.npz")["value"] == 100.0


class Prepared:
    """Predicts numbers that are told without their language."""

    metric = "accuracy"

    def __init__(self, lower: bool):
        self.lower_is_better = lower

    def prepare(self, clips):
        return self

    def references(self, clips):
        return clips.column("style")

    def comparable(self, predictions):
        return [one.removeprefix("[en]") for one in predictions]

    def score(self, predictions, clips):
        value = float(predictions[0].removeprefix("[en]"))
        return {"accuracy": value, "second": 2 * value}


def test_each_task_gets_the_features_of_its_own_clips(splits, tmp_path):
    clips = splits["test"]
    languages = ["" if i % 5 < 2 else language for i, language in enumerate(clips.column("language"))]
    partly = Clips(clips.dataset.remove_columns("language").add_column("language", languages))
    asked = replace(QUICK, train_clips=60, score_clips=20)
    rows = {"row": Levels()}
    heard = hear_splits(rows, splits | {"test": partly}, ["sv", "lid"], asked, CPU, tmp_path)["row"]
    for parts in heard.values():
        split = parts["test"]
        assert split.cache.lengths[split.rows].tolist() == (split.clips.samples // 320).tolist()
    ids = [set(parts["test"].clips.ids) for parts in heard.values()]
    assert ids[0] - ids[1] and ids[1] - ids[0]
    train_FLD = heard["sv"]["train"].cache.hidden_FLD.float()  # of all clips, which the scales are measured on
    torch.testing.assert_close(train_FLD.mean(0), torch.zeros(3, 4), rtol=0, atol=1e-3)


def without_costs(result: dict) -> dict:
    return {name: row["tasks"] for name, row in result["rows"].items()}


def test_the_flat_start_is_recognitions_alone(tmp_path, splits):
    usual, none = Evaluate(), Evaluate(flat=0.0)
    assert [none.menu()[task] for task in ("sv", "er", "lid")] == [usual.menu()[task] for task in ("sv", "er", "lid")]
    assert none.menu()["asr"] == replace(usual.menu()["asr"], flat=0.0) != usual.menu()["asr"]
    assert Evaluate(heads="superb", tasks=["asr"], flat=0.5).menu() == Evaluate(heads="superb", tasks=["asr"]).menu()
    row = Levels()
    first = evaluate_rows({"one": row}, {"data": splits}, QUICK, tmp_path, CPU, say=lambda _: None)
    heard = row.heard
    assert (
        evaluate_rows({"one": row}, {"data": splits}, replace(QUICK, flat=0.0), tmp_path, CPU, say=lambda _: None)
        == first
    )
    assert row.heard == heard, "cells of other tasks stay"


def test_more_looks_at_validation_make_old_what_they_touch_alone(tmp_path, splits):
    row, quiet = Levels(), {"say": lambda _: None}
    evaluate_rows({"one": row}, {"data": splits}, QUICK, tmp_path, CPU, **quiet)
    before = {task: (tmp_path / f"one.{task}.json").read_bytes() for task in QUICK.tasks}
    for checks, anew in (({"er": 3}, {"er"}), ({"er": 3, "lid": 2}, {"lid"}), ({"er": 3}, {"lid"})):
        looking = replace(QUICK, checks=checks)
        found = evaluate_rows({"one": row}, {"data": splits}, looking, tmp_path, CPU, **quiet)
        after = {task: (tmp_path / f"one.{task}.json").read_bytes() for task in QUICK.tasks}
        assert {task for task in before if before[task] != after[task]} == anew
        before = after
    budgets = {task: cell["budget"]["checks"] for task, cell in found["rows"]["one"]["tasks"].items()}
    assert budgets == {"sv": 1, "er": 3, "lid": 1}


def test_features_on_the_disk_give_the_same_result_and_are_gone_at_the_end(tmp_path, splits):
    results = []
    for cache in ("memory", "disk"):
        (tmp_path / cache / ".frames-of-a-killed-one").mkdir(parents=True)
        settings = replace(QUICK, cache=cache)
        found = evaluate_rows({"one": Levels()}, {"data": splits}, settings, tmp_path / cache, CPU, say=lambda _: None)
        results.append(found["rows"]["one"]["tasks"])
        assert not list((tmp_path / cache).glob(".frames-*"))
    assert results[0] == results[1]


def test_a_killed_evaluation_goes_on_where_it_stopped(tmp_path, splits):
    rows = {"one": Levels(), "other": Levels(0.1)}
    whole = evaluate_rows(rows, {"data": splits}, QUICK, tmp_path, CPU, say=lambda _: None)
    heard = [row.heard for row in rows.values()]
    assert evaluate_rows(rows, {"data": splits}, QUICK, tmp_path, CPU, say=lambda _: None) == whole
    assert [row.heard for row in rows.values()] == heard
    (tmp_path / "other.er.json").unlink()
    said = []
    again = evaluate_rows(rows, {"data": splits}, QUICK, tmp_path, CPU, say=said.append)
    assert without_costs(again) == without_costs(whole)
    assert rows["one"].heard == heard[0] and len(said) == 2 and "other er: validation accuracy" in said[1]
    fewer = replace(QUICK, seeds=[3])
    again = evaluate_rows(rows, {"data": splits}, fewer, tmp_path, CPU, say=lambda _: None)
    assert all(len(cell["seeds"]) == 1 for cell in again["rows"]["one"]["tasks"].values())


@pytest.mark.parametrize("change", [{"rows": ["one"]}, {"students": ["runs/other"]}, {"cache": "disk"}])
def test_what_no_cell_depends_on_makes_none_old(tmp_path, splits, change):
    row = Levels()
    evaluate_rows({"one": row}, {"data": splits}, QUICK, tmp_path, CPU, say=lambda _: None)
    heard = row.heard
    evaluate_rows({"one": row}, {"data": splits}, replace(QUICK, **change), tmp_path, CPU, say=lambda _: None)
    assert row.heard == heard


def test_other_steps_make_the_cells_of_their_task_old_and_no_others(tmp_path, splits):
    said: list[str] = []
    evaluate_rows({"one": Levels()}, {"data": splits}, QUICK, tmp_path, CPU, say=lambda _: None)
    longer = replace(QUICK, steps=QUICK.steps | {"lid": 7})
    evaluate_rows({"one": Levels()}, {"data": splits}, longer, tmp_path, CPU, say=said.append)
    assert [line.split(":")[0] for line in said] == ["evaluate one", "evaluate one lid"]


def test_time_spent_on_hearing_is_counted_once(tmp_path, splits, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(evaluation, "perf_counter", lambda: float(next(clock)))
    found = evaluate_rows({"one": Levels()}, {"data": splits}, QUICK, tmp_path, CPU, say=lambda _: None)
    assert found["rows"]["one"]["seconds"] == pytest.approx({"hearing": 1.0, "probes": 3.0})


def test_the_result_has_its_published_form(tmp_path, splits):
    result = evaluate_rows({"log-mel": Levels()}, {"data": splits}, QUICK, tmp_path, CPU, say=lambda _: None)
    assert json.loads(json.dumps(result)) == result
    row = result["rows"]["log-mel"]
    assert row["parameters"] == 36 and set(row["tasks"]) == {"sv", "er", "lid"}
    for cell in row["tasks"].values():
        assert cell["metric"] in ("eer", "accuracy") and len(cell["seeds"]) == 2
        assert cell["value"] == pytest.approx(sum(cell["seeds"]) / 2)
        assert cell["learning_rate"] in QUICK.learning_rates
        low, high = cell["interval"]
        assert low <= cell["value"] <= high
        assert cell["clips"]["test"] <= QUICK.score_clips
    assert row["score"]["interval"][0] <= row["score"]["value"] <= row["score"]["interval"][1]
    assert result["machine"] == {"device": "CPU", "threads": 1}


def test_rows_are_compared_on_the_same_clips(tmp_path, splits):
    rows = {"teacher": Levels(), "student": Levels(), "untrained": Levels(0.0), "other": Levels(0.3)}
    asked = replace(QUICK, students=["runs/other"])
    found = evaluate_rows(rows, {"data": splits}, asked, tmp_path, CPU, say=lambda _: None)["rows"]
    assert "student_minus_row" not in found["student"]["tasks"]["lid"]
    equal = found["teacher"]["tasks"]["lid"]["student_minus_row"]
    assert equal == {"value": 0.0, "interval": [0.0, 0.0], "p_value": 1.0}
    worse = found["untrained"]["tasks"]["lid"]["student_minus_row"]
    assert worse["value"] > 0 and worse["interval"][0] <= worse["value"] <= worse["interval"][1]
    assert found["student"]["retention"]["lid"] == 1.0 and found["student"]["retention_interval"]["lid"] == [1, 1]
    assert found["other"]["retention"].keys() == {"sv", "er", "lid", "mean"}
    assert "retention" not in found["teacher"]


def test_other_clips_are_not_compared(tmp_path, splits):
    rows = {"one": Levels(), "other": Levels(0.3)}
    evaluate_rows(rows, {"data": splits}, QUICK, tmp_path, CPU, say=lambda _: None)
    with np.load(tmp_path / "other.er.npz") as file:
        kept = dict(file)
    np.savez(tmp_path / "other.er.npz", **kept | {"ids": kept["ids"][::-1]})
    with pytest.raises(ValueError, match="other has heard other clips for er"):
        evaluation.gather(["one", "other"], QUICK, tmp_path)


def test_a_probe_that_diverged_leaves_no_interval(tmp_path, splits, monkeypatch):
    monkeypatch.setattr(evaluation, "train", lambda *given: None)
    (tmp_path / "row.er.npz").write_text("of earlier settings")
    asked = replace(QUICK, tasks=["er"])
    row = evaluate_rows({"row": Levels()}, {"data": splits}, asked, tmp_path, CPU, say=lambda _: None)["rows"]["row"]
    assert row["tasks"]["er"]["value"] == 0.0 and row["tasks"]["er"]["interval"] is None
    assert row["score"] == {"value": 0.0, "interval": None}


def test_two_processes_find_what_one_finds(tmp_path, splits):
    alone = evaluate_rows({"row": Levels()}, {"data": splits}, QUICK, tmp_path / "one", CPU, say=lambda _: None)
    folder = tmp_path / "two"
    folder.mkdir()
    for rank in (1, 0):
        evaluation.evaluate_group(
            {"row": Levels()}, {"data": splits}, QUICK, folder, CPU, rank=rank, world=2, say=lambda _: None
        )
    assert without_costs(evaluation.gather(["row"], QUICK, folder)) == without_costs(alone)


def test_work_is_dealt_evenly_and_whole():
    assert deal(Evaluate(), 2) == [["asr"], ["sv", "er", "lid"]]
    assert sorted(task for hand in deal(Evaluate(), 3) for task in hand) == sorted(TASKS)
    assert deal(Evaluate(), 1) == [list(TASKS)] and deal(Evaluate(tasks=["er"]), 2) == [["er"], []]


def test_a_missing_cell_is_named(tmp_path):
    with pytest.raises(ValueError, match="teacher has no result for asr, sv, er, lid"):
        evaluation.gather(["teacher"], Evaluate(), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ["st"]}, "no task 'st' with light heads; there are asr, sv, er, lid"),
        ({"tasks": []}, "evaluate.tasks is empty; name one or more"),
        ({"interface": "mean"}, "no 'mean'\nthere are: hconv, weighted_sum, gumbel"),
        ({"flat": 1.0}, "evaluate.flat must be in "),
        ({"steps": {"sv": 0}}, "evaluate.steps: sv needs 1 step"),
        ({"checks": {"sv": 0}}, "evaluate.checks: sv needs 1 or more, the last state's"),
        ({"checks": {"srv": 5}}, "evaluate.checks: there is no task 'srv'; there are asr, sv, er, lid, pr"),
        ({"steps": {"srv": 5}}, "evaluate.steps: there is no task 'srv'; there are asr, sv, er, lid, pr"),
        ({"learning_rates": []}, "learning_rates must be above 0"),
        ({"seeds": []}, "one seed or more"),
        ({"batch": 0}, "evaluate.batch must be above 0, got 0"),
        ({"students": ["a/run", "b/run"]}, "two runs of one name"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Evaluate(**change)
