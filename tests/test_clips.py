"""Clips: any format and rate becomes mono at 16 kHz of the announced length, and bad audio says what is wrong."""

import io

import numpy as np
import pytest
import soundfile
import soxr
from sounds import clips_of, hum, noise, sound, wav

from distill.data.clips import decode, length, resampled

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


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("samples", [400, 401, 12_345])
def test_a_header_tells_the_length_after_resampling(rate, samples, tmp_path):
    path = str(sound(tmp_path / "a.wav", samples / rate, rate))
    audio = decode(path, "a")
    assert len(audio) == length(path, "a") == resampled(samples, rate)
    assert len(audio) == len(soxr.resample(np.zeros(samples), rate, 16_000))


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_formats_are_decoded_to_the_announced_length(kind, tmp_path):
    path = str(sound(tmp_path / f"a.{kind}", 1.23, 44_100))
    assert len(decode(path, "a")) == length(path, "a") == round(1.23 * 16_000)


def test_a_tone_keeps_its_pitch_and_level_through_resampling(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * np.arange(48_000) / 48_000), 48_000, "FLOAT")
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(decode(str(tmp_path / "a.wav"), "a")[500:-500], expected[500:-500], atol=1e-3)


def test_channels_are_refused_mixed_or_the_first_taken(tmp_path):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, noise(1000, 2), 16_000, "FLOAT")
    for read in (decode, length):
        with pytest.raises(ValueError, match=r"2 channels where 1 is wanted; .*data\.mono=mix or first"):
            read(path, "a")
    np.testing.assert_allclose(decode(path, "a", "mix"), noise(1000, 2).mean(1), atol=1e-7)
    np.testing.assert_allclose(decode(path, "a", "first"), noise(1000, 2)[:, 0], atol=1e-7)
