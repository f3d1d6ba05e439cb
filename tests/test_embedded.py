"""The embedded corpus: a seed speaks the same bytes, splits share nothing, a killed build does no harm."""

import os
import shutil
from collections import Counter
from dataclasses import asdict, fields, replace
from pathlib import Path

import datasets
import numpy as np
import pytest

from distill.data import embedded
from distill.data.clips import Clips
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


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "fusedistill"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == Path(tmp_path / ".cache" / "fusedistill")
