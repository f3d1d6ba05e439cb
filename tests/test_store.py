"""Frames on disk: every clip is where the layout says, and what is damaged, foreign or too large says so."""

import json
import tracemalloc
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from distill.encoders.frames import by_length
from distill.features import SAMPLE_RATE
from distill.supervision import caching
from distill.supervision.caching import claim, demand_room, size, write_missing
from distill.supervision.packing import Float16, Int8
from distill.supervision.store import Layout, Store, StoreError

WIDTH = 6  # bytes of a frame


def lengths(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(3, 40, count)


def layout_of(count: int, width: int = WIDTH) -> Layout:
    frames = lengths(count)
    return Layout.of(list(by_length(frames * SAMPLE_RATE, 100.0)), frames, width)


def content(row: int, frames: int) -> np.ndarray:
    return np.random.default_rng(row).integers(1, 256, (frames, WIDTH), dtype=np.uint8)


@pytest.fixture
def store(tmp_path) -> Store:
    """Forty clips, written shard by shard in no particular order."""
    store = Store(tmp_path, layout_of(40), WIDTH)
    for shard in reversed(store.missing()):
        write(store, shard)
    return store


def write(store: Store, shard: int) -> None:
    batches = store.layout.batches_of(shard)
    store.write(shard, [np.concatenate([content(row, store.layout.lengths[row]) for row in rows]) for rows in batches])


@pytest.mark.parametrize("count", [1, 2, 40, 500])
def test_every_frame_of_every_clip_has_its_own_place(count):
    layout = layout_of(count)
    taken = {(layout.shards[row], layout.starts[row] + t) for row in range(count) for t in range(layout.lengths[row])}
    assert len(taken) == layout.lengths.sum() == layout.frames.sum()
    assert all(0 <= place < layout.frames[shard] for shard, place in taken)
    assert sorted(np.concatenate([np.concatenate(layout.batches_of(n)) for n in range(len(layout.frames))])) == list(
        range(count)
    )


def test_shards_are_neither_too_few_nor_too_large(monkeypatch):
    assert 14 <= len(layout_of(500).frames) <= 18
    monkeypatch.setattr("distill.supervision.store.SHARD", 50 * WIDTH)
    small = layout_of(500)
    assert small.frames.max() <= 50 + 100  # one batch more at most


def test_clips_come_back_with_zeros_after_them(store):
    rows = np.array([7, 0, 31])
    bytes_BTW, lengths_B = store.batch(rows)
    assert lengths_B.tolist() == store.layout.lengths[rows].tolist()
    for row, frames_TW, length in zip(rows, bytes_BTW.numpy(), lengths_B.tolist(), strict=True):
        assert np.array_equal(frames_TW[:length], content(row, length))
        assert not frames_TW[length:].any()


def test_only_what_is_missing_is_written_again(store):
    assert store.missing() == []
    store._index(3).unlink()
    fresh = Store(store.folder, store.layout, WIDTH)
    assert fresh.missing() == [3]
    assert fresh.bytes([3]) == store._data(3).stat().st_size
    write(fresh, 3)
    assert fresh.missing() == []
    assert fresh.bytes() == store.layout.lengths.sum() * WIDTH


def test_a_shard_that_cannot_be_written_is_not_there(store):
    store._index(2).unlink()
    store._data(2).unlink()

    def full():
        yield np.zeros((3, WIDTH), np.uint8)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"cannot write .*00002.frames: No space left on device"):
        store.write(2, full())
    assert not list(store.folder.glob("00002*")) and store.missing() == [2]


def test_a_shard_that_another_run_wrote_meanwhile_is_no_error(store):
    """It was faster, and tidied up after itself and us."""
    kept = {path: path.read_bytes() for path in (store._data(2), store._index(2))}
    for path in kept:
        path.unlink()

    def meanwhile():
        yield np.frombuffer(kept[store._data(2)], np.uint8).reshape(-1, WIDTH)
        for path, written in kept.items():
            path.write_bytes(written)
        store.tidy()

    store.write(2, meanwhile())
    assert store.missing() == [] and {path: path.read_bytes() for path in kept} == kept


def test_an_index_that_another_run_wrote_and_tidied_ours_away_is_no_error(store, monkeypatch):
    kept = store._index(2).read_bytes()
    store._index(2).unlink()

    def swept(path: Path, value: object) -> None:
        path.write_bytes(kept)
        raise FileNotFoundError(2, "No such file or directory", f"{path}.77.unfinished")

    monkeypatch.setattr("distill.supervision.store.write_json", swept)
    write(store, 2)
    assert store.missing() == []


def test_shards_that_another_run_wrote_meanwhile_are_not_heard(store, accelerator, monkeypatch):
    for shard in (1, 4, 6):
        store._index(shard).unlink()
    heard = []

    def hear(store: Store, shard: int) -> None:
        heard.append(shard)
        for each in store.missing():
            write(store, each)

    monkeypatch.setattr(caching, "announce", lambda *_: None)
    scribe = SimpleNamespace(encoder=nn.Identity(), packing=Float16(1, 1), write=hear)
    write_missing(accelerator(), store, scribe)  # pyright: ignore[reportArgumentType]
    assert len(heard) == 1 and store.missing() == []


def test_a_changed_byte_is_found_when_it_is_first_read(store):
    path = store._data(0)
    damaged = bytearray(path.read_bytes())
    damaged[5] ^= 1
    path.write_bytes(damaged)
    fresh = Store(store.folder, store.layout, WIDTH)
    assert fresh.missing() == []
    with pytest.raises(StoreError, match=r"00000.frames has changed since it was written; delete"):
        fresh.batch([int(np.flatnonzero(store.layout.shards == 0)[0])])


def test_a_shard_cut_short_is_found_at_once(store):
    with store._data(1).open("r+b") as file:
        file.truncate(10)
    with pytest.raises(StoreError, match=r"00001.frames has 10 bytes where \d+ belong"):
        Store(store.folder, store.layout, WIDTH).missing()


def test_shards_of_another_layout_are_no_match(store):
    longer = replace(store.layout, lengths=store.layout.lengths + 1)
    with pytest.raises(StoreError, match="bytes where"):
        Store(store.folder, replace(longer, shards=store.layout.shards), WIDTH).missing()


def test_what_killed_processes_left_is_tidied_up(store):
    (store.folder / "00001.frames.host.77.unfinished").write_bytes(b"half")
    store.tidy()
    assert not list(store.folder.glob("*.unfinished")) and store.missing() == []


def test_a_folder_made_of_something_else_says_what_differs(tmp_path):
    made_of: dict[str, object] = {"corpus": "a", "teacher": "b", "layers": [1, 2]}
    claim(tmp_path / "t", made_of)
    claim(tmp_path / "t", dict(reversed(made_of.items())))
    with pytest.raises(StoreError, match=r"made of another layers, teacher; delete it"):
        claim(tmp_path / "t", made_of | {"teacher": "c", "layers": [1]})
    assert json.loads((tmp_path / "t/made_of.json").read_text()) == made_of


def test_a_disk_that_would_not_hold_it_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda path: usage(10**12, 0, 5 * 10**9))
    demand_room(tmp_path, 5 * 10**9, Float16(1, 1))
    with pytest.raises(ValueError, match=r"take 5 GB as float16, .* has 5 GB free.*distill.targets=codes"):
        demand_room(tmp_path, 5 * 10**9 + 1, Float16(1, 1))


def test_sizes_are_said_in_words():
    assert [size(count) for count in (0, 20, 1000, 713_000_000, 354 * 10**9)] == [
        "0 bytes",
        "20 bytes",
        "1 kB",
        "713 MB",
        "354 GB",
    ]


@pytest.mark.parametrize(("packing", "error"), [(Float16, 2**-11), (Int8, 0.5 / 127)])
def test_packing_keeps_features_to_its_rounding(packing, error):
    torch.manual_seed(0)
    hidden_FLD = torch.randn(50, 3, 20) * torch.tensor([0.01, 1.0, 30.0])[:, None]
    hidden_FLD[4, 1] = 0.0
    packed = packing(3, 20).pack(hidden_FLD)
    assert packed.dtype == torch.uint8 and packed.shape == (50, packing(3, 20).width)
    back_LFD = packing(3, 20).unpack(packed[None])[0]
    largest = hidden_FLD.abs().amax(2, keepdim=True)
    assert bool(((back_LFD.transpose(0, 1) - hidden_FLD).abs() <= 1.001 * error * largest).all())
    assert not back_LFD[1, 4].any()


@pytest.mark.parametrize("packing", [Float16(2, 4), Int8(2, 4)])
def test_no_bytes_are_no_features(packing):
    unpacked = packing.unpack(torch.zeros(2, 3, packing.width, dtype=torch.uint8))
    assert unpacked.shape == (2, 2, 3, 4) and not unpacked.any() and unpacked.is_contiguous()


@pytest.mark.parametrize(("packing", "bad"), [(Float16(1, 2), 1e6), (Float16(1, 2), np.nan), (Int8(1, 2), np.inf)])
def test_what_cannot_be_kept_is_an_error(packing, bad):
    with pytest.raises(ValueError, match="not finite numbers"):
        packing.pack(torch.tensor([[[1.0, bad]]]))


def test_where_a_million_clips_lie_takes_tens_of_bytes_each():
    frames = np.full(1_000_000, 120)
    batches = np.split(np.arange(1_000_000), range(40, 1_000_000, 40))
    tracemalloc.start()
    layout = Layout.of(batches, frames, 20)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 30 * len(frames) and peak < 80 * len(frames) and len(layout.frames) > 1


def test_paths_are_made(tmp_path: Path):
    claim(tmp_path / "deep" / "er", {"a": 1})
    assert (tmp_path / "deep/er/made_of.json").exists()
