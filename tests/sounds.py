"""Sound files and folders of them, for tests of clips and corpora."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import soundfile

from distill.data.clips import Clips
from distill.data.corpora import load_splits
from distill.data.settings import Data, Folder
from distill.features import SAMPLE_RATE


def noise(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """(samples, channels), no channel like another."""
    return np.random.default_rng([seed, samples]).uniform(-0.3, 0.3, (samples, channels))


def sound(path: Path, seconds: float = 0.5, rate: int = 16_000, channels: int = 1, seed: int = 0) -> Path:
    """Write noise; the format is that of the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(round(seconds * rate), channels, seed), rate)
    return path


def metadata(folder: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write metadata.csv, one line a row."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder


def talkers(folder: Path, speakers: int, clips: int = 2, **columns: str) -> Path:
    """A folder of speakers who say some clips each, with metadata.csv and these columns the same in all rows."""
    rows = []
    for number in range(speakers * clips):
        name = f"audio/{number:04d}.wav"
        sound(folder / name, 0.3 + 0.01 * number, seed=number)
        rows.append(
            {"file_name": name, "speaker": f"{number % speakers:03d}", "transcript": f"clip {number}"} | columns
        )
    return metadata(folder, rows)


def wav(audio: np.ndarray, rate: int = SAMPLE_RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    """A sound file."""
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format=kind, subtype=subtype)
    return file.getvalue()


def clips_of(files: list[bytes], samples: list[int]) -> Clips:
    """A corpus of these files, announced with so many samples."""
    rows = {"id": [f"clip-{i}" for i in range(len(files))], "samples": samples}
    rows |= {"audio": [{"bytes": file, "path": None} for file in files]}
    return Clips(datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False)))


def hum(seconds: float) -> np.ndarray:
    return 0.1 * np.sin(np.arange(int(seconds * SAMPLE_RATE)) / 20)


def settings(folder: Path, **changed) -> Data:
    return Data(corpus="folder", folder=Folder(str(folder)), **changed)


def load(folder: Path, **changed) -> tuple[dict, str]:
    """The splits, and all that was said."""
    said = []
    return load_splits(settings(folder, **changed), said.append), "\n".join(said)


def shards(folder: Path, files: int, clips: int, *, rate: int = 16_000, bad: Sequence[int] = ()) -> Path:
    """Parquet files of so many clips each, clip-0, clip-1 and so on of 0.2 to 1.2 s; the bad ones are no sound."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(files):
        numbers = range(file * clips, (file + 1) * clips)
        sounds = [b"no sound" if number in bad else flac(number, rate) for number in numbers]
        rows = [
            {"audio": {"bytes": sound, "path": f"clip-{number}"}, "text": "so"}
            for number, sound in zip(numbers, sounds, strict=True)
        ]
        table = datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False))
        table = table.cast_column("audio", datasets.Audio())
        table.to_parquet(str(folder / f"train-{file:05d}-of-{files:05d}.parquet"), batch_size=3)
    return folder


def flac(number: int, rate: int = 16_000) -> bytes:
    """The bytes of a clip whose length its number tells."""
    file, seconds = io.BytesIO(), 0.2 + 0.001 * (number * 617 % 1000)
    soundfile.write(file, noise(round(seconds * rate), seed=number), rate, format="FLAC")
    return file.getvalue()
