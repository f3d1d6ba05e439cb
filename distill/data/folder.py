"""A local folder in the `audiofolder` convention: sound files, and metadata.csv, .jsonl or .parquet beside them.

The library's own "audiofolder" builder encodes every example, for which it wants torchcodec and FFmpeg, so the
metadata is read here; what it finds is the same.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from distill.data.columns import Row
from distill.data.splits import NAMES

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def read_folder(folder: Path) -> list[Row]:
    """All rows of all metadata files, with `audio` (a path), `id` (relative to the folder), `split` where it is known.

    Raises ValueError where there is no metadata or a line of it cannot be read.
    """
    found = sorted(path for name in METADATA for path in folder.rglob(name))
    if not found:
        raise ValueError(f"{folder} has no {', '.join(METADATA)}, in it or below; it says file_name, transcript, ...")
    rows = [_row(folder, metadata, row) for metadata in found for row in _lines(metadata)]
    if not rows:
        raise ValueError(f"{found[0]} names no file")
    return rows


def _row(folder: Path, metadata: Path, row: Row) -> Row:
    if not row.get("file_name"):
        raise ValueError(f"{metadata}: a line has no file_name: {row}")
    audio = metadata.parent / row["file_name"]
    if not audio.is_relative_to(folder):
        raise ValueError(
            f"{metadata}: {row['file_name']} is not in {folder}; file_name is relative to its metadata's folder"
        )
    name = audio.relative_to(folder).as_posix()
    known = {"id": name, "split": _split(name)} | row
    return known | {"audio": str(audio.resolve())}


def _split(name: str) -> str:
    """The first folder on the way to a file whose name is that of a split."""
    return next((part for part in name.split("/")[:-1] if part.lower() in NAMES), "")


def _lines(metadata: Path) -> Iterator[Row]:
    """Rows as text: numbers with leading zeros stay what they are."""
    try:
        if metadata.suffix == ".parquet":
            rows = pq.read_table(metadata).to_pylist()
        else:
            with metadata.open(encoding="utf-8-sig", newline="") as file:
                lines = (line for line in file if line.strip())
                rows = list(csv.DictReader(file)) if metadata.suffix == ".csv" else [json.loads(one) for one in lines]
    except (OSError, ValueError) as error:
        raise ValueError(f"{metadata} cannot be read: {error}") from error
    for row in rows:
        yield {str(name): "" if value is None else str(value) for name, value in row.items()}
