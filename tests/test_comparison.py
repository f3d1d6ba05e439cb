"""What a student keeps of its teacher, and the table that says so."""

import pytest

from distill.evaluation import table
from distill.evidence.comparison import compare, retention


def cell(value: float, lower: bool) -> dict:
    metric = "wer" if lower else "accuracy"
    return {"metric": metric, "lower_is_better": lower, "value": value, "seeds": [value - 1, value + 1]}


def test_retention_is_the_share_of_the_teachers_gain():
    costs = {"parameters": 1_500_000, "macs": 2e9, "real_time_factor": 0.01}
    values = {"teacher": (20, 90, 50, 30), "student": (40, 95, 60, 40), "untrained": (100, 10, 50, 20)}
    rows = {
        name: costs | {"tasks": {t: cell(v, t == "a") for t, v in zip("abcd", found, strict=True)}}
        for name, found in values.items()
    }
    kept = retention(rows)
    assert kept == {"a": 0.75, "b": 1.0, "c": None, "d": 1.0, "mean": pytest.approx(2.75 / 3)}
    rows["student"]["retention"] = kept
    lines = table({"rows": rows}).splitlines()
    assert lines[0].split()[:4] == ["a", "wer-", "b", "accuracy+"]
    assert lines[2].split() == "student 40.0 (1.0) 95.0 (1.0) 60.0 (1.0) 40.0 (1.0) 0.92 1.50 M 2000 M 0.0100".split()
    assert len({len(line) for line in lines[:4]}) == 1


def test_error_rates_have_intervals_beyond_100_and_shares_have_none(tmp_path):
    cells = {"asr": cell(131.0, True), "sv": cell(99.0, True) | {"metric": "eer"}, "er": cell(99.0, False)}
    rows = {"log-mel": {"tasks": cells}}
    compare(rows, tmp_path, [])
    low, high = cells["asr"]["seed_interval"]
    assert low < 131 < high
    assert cells["sv"]["seed_interval"][1] == cells["er"]["seed_interval"][1] == 100.0
