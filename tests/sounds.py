"""Sound files for tests of corpora: noise of a given length, rate and number of channels."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile


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
