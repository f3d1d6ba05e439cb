"""Intervals and tests against scipy, scikit-learn's ROC and answers worked out by hand."""

import numpy as np
import pytest
import scipy.stats
from spoken import make_clips

from distill.data import trials as lists
from distill.data.clips import Clips
from distill.evidence.comparison import read_evidence, write_predictions
from distill.evidence.statistics import Ratio, Trials, evidence, interval, over_seeds, paired, resamples
from distill.metrics import compute

RNG = np.random.default_rng(3)


def voices(count: int, clips: int, noise: float) -> tuple[np.ndarray, list[str]]:
    """Embeddings (1, C, 8) of length one around a direction for each speaker."""
    centres = RNG.standard_normal((count, 8)).repeat(clips, 0)
    embeddings = centres + noise * RNG.standard_normal(centres.shape)
    return (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))[None], [
        f"s{i // clips}" for i in range(count * clips)
    ]


def test_every_clip_once_gives_the_metric_itself():
    texts, spoken = ["a b", "", "c c"], ["a b c", "d", "c"]
    for metric in ("wer", "cer", "per"):
        found = evidence(metric, np.array([texts]), spoken)
        assert found.scores(np.ones((1, 3))) == pytest.approx(compute(metric.replace("per", "wer"), texts, spoken))
    right = evidence("accuracy", np.array([["x", "y"], ["x", "x"]]), ["x", "x"])
    assert right.scores(np.ones((1, 2))) == pytest.approx(75.0)
    embeddings, speakers = voices(6, 5, 1.0)
    found = evidence("eer", embeddings, speakers)
    assert isinstance(found, Trials)
    left, right = found.clips_2N
    same = [int(speakers[a] == speakers[b]) for a, b in zip(left, right, strict=True)]
    expected = compute("eer", found.scores_SN[0].tolist(), same)
    assert found.scores(np.ones((1, 6))) == pytest.approx(expected, abs=1e-4)


def test_translations_are_drawn_whole():
    texts = ["the cat sat on the mat today", "a dog ran far away", "no"]
    said = ["the cat sat on a mat today", "the dog ran far away", "yes it is"]
    found = evidence("bleu", np.array([texts]), said)
    assert found.scores(np.ones((1, 3))) == pytest.approx(compute("bleu", texts, said))
    assert found.scores(np.array([[2, 1, 0]])) == pytest.approx(
        compute("bleu", [texts[0], texts[0], texts[1]], [said[0], said[0], said[1]])
    )
    assert found.part(np.array([1])) == pytest.approx(compute("bleu", texts[1:2], said[1:2]))


@pytest.mark.parametrize("twice", [0, 1, 3, 4])
def test_a_speaker_drawn_twice_counts_as_two_speakers_would(twice):
    embeddings, speakers = voices(5, 4, 2.5)
    times = np.array([[1, 1, 0, 1, 1]])
    times[0, twice] = 2
    drawn = evidence("eer", embeddings, speakers).scores(times)[0]
    once = [row for row in range(20) if row // 4 != 2]
    rows = np.array([*once, *range(4 * twice, 4 * twice + 4)])
    origin = np.array(speakers)[rows]
    names = [*origin[:16], *["once more"] * 4]
    doubled = evidence("eer", embeddings[:, rows], names)
    assert isinstance(doubled, Trials)
    (left, right), (a, b) = doubled.speakers_C[doubled.clips_2N], origin[doubled.clips_2N]
    kept = (left == right) | (a != b)  # trials between both draws of one speaker are left out
    alone = Trials(doubled.scores_SN[:, kept], doubled.clips_2N[:, kept], doubled.speakers_C, doubled.same_N[kept])
    assert drawn == pytest.approx(alone.scores(np.ones((1, 5)))[0], abs=1e-4)


def test_the_interval_is_scipys_percentile_bootstrap():
    words = RNG.integers(3, 10, 300)
    wrong = RNG.binomial(words, 0.3)
    found = interval(Ratio(wrong[None].astype(float), words).scores(resamples(300, 4000)))

    def rate(wrong, words, axis):
        return 100 * wrong.sum(axis) / words.sum(axis)

    theirs = scipy.stats.bootstrap(
        (wrong, words), rate, paired=True, method="percentile", n_resamples=4000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert found == pytest.approx([theirs.low, theirs.high], abs=0.2)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    held = 0
    for seed in range(200):
        right = np.random.default_rng(seed).random((1, 150)) < 0.7
        low, high = interval(Ratio(right.astype(float), np.ones(150)).scores(resamples(150, 400)))
        held += low <= 70.0 <= high
    assert 0.89 <= held / 200 <= 0.99  # 95 %, within 2.6 deviations of 200 draws


def test_pairing_finds_a_difference_that_intervals_alone_hide():
    hard = RNG.random(400)  # clips differ much more than rows
    first, second = (hard > 0.5).astype(float), (hard > 0.46).astype(float)
    times = resamples(400)
    ours, theirs = (Ratio(right[None], np.ones(400)).scores(times) for right in (first, second))
    assert interval(ours)[1] > interval(theirs)[0]  # they overlap
    (low, high), p = paired(ours, theirs)
    assert high < 0 and p < 0.01
    assert low < 100 * (first - second).mean() < high


def test_no_difference_is_found_where_there_is_none():
    rejected = 0
    for seed in range(200):
        right = np.random.default_rng(seed).random((2, 1, 120)) < 0.6
        times = resamples(120, 400)
        ours, theirs = (Ratio(one.astype(float), np.ones(120)).scores(times) for one in right)
        bounds, p = paired(ours, theirs)
        assert (p < 0.05) <= (bounds[0] > 0 or bounds[1] < 0)
        rejected += p < 0.05
    assert rejected / 200 <= 0.1
    same = Ratio(right[0].astype(float), np.ones(120)).scores(times)
    assert paired(same, same) == ([0.0, 0.0], 1.0)


@pytest.mark.parametrize(("across", "excluded", "below"), [(24, True, True), (25, True, False), (26, False, False)])
def test_a_p_value_below_one_in_twenty_has_an_interval_without_zero(across, excluded, below):
    differences = np.array([-1.0] * across + [1.0] * (1000 - across))
    bounds, p = paired(differences, np.zeros(1000))
    assert (bounds[0] > 0) == excluded and (p < 0.05) == below


def test_a_difference_between_speakers_is_found_in_verification():
    speakers = voices(12, 6, 0.0)[1]
    embeddings = {noise: voices(12, 6, noise)[0] for noise in (0.3, 2.0)}
    times = resamples(12, 300)
    good, bad = (evidence("eer", embeddings[noise], speakers).scores(times) for noise in (0.3, 2.0))
    (low, high), p = paired(good, bad)
    assert low < high < 0 and p < 0.01


def test_parts_are_the_metric_of_some_clips():
    found = evidence("wer", np.array([["a", "b x", "c"]]), ["a", "b", "d"])
    assert found.part(np.array([0])) == 0.0
    assert found.part(np.array([1, 2])) == pytest.approx(100.0)
    assert np.isnan(found.part(np.array([], int)))
    embeddings, speakers = voices(6, 5, 1.0)
    trials = evidence("eer", embeddings, speakers)
    assert trials.part(np.arange(30)) == pytest.approx(trials.scores(np.ones((1, 6)))[0])
    lone = evidence("eer", embeddings[:, [0, 5, 6]], ["a", "b", "b"])
    assert np.isnan(lone.part(np.array([0])))  # all of its trials are of two speakers


def test_the_interval_over_seeds_is_students():
    values = [40.0, 42.0, 47.0]
    theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert over_seeds(values) == pytest.approx([theirs.low, theirs.high])
    assert over_seeds([50.0]) is None
    assert over_seeds([1.0, 3.0])[0] == 0.0 and over_seeds([97.0, 99.0])[1] == 100.0  # a share is never beyond
    low, high = over_seeds([130.0, 131.0], upper=np.inf)
    assert (low + high) / 2 == pytest.approx(130.5) and low < 130 < 131 < high


def test_resamples_are_the_same_for_every_row_and_every_run():
    drawn = resamples(30, 200)
    assert np.array_equal(drawn, resamples(30, 200)) and (drawn.sum(1) == 30).all() and drawn.shape == (200, 30)


def test_draws_that_tell_no_score_are_left_out():
    """Of trials of one kind alone, say."""
    scores, others = np.array([1.0, np.nan, 2.0, 3.0]), np.array([0.0, 1.0, np.nan, 1.0])
    assert interval(scores) == interval(np.array([1.0, 2.0, 3.0]))
    assert paired(scores, others) == paired(np.array([1.0, 3.0]), np.array([0.0, 1.0]))


def test_a_metric_without_evidence_is_named():
    with pytest.raises(ValueError, match="no intervals for the metric 'f1'"):
        evidence("f1", np.array([["a"]]), ["a"])


def test_a_trial_list_is_what_verification_is_scored_on(tmp_path):
    speakers = ["x", "x", "y", "y"]
    embeddings = np.array([[[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.96, 0.28]]])
    listed = np.array([[0, 0, 2], [1, 2, 3]])  # right, right, and a pair of one speaker that sounds like two
    whole, some = (evidence("eer", embeddings, speakers, trials) for trials in (None, listed))
    assert whole.scores_SN.shape == (1, 6) and some.scores_SN.round(2).tolist() == [[0.8, 0.0, 0.28]]
    given = lists.Trials(["0", "0", "2"], ["1", "2", "3"], [1, 0, 1], [1, 2, 3])
    clips = Clips(make_clips(speaker=speakers).dataset, trials=given)
    write_predictions(tmp_path / "row.sv.npz", clips, speakers, list(embeddings))
    found = read_evidence(tmp_path / "row.sv.npz", "eer")
    assert found is not None and np.array_equal(found[1].scores_SN, some.scores_SN)
    write_predictions(tmp_path / "row.asr.npz", clips.select([0, 1]), ["a", "b"], [["a", "b"]])
    with np.load(tmp_path / "row.asr.npz") as file:
        assert "trials" not in file, "of a task that hears only some of the clips"


def test_a_trial_lists_own_labels_count_where_speakers_have_no_names(tmp_path):
    """And each clip without a name is drawn for itself."""
    given = lists.Trials(["0", "0", "2", "1"], ["1", "2", "3", "4"], [1, 0, 0, 1], [1, 2, 3, 4])
    names, embeddings = ["", "", "", "", "x"], voices(5, 1, 1.0)[0]
    clips = Clips(make_clips(speaker=names).dataset, trials=given)
    write_predictions(tmp_path / "row.sv.npz", clips, names, list(embeddings))
    found = read_evidence(tmp_path / "row.sv.npz", "eer")
    assert found is not None and isinstance(found[1], Trials) and found[1].units == 5
    expected = compute("eer", found[1].scores_SN[0].tolist(), given.same)
    assert found[1].scores(np.ones((1, 5))) == pytest.approx(expected, abs=1e-4)
    assert found[1].part(np.arange(5)) == pytest.approx(expected, abs=1e-4)
    with np.load(tmp_path / "row.sv.npz") as file:
        before = {name: value for name, value in file.items() if name != "same"}
    np.savez(tmp_path / "old.sv.npz", **before)
    old = read_evidence(tmp_path / "old.sv.npz", "eer")
    assert old is not None and isinstance(old[1], Trials) and old[1].same_N.tolist() == [True, True, True, False]
