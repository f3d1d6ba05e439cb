"""Batches: every clip is heard once an epoch, steps are dealt whole and evenly, whoever hears them."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from sounds import clips_of, hum, wav

from distill.data.batches import Batches, accumulation, deal, epoch
from distill.data.clips import Clips
from distill.features import SAMPLE_RATE


def lengths(count: int, seed: int = 0, longest: float = 4.0) -> np.ndarray:
    """Samples of so many clips."""
    seconds = np.random.default_rng(seed).uniform(0.8, longest, count)
    return (seconds * SAMPLE_RATE).astype(np.int64)


@pytest.mark.parametrize("count", [1, 7, 500])
@pytest.mark.parametrize("batch_seconds", [5.0, 60.0])
def test_an_epoch_hears_every_clip_once(count, batch_seconds):
    for number in (0, 1):
        steps = epoch(lengths(count), batch_seconds, 0, number)
        assert sorted(np.concatenate(steps)) == list(range(count))


def test_steps_are_of_about_batch_seconds_and_padding_is_small():
    samples = lengths(2000, seed=7)
    heard, padded = [], []
    for rows in epoch(samples, 120.0, 0, 0):
        heard.append(samples[rows].sum() / SAMPLE_RATE)
        padded += [len(hand) * samples[hand].max() / SAMPLE_RATE for hand in deal(rows, samples, 2)]
    assert min(heard) > 120 - 2 * 4 and max(heard) < 120 + 2 * 4
    assert sum(padded) / sum(heard) < 1.05


def test_epochs_and_seeds_differ_and_each_is_repeatable():
    drawn = [epoch(lengths(300), 20.0, seed, number) for seed, number in ((0, 0), (0, 1), (1, 0), (0, 0))]
    as_sets = [{frozenset(rows) for rows in steps} for steps in drawn]
    assert as_sets[0] == as_sets[3] and [list(rows) for rows in drawn[0]] == [list(rows) for rows in drawn[3]]
    assert len(as_sets[0] & as_sets[1]) < 3 and len(as_sets[0] & as_sets[2]) < 3


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_a_step_is_dealt_whole_and_evenly(parts):
    samples = lengths(400)
    rows = np.arange(100, 140)
    hands = deal(rows, samples, parts)
    assert sorted(np.concatenate(hands)) == list(rows)
    ends = [(samples[hand].max(), samples[hand].min()) for hand in hands]
    assert all(shortest >= longest for (_, shortest), (longest, _) in itertools.pairwise(ends))
    heard = [samples[hand].sum() for hand in hands]
    assert max(heard) - min(heard) <= 2 * samples[rows].max()


def test_no_hand_is_empty_whatever_the_lengths():
    for samples in (np.array([10**6, 1, 1, 1, 1]), np.array([1, 1, 1, 1, 10**6]), np.ones(5, int)):
        for parts in range(1, 6):
            hands = deal(np.arange(5), samples, parts)
            assert len(hands) == parts and min(map(len, hands)) >= 1
            assert sorted(np.concatenate(hands)) == list(range(5))


def test_more_blur_mixes_more_and_pads_more():
    samples = lengths(2000, seed=7)  # the seed of an epoch draws the same numbers

    def mean_spread(blur: float) -> float:
        return float(np.mean([np.ptp(samples[rows]) for rows in epoch(samples, 20.0, 0, 0, blur)]))

    assert mean_spread(0.0) < mean_spread(0.15) < mean_spread(1.0)


def test_an_index_ten_times_as_large_takes_tens_of_bytes_a_clip():
    """What grows with the corpus: lengths and the order of an epoch."""
    samples = lengths(200_000)
    tracemalloc.start()
    kept = epoch(samples, 120.0, 0, 0)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) > 1000 and held < 20 * len(samples) and peak < 120 * len(samples)


def test_of_fewer_clips_than_hands_each_is_in_one_and_the_last_hands_are_empty():
    hands = deal(np.array([4, 7]), np.arange(8), 5)
    assert [list(hand) for hand in hands] == [[7], [4], [], [], []]


def test_passes_keep_to_forward_seconds():
    assert accumulation(120, 120, 1) == 1
    assert accumulation(120, 60, 1) == 2
    assert accumulation(120, 60, 2) == 1
    assert accumulation(121, 60, 1) == 3
    assert accumulation(10, 60, 4) == 1
    assert accumulation(0.3, 0.1, 1) == 3


@pytest.fixture(scope="module")
def many() -> Clips:
    samples = lengths(60, longest=1.5)
    return clips_of([wav(hum(4)[:count]) for count in samples], samples.tolist())


def batches(clips: Clips, **changed) -> Batches:
    asked = {"batch_seconds": 8.0, "seed": 0, "start": 0, "steps": 20, "passes": 1, "process": 0, "processes": 1}
    return Batches(clips, lambda rows: torch.tensor([float(len(rows))]), **(asked | changed))


def test_a_batch_holds_its_clips(many):
    for batch in (batches(many)[i] for i in (0, 7)):
        assert batch.ids == [many.ids[row] for row in batch.rows]
        for row, clip_N, length in zip(batch.rows, batch.audio, batch.lengths, strict=True):
            assert int(length) == many.samples[row]
            assert torch.equal(clip_N[:length], torch.from_numpy(many.audio(row)))
            assert not clip_N[length:].any()
        assert batch.seconds() == pytest.approx(many.samples[batch.rows].sum() / SAMPLE_RATE)


def test_two_processes_hear_what_one_hears_in_two_passes(many):
    alone = batches(many, passes=2)
    together = [batches(many, process=process, processes=2) for process in range(2)]
    assert len(alone) == 2 * len(together[0]) == 40
    for step in range(20):
        mine = [alone[2 * step + forward] for forward in range(2)]
        theirs = [part[step] for part in together]
        assert [list(batch.rows) for batch in mine] == [list(batch.rows) for batch in theirs]
        assert sorted(np.concatenate([batch.rows for batch in mine])) == sorted(batches(many).rows(step))
        assert all(batch.counts == len(batches(many).rows(step)) for batch in mine + theirs)


@pytest.mark.parametrize("start", [1, 6, 19])
def test_starting_at_a_step_equals_skipping_what_was_before(many, start):
    whole, rest = batches(many, passes=2), batches(many, passes=2, start=start)
    assert len(rest) == len(whole) - 2 * start
    for item in {0, 1, len(rest) - 1}:
        assert rest[item].ids == whole[item + 2 * start].ids
        assert torch.equal(rest[item].audio, whole[item + 2 * start].audio)


def test_batches_end(many):
    with pytest.raises(IndexError):
        batches(many)[20]
    assert len(batches(many, start=20)) == 0


def test_a_process_that_a_step_has_no_clip_for_hears_its_shortest_for_nothing(many):
    few = many.select([0, 1])
    heard = [batches(few, processes=4, process=process)[0] for process in range(4)]
    assert [batch.weight for batch in heard] == [1.0, 1.0, 0.0, 0.0]
    assert sorted(heard[0].ids + heard[1].ids) == sorted(few.ids)
    assert all(batch.rows == [few.samples.argmin()] and batch.seconds() == 0 for batch in heard[2:])
    assert all(batch.to(torch.device("cpu")).weight == batch.weight for batch in heard)
    assert all(batch.counts == 2 for batch in heard)
