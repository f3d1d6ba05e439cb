"""From a seed to batches: the corpus is the same bytes, bad audio says so, every clip is heard once an epoch."""

import io
import itertools
import os
import shutil
import tracemalloc
from collections import Counter
from dataclasses import asdict, fields, replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch

from distill.data import embedded
from distill.data.batches import Batches, accumulation, deal, epoch
from distill.data.clips import Clips, decode
from distill.data.embedded import EmbeddedCorpus, cache_folder, fingerprint, voices
from distill.data.sentences import LANGUAGES
from distill.features import SAMPLE_RATE

SMALL = EmbeddedCorpus(  # every voice speaks
    train_english=70,
    train_other=1,
    validation_english=10,
    validation_other=1,
    test_english=24,
    test_other=1,
)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> list[datasets.Dataset]:
    """One corpus spoken twice, each in a fresh cache: by one process at a time, and by two."""
    built = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "SHARDS", 2)
        for cores in (1, 2):
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
            patch.setattr(os, "cpu_count", lambda cores=cores: cores)
            built.append(embedded.build(SMALL))
    return built


def wav(audio: np.ndarray, rate: int = SAMPLE_RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    """A sound file."""
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format=kind, subtype=subtype)
    return file.getvalue()


def clips_of(files: list[bytes], samples: list[int]) -> Clips:
    """A corpus of these files, announced with so many samples."""
    rows = {"id": [f"clip-{i}" for i in range(len(files))], "samples": samples}
    rows |= {"audio": [{"bytes": file, "path": None} for file in files]}
    return Clips(datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False)))


def hum(seconds: float) -> np.ndarray:
    return 0.1 * np.sin(np.arange(int(seconds * SAMPLE_RATE)) / 20)


def lengths(count: int, seed: int = 0, longest: float = 4.0) -> np.ndarray:
    """Samples of so many clips."""
    seconds = np.random.default_rng(seed).uniform(0.8, longest, count)
    return (seconds * SAMPLE_RATE).astype(np.int64)


def test_a_seed_speaks_the_same_bytes_in_any_number_of_processes(corpora):
    first, second = corpora
    assert set(first["speaker"]) == {voice.variant for voice in voices()}
    assert first.to_list() == second.to_list()


def test_a_corpus_is_spoken_once(corpora, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache_folder() / f"embedded-{fingerprint(SMALL)}"
    folder.mkdir(parents=True)
    for shard, source in enumerate(corpora[0].cache_files):
        shutil.copy(source["filename"], folder / f"{shard}.arrow")
    monkeypatch.setattr(embedded, "SHARDS", 2)
    monkeypatch.setattr(embedded, "_speak", lambda *_: pytest.fail("spoken again"))
    assert embedded.build(SMALL).to_list() == corpora[0].to_list()


def test_a_killed_build_does_not_hinder_the_next(monkeypatch, tmp_path):
    """In a container, a program has the same process number every time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(embedded, "SHARDS", 1)
    monkeypatch.setattr(embedded, "_start_shard", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    remove = shutil.rmtree
    monkeypatch.setattr(embedded.shutil, "rmtree", lambda *_, **__: None)  # as SIGKILL would
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            embedded.build(SMALL)
    assert not (cache_folder() / f"embedded-{fingerprint(SMALL)}").exists()
    remove(tmp_path)


def test_a_failing_shard_leaves_no_corpus(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(embedded, "SHARDS", 1)
    monkeypatch.setattr(embedded.sys, "executable", "false")
    with pytest.raises(OSError, match="speaking the embedded corpus failed"):
        embedded.build(SMALL)
    assert not list(cache_folder().iterdir())


def test_splits_share_no_voice_and_no_sentence(corpora):
    clips = Clips(corpora[0])
    for column in ("speaker", "transcript"):
        values = {split: set(clips.split(split).column(column)) for split in ("train", "validation", "test")}
        assert all(values.values())
        assert sum(map(len, values.values())) == len(set().union(*values.values())), column


def test_there_are_enough_voices_and_languages(corpora):
    speakers = Counter(voice.split for voice in voices())
    assert sum(speakers.values()) >= 80
    assert speakers["test"] >= 24
    assert len({voice.variant for voice in voices()}) == sum(speakers.values())
    assert len(LANGUAGES) >= 8
    for split in ("train", "validation", "test"):
        assert set(Clips(corpora[0]).split(split).column("language")) == set(LANGUAGES)


def test_who_is_in_which_split_does_not_depend_on_the_seed():
    other = replace(SMALL, seed=1, train_english=300, test_english=60)
    planned = {row["transcript"]: row["split"] for row in embedded.plan(replace(other, seed=2))}
    for row in embedded.plan(other):
        assert planned.get(row["transcript"], row["split"]) == row["split"]
    assert {row["speaker"] for row in embedded.plan(other) if row["split"] == "test"} <= {
        voice.variant for voice in voices() if voice.split == "test"
    }


def test_clips_are_mono_16_khz_of_the_announced_length(corpora):
    clips = Clips(corpora[0])
    for index in range(0, len(clips), 9):
        audio = clips.audio(index)
        assert audio.dtype == np.float32
        assert 0.01 < np.abs(audio).max() < 1
        assert 0.4 <= len(audio) / SAMPLE_RATE <= SMALL.longest


def test_any_setting_and_any_version_names_another_corpus(monkeypatch):
    names = {fingerprint(SMALL)}
    for field in fields(SMALL):
        value = asdict(SMALL)[field.name]
        names.add(fingerprint(replace(SMALL, **{field.name: not value if value is True else value + 1})))
    assert fingerprint(SMALL) == fingerprint(replace(SMALL))
    monkeypatch.setattr(embedded, "VERSION", embedded.VERSION + 1)
    names.add(fingerprint(SMALL))
    monkeypatch.setattr(embedded, "version", lambda package: "0.0")
    names.add(fingerprint(SMALL))
    assert len(names) == len(fields(SMALL)) + 3


BAD = {
    "noise": (b"no sound file", "cannot be read as audio"),
    "nothing": (b"", "cannot be read as audio"),
    "empty": (wav(np.zeros(0)), "no audio at all"),
    "stereo": (wav(np.zeros((16000, 2))), "2 channels where 1 is wanted; mix it down"),
    "infinite": (wav(np.full(16000, np.inf), subtype="FLOAT"), "not finite"),
    "undefined": (wav(np.full(16000, np.nan), subtype="FLOAT"), "not finite"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("stored", ["in memory", "on disk"])
def test_audio_that_cannot_be_used_says_which_and_why(name, stored, tmp_path):
    data, reason = BAD[name]
    (tmp_path / "file.wav").write_bytes(data)
    source = io.BytesIO(data) if stored == "in memory" else str(tmp_path / "file.wav")
    with pytest.raises(ValueError, match=reason) as caught:
        decode(source, f"my {name} clip")
    assert str(caught.value).startswith(f"my {name} clip: ")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="gone: cannot be read as audio"):
        decode(str(tmp_path / "gone.wav"), "gone")


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_a_truncated_file_is_no_shorter_clip(kind):
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 32000)
    whole = wav(noise, kind=kind)
    clips = clips_of([whole, whole[: len(whole) // 2]], [32000, 32000])
    assert len(clips.audio(0)) == 32000
    with pytest.raises(
        ValueError, match=r"clip-1: .*(samples where 32000 were announced|cannot be read|no audio at all)"
    ):
        clips.audio(1)


def test_a_corpus_without_a_column_says_what_it_has():
    with pytest.raises(ValueError, match="no column 'style'; it has id, samples, audio"):
        clips_of([wav(hum(1))], [16000]).column("style")


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


def test_fewer_clips_than_hands_is_an_error_that_helps():
    with pytest.raises(ValueError, match=r"2 clips cannot be dealt to 3 .*raise batch_seconds or use fewer"):
        deal(np.arange(2), lengths(2), 3)


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


def test_a_split_too_small_for_its_processes_says_so(many):
    few = batches(many.select([0, 1]), processes=4, process=1)
    with pytest.raises(ValueError, match="2 clips cannot be dealt to 4 forward passes"):
        few[0]


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "fusedistill"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == Path(tmp_path / ".cache" / "fusedistill")
