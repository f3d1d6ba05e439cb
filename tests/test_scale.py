"""A corpus ten times as large is learned from in the same memory: only an index of some bytes a clip grows with it."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from miniature import FORKS

from distill.data.batches import Batches
from distill.data.clips import Clips
from distill.encoders.frames import by_length
from distill.supervision.store import Layout, Store

CLIPS, STEPS, WIDTH = 20_000, 30, 100  # of the smaller corpus; optimizer steps; bytes of a frame
LENGTHS = (1600, 3200, 4800)  # samples of the clips, by turns
INDEX = 400  # most bytes of memory that a clip more takes; its targets have a thousand


def write(clips: int, folder: Path) -> Path:
    """A synthetic index, whose rows share three sound files."""
    folder.mkdir()
    paths = [str(folder / f"{samples}.wav") for samples in LENGTHS]
    for path, samples in zip(paths, LENGTHS, strict=True):
        soundfile.write(path, np.zeros(samples, np.float32), 16_000)
    audio = [{"bytes": None, "path": paths[row % 3]} for row in range(clips)]
    rows = {"id": [f"clip-{row}" for row in range(clips)], "audio": audio}
    rows["samples"] = [LENGTHS[row % 3] for row in range(clips)]
    index = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
    index.save_to_disk(str(folder / "index"))
    return folder


def resident() -> int:
    """Bytes of this process's own memory; what is mapped from files the system takes back as it likes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def learn(folder: Path, result: Path) -> None:
    """Write targets of the whole corpus and draw batches of clips and targets, as distillation does; its memory."""
    torch.set_num_threads(1)
    clips, most = Clips(datasets.load_from_disk(str(folder / "index"))), 0
    store = Store(folder, Layout.of(list(by_length(clips.samples, 20.0)), clips.samples // 320, WIDTH), WIDTH)
    for shard, frames in enumerate(store.layout.frames):
        store.write(shard, (np.full((some, WIDTH), shard, np.uint8) for some in parts(int(frames))))
    deal = {"start": 0, "steps": STEPS, "passes": 1, "process": 0, "processes": 1}
    for batch in Batches(clips, lambda rows: torch.ones(1), batch_seconds=20.0, seed=0, **deal):
        targets, lengths = store.batch(batch.rows)
        assert bool((lengths == batch.lengths // 320).all()) and targets.shape[2] == WIDTH
        most = max(most, resident())
    result.write_text(json.dumps(most))


def parts(frames: int, size: int = 4096) -> list[int]:
    """So many frames in parts."""
    return [min(size, frames - start) for start in range(0, frames, size)]


@pytest.mark.slow  # 200 MB of disk
def test_ten_times_the_corpus_takes_the_same_memory(tmp_path):
    found = []
    for clips in (CLIPS, 10 * CLIPS):
        folder, result = write(clips, tmp_path / str(clips)), tmp_path / f"{clips}.json"
        process = FORKS.Process(target=learn, args=(folder, result))
        process.start()
        process.join(300)
        assert process.exitcode == 0
        found.append(json.loads(result.read_text()))
    small, large = found
    assert large - small < 9 * CLIPS * INDEX, "the corpus is in memory"
    assert large < 1.2 * small, f"{small / 1e6:.0f} MB for {CLIPS} clips, {large / 1e6:.0f} MB for ten times as many"
