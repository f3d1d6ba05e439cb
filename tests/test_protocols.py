"""The published protocols: their tasks' labels and scores, how their heads are trained, and that they probe."""

import numpy as np
import pytest
import torch
from spoken import make_clips

from distill.encoders.frames import FrameCache
from distill.loading import load
from distill.probe import Split, schedule, score, train
from distill.protocol import Evaluate
from distill.tasks import SUPERB
from distill.tasks.asr import Spelled, split_name
from distill.tasks.superb import TRAINING
from teachers import FAMILIES


def test_phones_are_scored_by_the_phone():
    heard = make_clips(phones=["HH AH L OW", "B AY"])
    task = SUPERB["pr"].prepare(heard)
    assert task.vocabulary == ("AH", "AY", "B", "HH", "L", "OW")
    assert [target.tolist() for target in task.targets(heard)] == [[4, 1, 5, 6], [3, 2]]
    assert task.score(["HH AH L OW", "B OW"], heard) == {"per": pytest.approx(100 / 6)}


def test_phones_are_probed_by_light_heads_too_where_they_are_asked_for():
    assert "pr" not in Evaluate().tasks
    light = Evaluate(tasks=["pr", "sv"])
    assert light.menu()["pr"].metric == "per" and light.budget("pr").decay


def test_several_languages_are_named_before_their_text():
    heard = make_clips(transcript=["ab", "b"], language=["eng", "deu"])
    task = SUPERB["ml-multi"].prepare(heard)
    assert task.vocabulary == ("[deu]", "[eng]", "a", "b")
    scores = torch.full((1, 5, 5), -9.0)
    for t, symbol in enumerate([2, 0, 3, 4, 4]):
        scores[0, t, symbol] = 9.0
    assert task.predictions(Spelled(scores, torch.tensor([5])), torch.tensor([99])) == ["[eng]ab"]
    assert task.score(["[eng]ab", "[eng]b"], heard) == {"wer": 0.0, "cer": 0.0, "lid": 50.0}
    assert split_name("[eng]a[deu]b") == ("eng", "ab") and split_name("ab") == ("", "ab")
    assert SUPERB["ml-mono"].prepare(heard).vocabulary == ("a", "b")


def test_classes_of_which_none_is_in_training_are_an_error():
    """As speakers are in a corpus for verification."""
    task = SUPERB["sid"].prepare(make_clips(speaker=["x", "y"]))
    assert task.score(["x", "y"], make_clips(speaker=["x", "z"])) == {"accuracy": 50.0}
    with pytest.raises(ValueError, match=r"sid: none of the 2 classes in 'speaker' is in a training clip, 'v' for one"):
        task.score(["x", "x"], make_clips(speaker=["v", "z"]))


@pytest.mark.parametrize("name", ["sid", "er"])
def test_classes_are_as_unequal_as_the_corpus_has_them(name):
    labels = ["x"] * 9 + ["y"] * 2 + ["z"]
    assert len(SUPERB[name].select(make_clips(speaker=labels, style=labels))) == 12


def test_published_heads_are_trained_as_published():
    settings = Evaluate(tasks=list(SUPERB), heads="superb", steps={"er": 5})
    budgets = {name: settings.budget(name) for name in SUPERB}
    assert {name: (one.steps, one.batch, one.weight_decay, one.clip, one.checks) for name, one in budgets.items()} == {
        "asr": (200_000, 32, 0.0, 1.0, 100),
        "pr": (100_000, 32, 0.0, 1.0, 100),
        "sid": (200_000, 32, 0.0, 1.0, 40),
        "sv": (200_000, 50, 0.01, 1000.0, 10),
        "er": (5, 32, 0.0, 1.0, 30),
        "ml-mono": (15_000, 32, 1e-6, 1.0, 15),
        "ml-multi": (300_000, 32, 1e-6, 1.0, 100),
    }
    assert {schedule(step, budgets["asr"]) for step in (0, 1000, 199_999)} == {1.0}
    with pytest.raises(ValueError, match="no task 'lid' with superb heads; there are asr, pr, sid, sv, er"):
        Evaluate(heads="superb")
    with pytest.raises(ValueError, match=r"evaluate\.heads: no 'heavy'; there are light, superb"):
        Evaluate(heads="heavy")


@pytest.mark.parametrize("words", [["recipe=superb", "scale=base"], ["recipe=wavlm+whisper", "scale=large"]])
def test_scales_of_published_size_train_published_heads_for_as_long_as_published(words):
    """The steps of light heads are no part of them."""
    evaluate = load(words, FAMILIES).evaluate
    assert evaluate.heads == "superb"
    for task in evaluate.tasks:
        assert evaluate.budget(task).steps == TRAINING[task].steps


@pytest.mark.parametrize("name", ["er", "sid", "ml-mono"])
def test_a_published_head_probes_a_cache_and_equal_seeds_make_equal_probes(name):
    labels = {"transcript": ["a b", "ba"] * 6, "speaker": ["x", "y"] * 6, "style": ["p", "q"] * 6}
    heard, generator = make_clips(**labels, language=["en"] * 12), torch.Generator().manual_seed(0)
    lengths = torch.full((12,), 40)
    hidden_FLD = torch.randn(480, 3, 8, generator=generator).half()
    split = Split(heard, FrameCache(hidden_FLD, lengths.cumsum(0) - lengths, lengths, 50.0), np.arange(12))
    task = SUPERB[name].prepare(heard)
    budget = Evaluate(tasks=[name], heads="superb", interface="weighted_sum", steps={name: 3}).budget(name)
    state = torch.get_rng_state()
    first, second = (train(task, split, budget, 1e-3, 7, torch.device("cpu")) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator was touched"
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert task.metric in score(task, first, split, 4, torch.device("cpu"))
    assert not any(module.training for module in first.modules()), "nothing drops out of what is scored"
