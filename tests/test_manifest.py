"""The manifest: bad files are left out, counted and named, and no file is looked at twice."""

import os

import numpy as np
import pytest
import soundfile
from sounds import load, noise, sound, talkers

from distill.data import manifest
from distill.data.manifest import Manifest, demand_few_bad

pytestmark = pytest.mark.usefixtures("own_cache")


def test_bad_files_are_left_out_counted_and_named(tmp_path):
    talkers(tmp_path, 10)
    (tmp_path / "audio" / "0003.wav").write_bytes(b"no sound")
    (tmp_path / "audio" / "0004.wav").unlink()
    soundfile.write(tmp_path / "audio" / "0005.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "audio" / "0006.wav", noise(8000, 2), 16_000)
    splits, said = load(tmp_path, bad_share=0.2)
    assert sum(map(len, splits.values())) == 16
    assert "left out 4 of 20 files (20.00%)" in said and "shorter than" not in said, "bad, not short"
    for name, reason in (
        ("0003", "cannot be read"),
        ("0004", "cannot be read"),
        ("0005", "0 samples"),
        ("0006", "2 ch"),
    ):
        assert f"audio/{name}.wav: " in said and reason in said
    with pytest.raises(ValueError, match=r"4 of 20 files .* above data\.bad_share=0\.1"):
        load(tmp_path, bad_share=0.1)


def test_damage_behind_a_good_header_is_found_by_decoding(tmp_path):
    talkers(tmp_path, 10)
    damaged = sound(tmp_path / "audio" / "0003.flac", 2.0)
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    damaged.rename(tmp_path / "audio" / "0003.wav")
    splits, _ = load(tmp_path)
    assert sum(map(len, splits.values())) == 20
    (clips, row) = next((part, part.ids.index(name)) for part in splits.values() for name in part.ids if "0003" in name)
    with pytest.raises(ValueError, match=r"0003.wav: .*(data\.check=decode|cannot be read)"):
        clips.audio(row)
    assert sum(map(len, load(tmp_path, check="decode", bad_share=0.1)[0].values())) == 19


def test_files_are_looked_at_once_until_they_change(tmp_path, own_cache, monkeypatch):
    before, _ = load(talkers(tmp_path, 10))
    assert len(list(own_cache.glob("*.arrow"))) == 1
    measure = manifest.length
    monkeypatch.setattr(manifest, "length", lambda *_: pytest.fail("looked again"))
    after, _ = load(tmp_path)
    assert {part: list(clips.samples) for part, clips in after.items()} == {
        part: list(clips.samples) for part, clips in before.items()
    }
    monkeypatch.setattr(manifest, "length", measure)
    names = set()
    for change in (
        lambda: sound(tmp_path / "audio" / "0000.wav", 0.7),
        lambda: os.utime(tmp_path / "audio" / "0001.wav", ns=(1, 1)),
        lambda: monkeypatch.setattr(manifest, "VERSION", 2),
    ):
        change()
        load(tmp_path)
        names.add(len(list(own_cache.glob("*.arrow"))))
    load(tmp_path, mono="mix")
    assert names | {len(list(own_cache.glob("*.arrow")))} == {2, 3, 4, 5}


def test_of_many_bad_files_the_first_are_named_and_all_counted():
    said: list[str] = []
    demand_few_bad(Manifest([0] * 25 + [1] * 75, [f"bad-{n}" for n in range(25)] + [""] * 75), 0.25, said.append)
    assert "left out 25 of 100 files (25.00%)" in said[0] and "bad-19\n  and 5 more" in said[0]
