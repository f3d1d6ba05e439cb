"""Clips and seeds together: against Student's tests, and how often a difference is found that is none."""

from typing import Any

import numpy as np
import pytest
import scipy.stats

from benchmarks.spread import Variance, of_clips, of_seed
from benchmarks.verdict import Score
from distill.evidence.statistics import resamples


def score(values_S: np.ndarray, drawn_R: np.ndarray, units: int = 1000) -> Score:
    return Score(values_S.tolist(), drawn_R, units)


def test_of_seeds_alone_it_is_student_s_t_test():
    rng = np.random.default_rng(0)
    ours, theirs, clips = rng.normal(76, 1, 3), rng.normal(74, 1, 2), np.full(50, 75.0)
    told = score(ours, clips).told(score(theirs, clips), of_seed([ours.tolist(), theirs.tolist()]))["difference"]
    reference: Any = scipy.stats.ttest_ind(ours, theirs)
    assert told["p_value"] == pytest.approx(reference.pvalue)
    assert told["interval"] == pytest.approx(tuple(reference.confidence_interval()))


def test_of_clips_alone_it_is_the_paired_t_test_of_clips():
    rng = np.random.default_rng(1)
    ours, theirs = 100 * (rng.random(400) < 0.60), 100 * (rng.random(400) < 0.53)
    drawn = [resamples(400) @ right / 400 for right in (ours, theirs)]
    one, other = (
        score(np.array([right.mean()]), all_R, 400) for right, all_R in zip((ours, theirs), drawn, strict=True)
    )
    seed = of_seed([one.values_S, other.values_S])
    assert seed.freedom == 0
    told = one.told(other, seed)["difference"]
    reference: Any = scipy.stats.ttest_rel(ours, theirs)
    assert told["p_value"] == pytest.approx(reference.pvalue, rel=0.25)
    assert told["interval"] == pytest.approx(tuple(reference.confidence_interval()), abs=0.5)


@pytest.mark.parametrize(("seeds", "others"), [(2, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_where_no_cell_is_better_one_in_twenty_is_found_so(seeds, others, spread):
    """Or nearly: 8 in 100 at worst, where a bootstrap over the seeds finds 29 (3 against 1 at a spread of 1)."""
    rng, found, times = np.random.default_rng(2), 0, 400
    noise_R = rng.normal(0, 0.55, 200)
    for _ in range(times):
        clips = rng.normal(0, 0.55)
        ours, theirs = clips + rng.normal(75, spread, seeds), rng.normal(75, spread, others)
        one, other = score(ours, ours.mean() + noise_R), score(theirs, np.full(200, theirs.mean()))
        found += one.told(other, of_seed([ours.tolist(), theirs.tolist()]))["difference"]["p_value"] < 0.05
    assert 0.02 < found / times < 0.1


def test_what_nothing_is_known_of_is_not_added_and_equal_scores_do_not_differ():
    assert Variance(4.0, 10.0) + of_seed([[1.0], [2.0]]) == Variance(4.0, 10.0)
    both = Variance(1.0, 4.0) + Variance(1.0, 4.0)
    assert both == Variance(2.0, 8.0)
    same = score(np.array([50.0]), np.full(20, 50.0))
    assert same.told(score(np.array([50.0]), np.full(20, 50.0)), of_seed([[50.0]]))["difference"]["p_value"] == 1
    assert of_seed([[1.0, 3.0], [5.0, 5.0]]) == Variance(1.0, 2.0)
    assert of_clips(np.array([1.0, np.nan, 3.0]), 2) == Variance(4.0, 1.0)


def test_of_a_single_clip_there_is_no_interval_and_no_test():
    one, other = (score(np.array([value, value + 1]), np.full(20, value), 1) for value in (50.0, 75.0))
    told = one.told(other, of_seed([one.values_S, other.values_S]))
    assert told["interval"] is None
    assert told["difference"] == {"value": -25.0, "interval": None, "p_value": None}
