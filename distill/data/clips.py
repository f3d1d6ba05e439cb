"""Clips: rows of audio and labels from a `datasets.Dataset`, with their lengths known before decoding.

A corpus is a dataset with the columns `id`, `audio` (`datasets.Audio(decode=False)`), `samples`, `split` and any
of `transcript`, `speaker`, `style`, `language`.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import soundfile
import torch
from torch import Tensor

from distill.features import SAMPLE_RATE


class Clips:
    """Some rows of a corpus; audio is decoded when asked for."""

    def __init__(self, dataset: datasets.Dataset):
        self.dataset = dataset
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

    def select(self, indices: Sequence[int] | np.ndarray) -> "Clips":
        return Clips(self.dataset.select(indices))

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
        """One clip, float32 (N,); ValueError that names a clip which cannot be read or has another rate or length."""
        stored = self._stored[int(index)]["audio"]
        source = io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"]
        audio = decode(source, self.ids[index])
        if len(audio) != self.samples[index]:
            raise ValueError(
                f"{self.ids[index]}: {len(audio)} samples where {self.samples[index]} were announced; "
                "the file has changed since the corpus was read"
            )
        return audio


def decode(source, name: str) -> np.ndarray:
    """Mono float32 at 16 kHz from a file or bytes; ValueError that says what is wrong with it and what helps."""
    try:
        audio, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{name}: cannot be read as audio ({error}); leave the file out or replace it") from error
    if audio.shape[1] != 1:
        raise ValueError(f"{name}: {audio.shape[1]} channels where 1 is wanted; mix it down to mono")
    if rate != SAMPLE_RATE:
        raise ValueError(f"{name}: {rate} samples per second where {SAMPLE_RATE} are wanted; resample it")
    if not len(audio):
        raise ValueError(f"{name}: no audio at all (0 samples); leave the file out")
    if not np.isfinite(audio).all():
        raise ValueError(f"{name}: holds values that are not finite; leave the file out or replace it")
    return audio[:, 0]


def pad(audio: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Clips side by side: audio (B, N) float32 with zeros after each clip, lengths (B,) in samples."""
    lengths_B = torch.tensor([len(clip) for clip in audio], dtype=torch.int64)
    audio_BN = torch.zeros(len(audio), int(lengths_B.max()))
    for row, clip in zip(audio_BN, audio, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    return audio_BN, lengths_B
