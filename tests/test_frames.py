"""Features of clips kept in memory or on the disk: every clip its own, standardised, cropped inside itself."""

import numpy as np
import pytest
import torch
from spoken import Levels

from distill.data.clips import pad
from distill.encoders.frames import FrameCache, by_length, in_file, in_memory, standardiser

CPU = torch.device("cpu")


def test_the_cache_gives_the_standardised_features_of_each_clip(splits):
    encoder, clips = Levels(), splits["train"]
    standardise = standardiser(encoder, clips, 5.0, CPU)
    cache = FrameCache.extract(encoder, clips, standardise, 5.0, CPU)
    rows = [7, 3, 11]
    hidden_BLTD, lengths_B = cache.batch(rows, None, None)
    with torch.no_grad():
        expected = standardise(encoder(*pad([clips.audio(row) for row in rows])))
    assert torch.equal(lengths_B, expected.lengths)
    torch.testing.assert_close(hidden_BLTD, expected.hidden[:, :, : lengths_B.max()], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(cache.hidden_FLD.float().mean(0), torch.zeros(3, 4), rtol=0, atol=1e-3)
    torch.testing.assert_close(cache.hidden_FLD.float().std(0), torch.ones(3, 4), rtol=0, atol=1e-2)


def test_crops_lie_inside_their_clips_and_reach_both_ends():
    lengths = torch.tensor([5, 8, 2])
    frames = torch.arange(15.0).half()[:, None, None]
    cache = FrameCache(frames, lengths.cumsum(0) - lengths, lengths, 50.0)
    generator, starts = torch.Generator().manual_seed(0), set()
    for _ in range(60):
        hidden_BLTD, lengths_B = cache.batch([1, 2], 3, generator)
        assert lengths_B.tolist() == [3, 2]
        start = hidden_BLTD[0, 0, 0, 0].item()
        assert hidden_BLTD[:, 0, :, 0].tolist() == [[start, start + 1, start + 2], [13, 14, 0]]
        starts.add(start)
    assert starts == {5, 6, 7, 8, 9, 10}


def test_features_beyond_float16_are_refused(splits):
    encoder = Levels()
    with torch.no_grad():
        encoder.mix.bias.fill_(1e6)
    standardise = standardiser(Levels(), splits["train"], 5.0, CPU)
    with pytest.raises(ValueError, match="Levels gives features that are not finite"):
        FrameCache.extract(encoder, splits["test"], standardise, 5.0, CPU)


def test_clips_are_heard_in_batches_of_bounded_padded_length():
    samples = np.random.default_rng(0).integers(8000, 64_000, 50)
    found = list(by_length(samples, 8.0))
    assert sorted(np.concatenate(found)) == list(range(50))
    assert all(len(rows) * samples[rows].max() <= 8 * 16_000 for rows in found)


def test_a_new_file_leaves_an_old_one_of_its_name_alone(tmp_path):
    """Which another process may still be reading."""
    old = in_file(tmp_path / "train", (3, 2)).fill_(1.0)
    in_file(tmp_path / "train", (3, 2)).zero_()
    assert bool((old == 1.0).all())


def test_a_disk_without_room_for_features_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"GB free, the features need 2000000\.0 GB"):
        in_file(tmp_path / "train", (10**12, 10, 100))
    assert not list(tmp_path.iterdir())


def test_more_than_the_memory_holds_is_refused_before_anything_is_heard():
    with pytest.raises(ValueError, match=r"need 1000000\.0 GB of memory, .* GB are free; for targets take dist"):
        in_memory((5 * 10**14, 1, 1))
    assert in_memory((3, 2)).shape == (3, 2)
