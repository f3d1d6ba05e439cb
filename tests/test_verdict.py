"""What a study's numbers say: its verdict, intervals over clips and seeds, table and plot."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.verdict import table, verdict, write_verdict
from distill.evidence import plots
from distill.limits import RecipeError


def write_run(folder: Path, right: float, clips: int = 300, seed: int = 0, other: str = "") -> Path:
    """An evaluated run whose student is right about a share of the clips."""
    rng = np.random.default_rng(seed)
    (folder / "evaluation").mkdir(parents=True)
    said_SC = (rng.random((2, clips)) < right).astype(int).astype(str)
    np.savez_compressed(
        folder / "evaluation/student.er.npz",
        ids=np.array([f"{other}{n}" for n in range(clips)]),
        references=np.array(["1"] * clips),
        predictions=said_SC,
    )
    value = 100.0 * float((said_SC == "1").mean())
    scores = {"student": value, "teacher": 90.0, "untrained": 10.0}
    cells = {
        row: {"tasks": {"er": {"metric": "accuracy", "lower_is_better": False, "value": score}}}
        for row, score in scores.items()
    }
    (folder / "evaluation.json").write_text(json.dumps({"rows": cells}))
    return folder


@pytest.fixture
def done(tmp_path) -> dict[str, list[Path]]:
    """Three cells of three seeds, right in 6, 8 and 6 of 10 clips."""
    shares = {"base": 0.6, "better": 0.8, "same": 0.6}
    return {
        cell: [write_run(tmp_path / f"{cell}-seed{n}", right, seed=10 * number + n) for n in range(3)]
        for number, (cell, right) in enumerate(shares.items())
    }


def test_the_verdict_finds_what_is_different_and_only_that(done):
    found = verdict(done, "base", {})["cells"]
    better, same = (found[cell]["tasks"]["er"] for cell in ("better", "same"))
    assert better["difference"]["p_value"] < 0.01 and same["difference"]["p_value"] > 0.05
    assert better["difference"]["value"] == pytest.approx(better["value"] - found["base"]["tasks"]["er"]["value"])
    low, high = better["difference"]["interval"]
    assert low < better["difference"]["value"] < high
    for told in found.values():
        assert told["average"]["value"] == pytest.approx(told["tasks"]["er"]["value"]), "of one task"
        assert told["retention"]["mean"] == pytest.approx((told["average"]["value"] - 10) / 80)
        assert len(told["tasks"]["er"]["seeds"]) == 3


def write_recognition(folder: Path, wrong: int) -> Path:
    """An evaluated run whose student has no word right, and so many of the four letters of each wrong."""
    (folder / "evaluation").mkdir(parents=True)
    said = np.array([["x" * wrong + "word"[wrong:]] * 40] * 2)
    np.savez_compressed(
        folder / "evaluation/student.asr.npz",
        ids=np.arange(40).astype(str),
        references=np.array(["word"] * 40),
        predictions=said,
    )
    cell = {"metric": "wer", "lower_is_better": True, "value": 100.0, "cer": 25.0 * wrong}
    (folder / "evaluation.json").write_text(json.dumps({"rows": {"student": {"tasks": {"asr": cell}}}}))
    return folder


def test_a_task_can_be_judged_by_another_metric_than_its_own(tmp_path):
    done = {cell: [write_recognition(tmp_path / cell, wrong)] for cell, wrong in (("one", 1), ("three", 3))}
    words, letters = (verdict(done, "one", metrics)["cells"]["three"] for metrics in ({}, {"asr": "cer"}))
    assert words["tasks"]["asr"]["difference"]["value"] == 0
    assert letters["tasks"]["asr"]["value"] == 75 and letters["average"]["value"] == 25
    assert letters["tasks"]["asr"]["difference"]["value"] == 50 and letters["tasks"]["asr"]["interval"] == [75, 75]
    assert "ASR CER" in write_verdict(done, "one", {"asr": "cer"}, tmp_path), "though no row is there to retain of"
    with pytest.raises(RecipeError, match="asr has no per beside its wer"):
        verdict(done, "one", {"asr": "per"})


def test_one_seed_gives_no_asterisk_and_the_note_says_so(done):
    one = {cell: folders[:1] for cell, folders in done.items()}
    found = verdict(one, "base", {})
    better = found["cells"]["better"]["tasks"]["er"]["difference"]
    assert better["p_value"] < 0.01 and found["seed"]["freedom"] == 0
    said = table(found)
    assert "*" not in said and "no cell has two seeds" in said
    assert "and other seeds of distillation" in table(verdict(one | {"same": done["same"]}, "base", {}))


def test_the_table_ranks_and_the_files_are_written(done, tmp_path):
    said = write_verdict(done, "base", {}, tmp_path)
    lines = said.splitlines()
    assert lines[2].startswith("| better (3) |") and "*" in lines[2]
    assert said == table(json.loads((tmp_path / "study.json").read_text()))
    assert (tmp_path / "study.png").stat().st_size > 1000 and said in (tmp_path / "study.md").read_text()


def test_the_plot_has_the_order_of_the_table(done, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plots, "scores", lambda panels: drawn.update(panels) or plots.figure(1.0)[0])
    lines = write_verdict(done, "base", {}, tmp_path).splitlines()[2:5]
    ranked = [line.split()[1] for line in lines]
    assert ranked[0] == "better" and ranked != list(done), "the cells came in another order"
    assert len(drawn) == 2 and all(list(panel) == ranked for panel in drawn.values())


def test_cells_scored_on_different_clips_are_not_compared(done, tmp_path):
    done["strange"] = [write_run(tmp_path / "strange-seed0", 0.7, other="x")]
    with pytest.raises(RecipeError, match="er: strange was scored on other clips than base"):
        verdict(done, "base", {})


def test_cells_scored_by_different_tasks_are_not_compared(done, tmp_path):
    done["other"] = [write_recognition(tmp_path / "other", 1)]
    with pytest.raises(RecipeError, match="other was scored by asr, but base by er"):
        verdict(done, "base", {})
