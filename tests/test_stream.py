"""A stream: every clip once an epoch, an order that the seed tells, nothing lost or repeated by an interruption."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import torch
from sounds import flac, shards
from streams import feed, source

from distill.data.batches import Batch
from distill.data.clips import decode
from distill.data.hub import Hub
from distill.data.shards import Stream, open_shards
from distill.data.stream import AT_ONCE, SURE, Feed, Reader, Source, open_stream
from distill.recipe import Distill, Recipe, RecipeError

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    """Three files of ten clips."""
    return shards(tmp_path_factory.mktemp("three"), 3, 10)


def reader(what: Source, process: int = 0, processes: int = 1, seed: int = 0, said: list | None = None) -> Reader:
    say = (said if said is not None else []).append
    return Reader(what, seed=seed, process=process, processes=processes, least=(0.0, 1), place=None, say=say)


def epochs(what: Reader, count: int) -> list[list[str]]:
    """The names heard in so many epochs."""
    pools = iter(what.pool, None)
    found = [(begins["epoch"], [clip.name for clip in clips]) for begins, clips in takewhile(before(count), pools)]
    what.close()
    return [[name for epoch, names in found if epoch == number for name in names] for number in range(count)]


def before(count: int):
    return lambda pool: pool[0]["epoch"] < count


def places(what: Feed, steps: int) -> Iterator[tuple[list[Batch], dict]]:
    """The passes of each step, and what a checkpoint would keep after it."""
    passes = []
    for batch in what.batches(steps, None):
        passes.append(batch)
        if len(passes) == what.passes:
            yield passes, json.loads(json.dumps(what.place))
            passes = []


def assert_same(ours: Sequence[Batch], theirs: Sequence[Batch]) -> None:
    assert [batch.ids for batch in ours] == [batch.ids for batch in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine.audio, other.audio) and torch.equal(mine.counts, other.counts)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_clip_is_heard_once_an_epoch_by_one_process(processes, three, four):
    """Four files are dealt to two processes whole; three are not, nor four to three, but row by row."""
    for folder, clips in ((three, 30), (four, 40)):
        heard = [epochs(reader(source(folder, buffer=4.0), rank, processes), 3) for rank in range(processes)]
        for number in range(3):
            names = [name for one in heard for name in one[number]]
            assert sorted(names) == sorted(f"clip-{clip}" for clip in range(clips))
        assert heard[0][0] != heard[0][1] != heard[0][2]


def test_files_come_in_an_order_of_the_seed_and_the_epoch(four):
    first, again, other = (epochs(reader(source(four), seed=seed), 2) for seed in (0, 0, 1))
    assert first == again != other
    assert first[0] != first[1]


@pytest.mark.parametrize("processes", [1, 2])
def test_batches_are_those_of_the_seed(four, processes):
    for rank in range(processes):
        one, same, other = (
            list(feed(source(four, buffer=8.0), rank, processes, seed=seed).batches(12, None)) for seed in (0, 0, 1)
        )
        assert_same(one, same)
        assert [batch.ids for batch in one] != [batch.ids for batch in other]


@pytest.mark.parametrize("processes", [1, 2])
def test_interrupted_after_any_step_it_goes_on_as_if_it_were_not(three, four, processes):
    """In the middle of a pool and of an epoch, at the end of both; files dealt whole, and row by row."""
    for folder in (three, four):
        what = source(folder, buffer=8.0)
        steps = list(places(feed(what, processes - 1, processes), 16))
        for done in (1, 2, 3, 5, 8, 13):
            rest = list(feed(what, processes - 1, processes).batches(16 - done, steps[done - 1][1]))
            assert_same(rest, [batch for passes, _ in steps[done:] for batch in passes])


def test_a_step_has_its_seconds_and_its_counts_and_little_padding(four):
    what = feed(source(four, buffer=30.0), batch_seconds=6.0, total=lambda counts: 7 * counts)
    steps = [passes for passes, _ in places(what, 8)]
    seconds = [sum(batch.seconds() for batch in passes) for passes in steps]
    assert max(seconds) < 7.2 and np.mean(seconds) > 4.5
    for passes in steps:
        assert all(batch.counts == 7 * sum(int(one.lengths.sum()) for one in passes) for batch in passes)
    batches = [batch for passes in steps for batch in passes]
    padded = sum(batch.audio.numel() for batch in batches)
    assert 1 - sum(int(batch.lengths.sum()) for batch in batches) / padded < 0.15  # of 0.43, drawn at random


def test_no_more_than_a_buffer_is_held(four):
    """The sixteen rows that fill it come together."""
    what = reader(source(four, buffer=3.0))
    seconds = [sum(clip.samples for clip in what.pool()[1]) / 16_000 for _ in range(8)]
    what.close()
    assert max(seconds) < 3.0 + AT_ONCE * 1.2


def test_a_share_smaller_than_a_step_is_heard_more_often_and_no_pass_is_empty(tmp_path):
    what = feed(source(shards(tmp_path, 1, 3), buffer=20.0), batch_seconds=20.0, passes=4)
    for batch in what.batches(3, None):
        assert len(batch.ids) > 0
    few = feed(source(tmp_path, buffer=3.0), batch_seconds=0.4, passes=2)
    assert all(batch.ids for batch in few.batches(6, None))


def test_a_buffer_smaller_than_a_step_is_refused(four):
    recipe = Recipe("a", distill=Distill(targets="online", stream=Stream(str(four), buffer=50), batch_seconds=120))
    with pytest.raises(RecipeError, match=r"distill\.stream\.buffer=50 s is less than a process hears in a step, 60 s"):
        open_stream(recipe, 2)
    assert open_stream(recipe, 3) is not None
    assert open_stream(Recipe("a"), 1) is None


def test_bad_clips_are_left_out_counted_and_named(tmp_path):
    said = []
    what = source(shards(tmp_path, 2, 10, bad=[3, 14]), bad_share=0.1)
    [names] = epochs(reader(what, said=said), 1)
    assert len(names) == 18 and "clip-3" not in names
    assert said[0].startswith("stream, epoch 0, process 0: left out of 20 clips: 2 bad ones (10.00%), 0 too short")
    assert "clip-3: cannot be read as audio" in said[0]
    with pytest.raises(ValueError, match=r"too many are bad, above data\.bad_share=0\.09\n.*\n  clip-(3|14): cannot"):
        epochs(reader(source(tmp_path, bad_share=0.09)), 1)


def test_too_many_bad_clips_are_told_before_the_epoch_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.data.stream.SURE", 20)
    what = reader(source(shards(tmp_path, 1, 40, bad=range(3)), bad_share=0.1, buffer=1.0))
    with pytest.raises(ValueError, match="left out of 16 clips: 3 bad"):
        what.pool()
    assert SURE == 1000


def test_long_recordings_are_cut_into_equal_pieces_or_left_out_and_short_ones_left_out(tmp_path):
    shards(tmp_path, 1, 10)
    lengths = {f"clip-{number}": len(decode(io.BytesIO(flac(number)), "")) for number in range(10)}
    said = []
    clips = reader(source(tmp_path, longest=0.5, shortest=0.25), said=said).pool()[1]
    whole = {name: samples for name, samples in lengths.items() if samples >= 0.25 * 16_000}
    heard = {name: np.concatenate([c.audio_N for c in clips if c.name.split("[")[0] == name]) for name in whole}
    for name, audio in heard.items():
        np.testing.assert_array_equal(audio, decode(io.BytesIO(flac(int(name.split("-")[1]))), ""))
    assert max(clip.samples for clip in clips) <= 8000
    assert f"{10 - len(whole)} too short, 0 too long" in said[0]
    dropped = reader(source(tmp_path, longest=0.5, long="drop")).pool()[1]
    assert {clip.name for clip in dropped} == {name for name, samples in lengths.items() if samples <= 8000}


def test_other_rates_are_resampled(tmp_path):
    clips = reader(source(shards(tmp_path, 1, 4, rate=8_000))).pool()[1]
    for clip in clips:
        expected = decode(io.BytesIO(flac(int(clip.name.split("-")[1]), 8_000)), "")
        np.testing.assert_array_equal(clip.audio_N, expected)


def test_tar_files_are_streamed_as_parquet_files_are(tmp_path):
    for number in range(4):
        with tarfile.open(tmp_path / f"train-{number}.tar", "w") as tar:
            for clip in range(5):
                for kind, content in (("flac", flac(5 * number + clip)), ("txt", b"so")):
                    entry = tarfile.TarInfo(f"{number}-{clip}.{kind}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    what = source(tmp_path, buffer=3.0)
    assert what.shards.describe(1).startswith(f"distilled on a stream: {tmp_path}, train\n4 tar files, ")
    heard = [epochs(reader(what, rank, 2), 2) for rank in range(2)]
    assert sorted(heard[0][1] + heard[1][1]) == sorted(f"{i}-{j}.flac" for i in range(4) for j in range(5))
    steps = list(places(feed(what), 6))
    assert_same(list(feed(what).batches(3, steps[2][1])), [batch for passes, _ in steps[3:] for batch in passes])


def test_what_is_streamed_is_said_with_its_size(three):
    size = sum(path.stat().st_size for path in three.iterdir())
    found = open_shards(Stream(name=str(three), buffer=600))
    assert found.size == size and len(found.files) == 3
    told = found.describe(2)
    assert "3 parquet files, 0.00 GB" in told and "none of it kept on the disk, up to 77 MB held" in told
    assert "3 files do not divide by 2 processes: each reads all" in told
    assert "divide" not in found.describe(3)


def test_what_cannot_be_streamed_is_told_with_a_way_out(three, tmp_path):
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "train.jsonl").write_text('{"audio": "a.wav"}\n')
    for stream, message in (
        (Stream(str(three), column="sound"), r"no column 'sound'; it has audio, text\n.*distill\.stream\.column="),
        (Stream(str(three), column="text"), r"no sound in its column 'text'"),
        (Stream(str(three), splits="train+dev"), r"no split 'dev'; it has train\nsay distill\.stream\.splits="),
        (Stream(str(tmp_path / "lines")), "is kept as json; a stream is read from parquet or tar files"),
        (Stream(str(three), config="b"), r"cannot be opened: .*\n.*distill\.stream\.config="),
    ):
        with pytest.raises(ValueError, match=message):
            open_shards(stream)
    with pytest.raises(OSError, match=r"'some/corpus' cannot be opened: .*\n.*distill\.stream\.name=<folder>"):
        open_shards(Stream(Hub("some/corpus").name))
    with pytest.raises(RecipeError, match=r"distill\.stream\.name=a/b needs distill\.targets=online, got memory"):
        Distill(stream=Stream("a/b"))
    with pytest.raises(RecipeError, match=r"distill\.stream\.long: there is no 'split'"):
        Stream(long="split")
