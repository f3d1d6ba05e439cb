"""Clips: rows of audio and labels from a `datasets.Dataset`, with their lengths known before decoding.

A corpus is a dataset with the columns `id`, `audio` (`datasets.Audio(decode=False)`), `samples`, `split` and any
of `transcript`, `phones`, `speaker`, `style`, `language`. Any sampling rate is resampled to 16 kHz.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from distill.data.trials import Trials
from distill.features import SAMPLE_RATE

MONO = ("", "mix", "first")  # what is done with several channels: refuse, mean, take the first


class Clips:
    """Some rows of a corpus; audio is decoded when asked for.

    mono: one of MONO. trials: which pairs of these clips speaker verification is scored on; None: it makes its own.
    """

    def __init__(self, dataset: datasets.Dataset, *, mono: str = "", trials: Trials | None = None):
        self.dataset, self.mono, self.trials = dataset, mono, trials
        self._stored = dataset.select_columns(["audio"])  # reading a row reads all of its columns
        self.ids: list[str] = list(dataset["id"])
        self.samples = np.asarray(dataset["samples"], dtype=np.int64)  # (n,) at 16 kHz

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str) -> list[str]:
        """One label of every clip; ValueError when the corpus does not have it."""
        if name not in self.dataset.column_names:
            raise ValueError(f"the corpus has no column {name!r}; it has {', '.join(self.dataset.column_names)}")
        return list(self.dataset[name])

    def values(self, name: str) -> list[str]:
        """The labels that occur in a column, sorted; none where the corpus does not have it."""
        return sorted(set(self.column(name)) - {""}) if name in self.dataset.column_names else []

    def select(self, indices: Sequence[int] | np.ndarray) -> "Clips":
        return Clips(self.dataset.select(indices), mono=self.mono, trials=self.trials)

    def split(self, name: str) -> "Clips":
        """The clips of `train`, `validation` or `test`."""
        return self.select([i for i, split in enumerate(self.column("split")) if split == name])

    def seconds(self) -> float:
        return float(self.samples.sum() / SAMPLE_RATE)

    def stored(self, index: int) -> bytes:
        """One clip as its corpus keeps it, not decoded."""
        stored = self._stored[int(index)]["audio"]
        return stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()

    def audio(self, index: int) -> np.ndarray:
        """One clip, float32 (N,); ValueError that names a clip which cannot be read or has another length."""
        audio = decode(source_of(self._stored[int(index)]["audio"]), self.ids[index], self.mono)
        if len(audio) != self.samples[index]:
            raise ValueError(
                f"{self.ids[index]}: {len(audio)} samples where {self.samples[index]} were announced; "
                "the file has changed since the corpus was read, or is damaged: data.check=decode leaves such files out"
            )
        return audio


Source = io.BytesIO | str  # the bytes of a sound file, or its path


def source_of(stored: dict) -> Source:
    """What soundfile can read, from what `datasets.Audio(decode=False)` gives."""
    return io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"]


def decode(source: Source, name: str, mono: str = "") -> np.ndarray:
    """Mono float32 at 16 kHz from a file or bytes; ValueError that says what is wrong with it and what helps."""
    try:
        audio_NC, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise _unreadable(name, error) from error
    _demand(name, len(audio_NC), audio_NC.shape[1], mono)
    if not np.isfinite(audio_NC).all():
        raise ValueError(f"{name}: holds values that are not finite; leave the file out or replace it")
    audio_N = audio_NC.mean(1) if mono == "mix" else np.ascontiguousarray(audio_NC[:, 0])
    return audio_N if rate == SAMPLE_RATE else soxr.resample(audio_N, rate, SAMPLE_RATE, quality="HQ")


def length(source: Source, name: str, mono: str = "") -> int:
    """Samples at 16 kHz that `decode` will give, from the header alone; ValueError as there."""
    try:
        header = soundfile.info(source)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise _unreadable(name, error) from error
    _demand(name, header.frames, header.channels, mono)
    return resampled(header.frames, header.samplerate)


def resampled(samples: int, rate: int) -> int:
    """How many samples soxr makes at 16 kHz of so many at another rate: the nearest number, halves upward."""
    return (2 * samples * SAMPLE_RATE + rate) // (2 * rate)


def _unreadable(name: str, error: Exception) -> ValueError:
    return ValueError(f"{name}: cannot be read as audio ({error}); leave the file out or replace it")


def _demand(name: str, samples: int, channels: int, mono: str) -> None:
    if channels != 1 and not mono:
        raise ValueError(f"{name}: {channels} channels where 1 is wanted; mix it down to mono: data.mono=mix or first")
    if not samples:
        raise ValueError(f"{name}: no audio at all (0 samples); leave the file out")


def pad(audio: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Clips side by side: audio (B, N) float32 with zeros after each clip, lengths (B,) in samples."""
    lengths_B = torch.tensor([len(clip) for clip in audio], dtype=torch.int64)
    audio_BN = torch.zeros(len(audio), int(lengths_B.max()))
    for row, clip in zip(audio_BN, audio, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    return audio_BN, lengths_B
