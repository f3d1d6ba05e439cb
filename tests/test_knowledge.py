"""What a linear probe tells of layers that know a label, and of layers that do not."""

import numpy as np
import pytest
import torch
from spoken import make_clips

from benchmarks.knowledge import FRAMES, Asked, Heard, drawn_seconds, main, own, phone, speaker, told
from distill.data.clips import Clips
from distill.features import Features, Grid
from distill.recipe import Recipe
from teachers.pretrain.lessons import spoken


def layers(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two layers, of which the second knows the labels: (2, N, 8)."""
    noise = rng.standard_normal((2, len(labels), 8))
    names = np.unique(labels)
    noise[1, np.arange(len(labels)), np.searchsorted(names, labels)] += 6
    return noise


def test_phones_are_told_by_the_layer_that_knows_them():
    rng = np.random.default_rng(0)
    learned, asked = (rng.choice(["a", "b", "c", ""], 400) for _ in range(2))
    empty = np.zeros((2, 0, 8))
    found = phone(*(Heard(empty, layers(names, rng), names.tolist()) for names in (learned, asked)))
    assert 20 < found[0] < 47, "chance is a third"
    assert found[1] > 97


def test_speakers_are_told_from_the_other_half_of_their_clips():
    rng = np.random.default_rng(0)
    names = rng.permutation(np.repeat(["al", "bo", "cy"], 60))
    found = speaker(Heard(layers(names, rng), np.zeros((2, 0, 8)), []), names)
    assert 18 < found[0] < 48 and found[1] > 97


def test_a_probe_that_sees_its_test_rows_alone_knows_nothing():
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 200)
    train, test = layers(labels, rng)[1], layers(labels, rng)[1]
    assert told(train, labels, test, labels) > 97
    assert 40 < told(train, rng.permutation(labels), test, labels) < 60


def test_every_encoder_is_asked_about_the_same_moments():
    clips = make_clips(phones=[["'a", "b"]] * 2, phone_starts=[[0.25, 0.5]] * 2)
    assert np.array_equal(drawn_seconds(clips, 0), drawn_seconds(clips, 0)) and len(drawn_seconds(clips, 0)) == FRAMES
    assert not np.array_equal(drawn_seconds(clips, 0), drawn_seconds(clips, 1))
    assert 0 <= drawn_seconds(clips, 0).min() and drawn_seconds(clips, 0).max() < 1
    assert spoken(clips)[0].at(np.array([0.1, 0.25, 0.6])) == ["", "a", "b"]


def test_frames_behind_a_clip_are_not_asked():
    hidden_BLTD = torch.arange(24.0).view(2, 1, 4, 3)
    first, second = own(Features(hidden_BLTD, torch.tensor([4, 2]), Grid(50.0, 0.01)))
    assert first.shape == (1, 4, 3) and np.array_equal(second, hidden_BLTD[1, :, :2].numpy())


def test_without_a_run_the_usage_is_told():
    with pytest.raises(SystemExit, match=r"benchmarks\.knowledge"):
        main([])


@pytest.mark.parametrize(
    ("runs", "columns", "message"),
    [
        (["a/run", "b/run"], {"speaker": ["x", "y"]}, "two runs of one name in a/run, b/run; rename a folder"),
        (["a"], {"style": ["calm", "flat"]}, r"names 0 speakers and 2 are needed; .*data\.columns\.speaker="),
        (["a"], {"speaker": ["", "x"]}, "names 1 speakers and 2 are needed"),
    ],
)
def test_what_cannot_be_told_is_refused_before_anything_is_heard(monkeypatch, runs, columns, message):
    monkeypatch.setattr("benchmarks.knowledge.read_saved", lambda path: Recipe("wavlm"))
    monkeypatch.setattr(
        "benchmarks.knowledge.whole", lambda data: dict.fromkeys(("train", "test"), make_clips(**columns))
    )
    with pytest.raises(ValueError, match=message):
        main(runs)


def test_recordings_are_asked_about_what_tells_them_apart(monkeypatch):
    """Phones as espeak-ng's reading has them, warped; of labels those of which there are several."""
    monkeypatch.setattr(Clips, "audio", lambda clips, row: np.zeros(16_000, np.float32))
    monkeypatch.setattr("teachers.pretrain.lessons.phones_of", lambda clips, audio: [["", "b"] for _ in audio])
    recorded = Asked.of(make_clips(speaker=["x", "y"], language=["en", "en"], style=["sad", "calm"]), 9)
    assert recorded.labels() == ["style"]
    assert [one.at(np.array([0.0, 0.02])) for one in recorded.said] == [["", "b"]] * 2
    assert len(Asked.of(recorded.clips, 1).said) == 1
