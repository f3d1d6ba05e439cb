"""Small upstreams go on from a checkpoint with a user's recordings, of which they hear the training split alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from miniature import Miniature
from sounds import talkers

from distill.data.corpora import load_splits
from distill.data.espeak import Espeak
from distill.data.synthesis import speak
from distill.features import SAMPLE_RATE
from teachers import build_upstream
from teachers.pretrain.__main__ import main, read
from teachers.pretrain.alignment import VOICES, Reading, align, mel_of, say, warp
from teachers.pretrain.material import Material, material
from teachers.pretrain.settings import Pretrain
from teachers.pretrain.training import batches
from teachers.pretrain.waveform import mask_spans

SHORT = ("steps=2", "batch_seconds=4", "learning_rate=1e-3")


@pytest.fixture
def words(tmp_path) -> list[str]:
    """A folder of twelve speakers, whose corpus has no splits, and where to put the checkpoint."""
    folder = talkers(tmp_path / "corpus", 12, clips=3, language="en")
    return ["data.corpus=folder", f"data.folder.path={folder}", f"out={tmp_path / 'made'}"]


@pytest.mark.filterwarnings("ignore:Support for mismatched:UserWarning")  # transformers' WavLM with padded clips
@pytest.mark.parametrize(
    ("family", "more"),
    [("wavlm", []), ("wavlm", ["lessons=known"]), ("whisper", [])],
    ids=["found", "known", "whisper"],
)
def test_a_checkpoint_goes_on_with_recordings_and_is_an_upstream_again(
    words, family, more, miniature: Miniature, tmp_path
):
    start = miniature.folder / family
    main([family, f"start={start}", *SHORT, *more, *words])
    before, after = (build_upstream(family, "", str(folder)).encoder for folder in (start, tmp_path / "made"))
    changed = [bool((one != other).any()) for one, other in zip(before.parameters(), after.parameters(), strict=True)]
    assert sum(changed) > len(changed) / 2, "it has learned"
    audio_BN, lengths_B = torch.randn(1, SAMPLE_RATE), torch.tensor([SAMPLE_RATE])
    assert bool(after(audio_BN, lengths_B).hidden.isfinite().all())


def test_the_training_split_of_the_same_recipe_is_heard_and_nothing_else(words, miniature: Miniature):
    settings = read("whisper", [*words, "data.test_share=0.25", "data.split_seed=3"])
    splits, heard = load_splits(settings.data, lambda _: None), material(settings)
    assert heard.clips.ids == splits["train"].ids and len(splits["test"]) == 9
    assert not set(heard.clips.column("speaker")) & set(splits["validation"].column("speaker"))
    for row, (clean, noisy) in enumerate(zip(heard.clean, heard.noisy, strict=True)):
        assert np.array_equal(clean, splits["train"].audio(row)) and noisy.dtype == np.float32
        decibels = 10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2))
        assert 4.9 < decibels < 25.1


def test_a_share_of_the_clips_is_heard_with_noise():
    quiet, loud = [np.zeros(1)] * 400, [np.ones(1)] * 400
    data = Material(loud, quiet, None, np.ones(400))  # type: ignore[arg-type]  # the clips are not asked
    rows, rng = np.arange(400), np.random.default_rng(0)
    assert [sum(clip[0] for clip in data.heard(rows, share, rng)) for share in (0.0, 1.0)] == [0, 400]
    assert 240 < sum(clip[0] for clip in data.heard(rows, 0.7, rng)) < 320


def test_batches_are_as_long_as_wanted_and_leave_no_clip_out():
    lengths = np.random.default_rng(0).integers(1, 8, 300) * SAMPLE_RATE
    drawn = batches(lengths, Pretrain("wavlm", batch_seconds=30.0))
    rows, seconds = [], []
    while len(rows) < len(lengths):
        chosen = next(drawn)
        rows += chosen.tolist()
        seconds.append(lengths[chosen].sum() / SAMPLE_RATE)
    assert sorted(rows) == list(range(300)), "each once before any again"
    assert 23 <= min(seconds[:-1]) and max(seconds) <= 37


def test_hidden_frames_are_a_share_in_spans_and_within_their_clip():
    frames_B = torch.tensor([400, 100] * 20)
    hidden_BT = mask_spans(frames_B, np.random.default_rng(0), share=0.4, span=6)
    assert not hidden_BT[1::2, 100:].any()
    assert 0.25 < hidden_BT[::2].float().mean() < 0.4, "spans overlap"
    starts = hidden_BT[:, 1:] & ~hidden_BT[:, :-1]
    assert 20 * 400 * 0.4 / 6 * 0.5 < starts[::2].sum() < 20 * 400 * 0.4 / 6


def test_the_warp_is_the_cheapest_way():
    """Against the textbook's double loop."""
    rng = np.random.default_rng(0)
    for rows, columns in ((1, 1), (1, 5), (6, 1), (7, 9), (12, 5)):
        cost_TU = rng.random((rows, columns))
        total = np.full((rows + 1, columns + 1), np.inf)
        total[0, 0] = 0.0
        for t in range(rows):
            for u in range(columns):
                total[t + 1, u + 1] = cost_TU[t, u] + min(total[t, u], total[t, u + 1], total[t + 1, u])
        way_T, cost = warp(cost_TU)
        assert cost == pytest.approx(total[-1, -1] / (rows + columns))
        assert way_T[0] == 0 and bool((np.diff(way_T) >= 0).all()) and way_T[-1] < columns


def test_phones_of_a_transcript_are_found_where_they_are_spoken():
    """Another voice, faster, with silence around it; its own phones are known."""
    espeak, text = Espeak(), "the little cat is sleeping under the table"
    row = {"transcript": text, "language": "en", "variant": "m7", "tract": 0.92, "rate": 185, "pitch": 40, "range": 45}
    audio, speech = speak(espeak, row)
    truth = Reading(mel_of(audio), [phone.strip("',") for phone in speech.phones], np.asarray(speech.starts))
    quiet = 0.001 * np.random.default_rng(0).standard_normal((2, SAMPLE_RATE // 2)).astype(np.float32)
    found = align(np.concatenate([quiet[0], audio, quiet[1]]), [say(espeak, text, "en", *voice) for voice in VOICES])
    assert not any(found[:15]) and not any(found[-15:])
    inside = found[25 : 25 + len(truth.features_UD)]
    right = [one == other for one, other in zip(inside, truth.at(np.arange(len(inside))), strict=True)]
    assert np.mean(right) > 0.6, "a frame is 20 ms, a phone four of them"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["data.corpus=folder", "start=teachers/mini/whisper"], "out=<folder>"),
        (["data.corpus=folder", "out=x"], "start=teachers/mini/whisper"),
        (["start=teachers/mini/whisper", "out=x"], "with recordings only"),
        (["data.corpse=folder"], "unknown key 'data.corpse'"),
    ],
)
def test_what_cannot_be_learned_is_refused(given, message, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        main(["whisper", *given])
