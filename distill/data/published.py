"""Published corpora: where each is on the Hub, or how the folder that its licence gives is laid out."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distill.data.columns import Row
from distill.data.hub import Hub


@dataclass(frozen=True)
class Published:
    """A corpus on the Hub: its splits and columns by our names."""

    hub: Hub
    splits: Mapping[str, str]
    columns: Mapping[str, str]


LIBRISPEECH = {"transcript": "text", "speaker": "speaker_id"}
CLEAN = {"validation": "validation", "test": "test"}

# SUPERB recognises on train-clean-100; encoders are distilled on all 960 hours.
ON_THE_HUB = {
    "librispeech-100": Published(Hub("openslr/librispeech_asr", "clean"), {"train": "train.100"} | CLEAN, LIBRISPEECH),
    "librispeech-460": Published(
        Hub("openslr/librispeech_asr", "clean"), {"train": "train.100+train.360"} | CLEAN, LIBRISPEECH
    ),
    "librispeech": Published(
        Hub("openslr/librispeech_asr", "all"),
        {
            "train": "train.clean.100+train.clean.360+train.other.500",
            "validation": "validation.clean",
            "test": "test.clean",
        },
        LIBRISPEECH,
    ),
}


def read_voxceleb1(folder: Path) -> list[Row]:
    """VoxCeleb1 (arXiv 1706.08612): `.../<speaker>/<video>/<clip>.wav`; a clip's id is these three, as in trials."""
    paths = sorted(path for ending in ("wav", "flac", "m4a") for path in folder.rglob(f"id*/*/*.{ending}"))
    if not paths:
        raise ValueError(f"{folder} has no id*/*/*.wav below it; data.folder.path is where VoxCeleb1's wav folder lies")
    rows = [
        {"audio": str(path.resolve()), "id": "/".join(path.parts[-3:]), "speaker": path.parts[-3]} for path in paths
    ]
    return rows


def read_common_voice(folder: Path) -> list[Row]:
    """Common Voice (arXiv 1912.06670), one language's folder: train.tsv, dev.tsv, test.tsv, and mp3 files in clips/."""
    rows = []
    for split in ("train", "dev", "test"):
        path = folder / f"{split}.tsv"
        if not path.exists():
            raise ValueError(
                f"{path} is not there; data.folder.path is the folder of one language, such as .../cv-corpus/de"
            )
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                rows.append(_common_voice(folder, split, row))
    return rows


def _common_voice(folder: Path, split: str, row: Row) -> Row:
    return {
        "audio": str((folder / "clips" / row["path"]).resolve()),
        "id": row["path"],
        "split": split,
        "speaker": row["client_id"],
        "transcript": row["sentence"],
        "language": row.get("locale") or folder.name,
    }
