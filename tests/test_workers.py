"""Who decodes the audio changes nothing in it."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from sounds import sound

from distill.data.batches import Batches
from distill.data.clips import Clips, pad
from distill.data.workers import ahead, in_order

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # Python 3.12


@pytest.fixture
def clips(tmp_path) -> Clips:
    paths = [str(sound(tmp_path / f"{i}.wav", 0.3 + 0.02 * i, seed=i)) for i in range(20)]
    samples = [round((0.3 + 0.02 * i) * 16_000) for i in range(20)]
    rows = datasets.Dataset.from_dict({"id": paths, "audio": paths, "samples": samples})
    return Clips(rows.cast_column("audio", datasets.Audio(decode=False)))


def batches(clips: Clips, start: int = 0) -> Batches:
    def counts(rows: np.ndarray) -> torch.Tensor:
        return torch.tensor([float(len(rows))])

    return Batches(clips, counts, batch_seconds=2.0, seed=0, start=start, steps=8, passes=2, process=0, processes=1)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
@pytest.mark.parametrize("start", [0, 5])
def test_workers_change_no_bit_and_no_order(clips, start):
    alone, together = (list(in_order(batches(clips, start), workers)) for workers in (0, 2))
    assert len(alone) == len(together) == 2 * (8 - start)
    for mine, theirs in zip(alone, together, strict=True):
        assert mine.ids == theirs.ids and torch.equal(mine.audio, theirs.audio)
        assert torch.equal(mine.lengths, theirs.lengths) and torch.equal(mine.counts, theirs.counts)


def test_threads_change_no_bit_and_no_order(clips):
    batches = [np.array([3, 1]), np.array([19]), np.array([0, 2, 4])]
    heard = list(ahead(clips, batches))
    assert [rows.tolist() for rows, _, _ in heard] == [rows.tolist() for rows in batches]
    for rows, audio_BN, lengths_B in heard:
        expected_BN, expected_B = pad([clips.audio(row) for row in rows])
        assert torch.equal(audio_BN, expected_BN) and torch.equal(lengths_B, expected_B)
    assert list(ahead(clips, [])) == []


def test_what_threads_cannot_read_is_named_and_what_is_not_wanted_is_not_waited_for(clips):
    Path(clips.ids[2]).write_bytes(b"no sound any more")
    batches = ahead(clips, [np.array([0]), np.array([1]), np.array([2])])
    assert next(batches)[0].tolist() == [0]
    batches.close()
    with pytest.raises(ValueError, match=f"^{clips.ids[2]}: cannot be read"):
        list(ahead(clips, [np.array([2])]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_breaks_is_named_without_a_traceback(clips, workers):
    broken = clips.ids[7]
    Path(broken).write_bytes(b"no sound any more")
    with pytest.raises(ValueError, match=f"^{broken}: cannot be read as audio .*") as caught:
        list(in_order(batches(clips), workers))
    assert "Traceback" not in str(caught.value)
