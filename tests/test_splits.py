"""Splits: as the corpus says, or whole speakers drawn by a seed, whatever else is left out."""

import pytest
from sounds import load, talkers

from distill.data.splits import SPLITS, complete, named, set_apart

pytestmark = pytest.mark.usefixtures("own_cache")


def speakers(clips) -> set[str]:
    return set(clips.column("speaker"))


def test_a_corpus_without_splits_is_split_by_speaker_and_says_so(tmp_path):
    splits, said = load(talkers(tmp_path, 10), test_share=0.3)
    assert [len(speakers(splits[part])) for part in SPLITS] == [6, 1, 3]
    assert len(set.union(*map(speakers, splits.values()))) == 10
    assert "no test split: 3 of 10 training speakers" in said
    again, _ = load(tmp_path, test_share=0.3)
    other, _ = load(tmp_path, test_share=0.3, split_seed=1)
    assert speakers(again["test"]) == speakers(splits["test"]) != speakers(other["test"])


def test_who_is_in_which_split_depends_neither_on_limits_nor_on_the_order_of_files(tmp_path):
    splits, _ = load(talkers(tmp_path, 10))
    shorter, said = load(tmp_path, longest=0.42)
    assert speakers(shorter["test"]) <= speakers(splits["test"])
    assert speakers(shorter["train"]) <= speakers(splits["train"])
    assert "left out 7 of 20 clips, longer than data.longest=0.42 s" in said
    voices = ["a", "b", "c", "d"]
    shares = {"validation": 0.25, "test": 0.25}
    there = dict(zip(voices, complete(["train"] * 4, voices, shares, 0, print), strict=True))
    back = dict(zip(voices[::-1], complete(["train"] * 4, voices[::-1], shares, 0, print), strict=True))
    assert there == back


def test_only_the_missing_split_is_made_and_from_training_speakers():
    given = ["train"] * 8 + ["validation"] * 2
    made = complete(given, [str(i) for i in range(10)], {"validation": 0.5, "test": 0.25}, 0, print)
    assert made[8:] == ["validation", "validation"]
    assert sorted(made[:8]) == ["test"] * 2 + ["train"] * 6


def test_without_speakers_clips_are_drawn():
    made = complete(["train"] * 20, None, {"validation": 0.1, "test": 0.2}, 0, print)
    assert [made.count(part) for part in SPLITS] == [14, 2, 4]


def test_splits_may_be_named_and_joined():
    values = ["clean", "other", "heldout", "spare"]
    assert named(values, {"train": "clean+other", "test": "heldout"}) == ["train", "train", "test", ""]
    assert named(["Dev", "", "Training"], {}) == ["validation", "", "train"]
    with pytest.raises(ValueError, match=r"no split 'dirty'; it has clean, .*\n.*data\.splits\.train="):
        named(values, {"train": "dirty"})
    with pytest.raises(ValueError, match="no split of a usual name; it has fold1"):
        named(["fold1"], {})


def test_too_few_speakers_and_no_training_clips_are_refused():
    shares = {"validation": 0.1, "test": 0.1}
    with pytest.raises(ValueError, match="2 speakers in train are too few"):
        complete(["train"] * 2, ["a", "b"], shares, 0, print)
    with pytest.raises(ValueError, match="no clip to train on, only test"):
        complete(["test"], ["a"], shares, 0, print)


def test_speakers_nobody_named_are_in_no_split_that_is_made():
    voices = ["", "", "", "a", "b", "c"]
    made = complete(["train"] * 6, voices, {"validation": 0.4, "test": 0.3}, 0, print)
    assert made[:3] == ["train"] * 3 and sorted(made[3:]) == ["test", "train", "validation"]


def test_a_split_that_is_made_has_one_speaker_or_more():
    made = complete(["train"] * 5, list("abcde"), {"validation": 0.01, "test": 0.01}, 0, print)
    assert (made.count("validation"), made.count("test")) == (1, 1)


def test_clips_of_no_known_speaker_stay_where_a_trial_list_takes_one_of_them():
    said: list[str] = []
    made = set_apart(["train"] * 4, ["1", "2", "3", "4"], ["", "", "a", "a"], {"1", "3"}, said.append)
    assert made == ["test", "train", "test", ""] and "1 more clips" in said[0]


def test_a_split_that_limits_leave_empty_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no clip is left in the \w+ split; widen data\.shortest"):
        load(talkers(tmp_path, 10), longest=0.305)
