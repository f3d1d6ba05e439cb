"""The manifest of a corpus: how long every clip is and which files are bad, found once and kept by fingerprint."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import soundfile
from tqdm import tqdm

from distill.data.clips import decode, length, source_of
from distill.data.columns import Corpus
from distill.data.embedded import cache_folder

VERSION = 1  # raise it when the same files give another manifest
CHECKS = ("header", "decode")  # read lengths from headers, or decode every file once
SHOWN = 20  # bad files that are named
THREADS = 8  # reading headers waits for the disk; libsndfile lets other threads run


@dataclass(frozen=True)
class Manifest:
    """Of every row of a dataset: samples at 16 kHz, 0 where the file is bad, and what is wrong with it."""

    samples: list[int]
    problems: list[str]  # "" where nothing is

    def bad(self) -> list[str]:
        return [problem for problem in self.problems if problem]


def read_manifest(corpus: Corpus, *, mono: str, check: str) -> Manifest:
    """The manifest of a corpus, from the cache where its files are as before.

    check: "header" believes what the headers say, "decode" decodes every file.
    """
    settings = {"version": VERSION, "mono": mono, "check": check, "libsndfile": soundfile.__libsndfile_version__}
    path = cache_folder() / "manifests" / f"{fingerprint(corpus, settings)}.arrow"
    if not path.exists():
        _write(_measure(corpus, mono, check), path)
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
        return Manifest(table["samples"].to_pylist(), table["problem"].to_pylist())


def fingerprint(corpus: Corpus, settings: dict) -> str:
    """Names what is read: paths, sizes and times of the files, the clips' names, the settings."""
    digest = hashlib.sha256(json.dumps([settings, corpus.labels["id"]], sort_keys=True).encode())
    for path in _files(corpus.audio):
        try:
            status = os.stat(path)
            digest.update(f"{path}\t{status.st_size}\t{status.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(f"{path}\tgone\n".encode())
    return digest.hexdigest()[:16]


def demand_few_bad(manifest: Manifest, most: float, say: Callable[[str], None]) -> None:
    """Name the bad files; ValueError when their share is above `most`."""
    bad = manifest.bad()
    if not bad:
        return
    share = len(bad) / len(manifest.problems)
    more = [f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
    listed = "\n  ".join([*bad[:SHOWN], *more])
    counted = f"{len(bad)} of {len(manifest.problems)} files ({share:.2%})"
    if share > most:
        raise ValueError(f"{counted} cannot be used, above data.bad_share={most:g}:\n  {listed}")
    say(f"left out {counted}, which cannot be used:\n  {listed}")


def _files(audio: datasets.Dataset) -> Iterator[str]:
    """The sound files themselves, or the dataset's own files where they hold the sound."""
    column = audio.data.column("audio")
    inside = pc.any(pc.is_valid(pc.struct_field(column, "bytes"))).as_py()  # type: ignore[attr-defined]
    if inside:
        yield from (file["filename"] for file in audio.cache_files)
    else:
        yield from pc.struct_field(column, "path").to_pylist()  # type: ignore[attr-defined]


def _measure(corpus: Corpus, mono: str, check: str) -> Manifest:
    ids = corpus.labels["id"]

    def measure(row: int) -> tuple[int, str]:
        source = source_of(corpus.audio[row]["audio"])
        try:
            if check == "decode":
                return len(decode(source, ids[row], mono)), ""
            return length(source, ids[row], mono), ""
        except ValueError as error:
            return 0, str(error)

    with ThreadPoolExecutor(THREADS) as pool:
        rows = tqdm(pool.map(measure, range(len(ids))), "reading the corpus", len(ids), unit="file", disable=None)
        found = list(rows)
    return Manifest([samples for samples, _ in found], [problem for _, problem in found])


def _write(manifest: Manifest, path: Path) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"samples": pa.array(manifest.samples, pa.int64()), "problem": manifest.problems})
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        with pa.ipc.new_file(str(unfinished), table.schema) as file:
            file.write_table(table)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
