"""Metrics against values worked out by hand, without a network."""

import importlib
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import scipy.optimize
import sklearn.metrics
from evaluate import config

from distill import metrics
from distill.metrics import compute

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a metric asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_word_errors_are_counted_over_the_corpus():
    # 1 deletion in 3 words and 1 substitution in 1 word: 2 of 4, not the mean of 1/3 and 1
    assert compute("wer", ["a c", "e"], ["a b c", "d"]) == pytest.approx(50.0)


def test_character_errors_count_spaces_and_insertions():
    assert compute("cer", ["ab c", "x"], ["a bc", "xyz"]) == pytest.approx(100 * 4 / 7)


def test_an_empty_prediction_is_all_deletions():
    assert compute("wer", [""], ["a b"]) == pytest.approx(100.0)


def test_accuracy_is_the_share_of_right_names():
    assert compute("accuracy", ["de", "en", "en"], ["de", "en", "sv"]) == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("similarities", "same", "expected"),
    [
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 0.0),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 100.0),
        ([0.5, 0.5], [1, 0], 50.0),  # one step from (0, 1) to (1, 0): the crossing is half way
        ([0.9, 0.8, 0.7, 0.4, 0.3, 0.2], [1, 1, 0, 1, 0, 0], 100 / 3),
        # misses 1/2 with no false accept, then 1/3 false accepts and no miss in one tie: crossing at 1/5
        ([0.9, 0.5, 0.5, 0.2, 0.1], [1, 1, 0, 0, 0], 20.0),
    ],
)
def test_equal_error_rate(similarities, same, expected):
    assert compute("eer", similarities, same) == pytest.approx(expected)


def test_equal_error_rate_of_noise_is_a_half():
    draw = random.Random(0)
    similarities = [draw.random() for _ in range(4000)]
    assert compute("eer", similarities, [i % 2 for i in range(4000)]) == pytest.approx(50, abs=2)


@pytest.mark.parametrize(
    ("similarities", "same", "expected"),
    [
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 0.0),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 1.0),  # accepting nobody
        ([0.5, 0.5], [1, 0], 1.0),
        ([0.9, 0.8, 0.7, 0.4, 0.3, 0.2], [1, 0, 1, 1, 0, 0], 2 / 3),  # accepts the first pair alone
        # 200 strangers, one accepted: (0.01 * 0 + 0.99 / 200) / 0.01 with no miss
        ([0.9, 0.8] + [0.85] + [0.1] * 199, [1, 1, 0] + [0] * 199, 0.99 / 200 / 0.01),
    ],
)
def test_smallest_detection_cost(similarities, same, expected):
    assert compute("mindcf", similarities, same) == pytest.approx(expected)


def test_smallest_detection_cost_is_the_least_over_all_thresholds():
    rng = np.random.default_rng(0)
    same = rng.integers(0, 2, 500)
    similarities = rng.standard_normal(500) + 2 * same
    costs = []
    for threshold in [*similarities, np.inf]:
        accepted = similarities >= threshold
        missed, wrong = (~accepted[same == 1]).mean(), accepted[same == 0].mean()
        costs.append((0.01 * missed + 0.99 * wrong) / 0.01)
    assert compute("mindcf", similarities.tolist(), same.tolist()) == pytest.approx(min(costs))


def test_equal_error_rate_lies_on_scikit_learns_curve():
    rng = np.random.default_rng(1)
    same = rng.integers(0, 2, 2000)
    similarities = rng.standard_normal(2000) + same
    accepted, found, _ = sklearn.metrics.roc_curve(same, similarities)
    crossing = scipy.optimize.brentq(lambda rate: 1 - rate - np.interp(rate, accepted, found), 0, 1)
    assert compute("eer", similarities.tolist(), same.tolist()) == pytest.approx(100 * crossing, abs=0.1)


def test_translations_score_as_sacrebleu_says():
    texts, said = ["the cat sat on the mat today", "a dog"], ["the cat sat on a mat today", "the dog ran"]
    assert compute("bleu", texts, said) == pytest.approx(sacrebleu.corpus_bleu(texts, [said]).score)
    assert compute("bleu", said, said) == pytest.approx(100.0)
    # 4-grams 1 of 2, 3-grams 2 of 3, 2-grams 3 of 4, words 4 of 5, equal lengths: fourth root of 1/5
    assert compute("bleu", ["a b c d e"], ["a b c d f"]) == pytest.approx(100 * (1 / 5) ** 0.25)


def test_metrics_leave_nothing_on_the_disk_even_where_the_process_is_killed(tmp_path):
    code = "import os; from distill.metrics import compute; compute('wer', ['a'], ['b']); os.kill(os.getpid(), 9)"
    environment = os.environ | {"TMPDIR": str(tmp_path), "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not [path for path in tmp_path.rglob("*") if "metrics" in path.name or "modules" in path.name]


def test_where_evaluate_keeps_other_modules_is_not_touched():
    before = config.HF_MODULES_CACHE
    metrics._load.cache_clear()
    compute("wer", ["a"], ["a"])
    assert config.HF_MODULES_CACHE == before


@pytest.mark.parametrize(
    ("name", "predictions", "references", "message"),
    [
        ("f1", ["a"], ["a"], "no metric 'f1'; there are wer, cer, eer, mindcf, accuracy, bleu"),
        ("mindcf", [0.1, 0.2], [0, 0], "pairs of both kinds"),
        ("wer", ["a"], ["a", "b"], "1 predictions for 2 references"),
        ("wer", [], [], "no predictions at all"),
        ("eer", [0.1, 0.2], [1, 1], "pairs of both kinds"),
    ],
)
def test_errors_say_what_is_wrong(name, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        compute(name, predictions, references)


def test_other_metrics_of_the_same_process_do_not_hide_ours(tmp_path, monkeypatch):
    """As after `evaluate.load("wer")` in a notebook, or in a process started by one that had metrics of its own."""
    (tmp_path / "evaluate_modules" / "metrics").mkdir(parents=True)
    for folder in ("evaluate_modules", "evaluate_modules/metrics"):
        (tmp_path / folder / "__init__.py").touch()
    for name in [name for name in sys.modules if name.startswith("evaluate_modules")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    theirs = importlib.import_module("evaluate_modules.metrics")
    metrics._load.cache_clear()
    path = list(sys.path)
    assert metrics.compute("wer", ["a b"], ["a c"]) == 50.0
    assert sys.modules["evaluate_modules.metrics"] is theirs and sys.path == path
    del sys.modules["evaluate_modules.metrics"], sys.modules["evaluate_modules"]
