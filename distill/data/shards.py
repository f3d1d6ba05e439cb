"""The shards of a corpus that is streamed: parquet or tar files, on the Hub or in a folder, read as they are wanted.

The library's own "webdataset" builder encodes every example, for which it wants torchcodec, so tar files are read here.
"""

import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import cast

import datasets
import fsspec
from datasets.distributed import split_dataset_by_node

from distill.data.hub import Hub, explained
from distill.features import SAMPLE_RATE
from distill.limits import check, within

KINDS = ("parquet", "webdataset")  # as `datasets` calls parquet and tar files
LONG = ("cut", "drop")  # what becomes of long recordings
SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3")  # in tar files


@dataclass(frozen=True)
class Stream:
    """Unlabelled audio that a student is distilled on, beside the corpus of the tasks; none of it is kept."""

    name: str = ""  # as on the Hub, or a folder on this disk; empty: distilled on the training split of data.corpus
    config: str = ""  # empty: the only one
    revision: str = ""  # a branch, tag or commit; empty: the newest
    splits: str = "train"  # several joined by +
    column: str = "audio"  # of parquet files; in tar files every sound file is a clip
    buffer: float = within(3600.0, above=0)  # seconds of audio that a process mixes, and holds twice: now and next
    longest: float = within(30.0, above=0)  # seconds; of what is longer see `long`
    long: str = within("cut", menu=LONG)  # into pieces of equal length, which are all heard; or leave out

    def __post_init__(self):
        check("distill.stream.", self)


@dataclass(frozen=True)
class Shards:
    """Files that have been found, and nothing of them read but what columns there are."""

    stream: Stream
    kind: str  # one of KINDS
    files: list[str]  # paths or addresses
    size: int  # bytes

    def dataset(self, process: int, processes: int) -> datasets.IterableDataset:
        """What one of these processes hears: one column, `audio`, of undecoded sound.

        Raises ValueError where there is no such column.
        """
        if self.kind == "webdataset":
            whole = datasets.IterableDataset.from_generator(sounds_in, gen_kwargs={"files": self.files})
        else:
            files = {"train": self.files}
            parquet = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
            whole = self._sound(cast(datasets.IterableDataset, parquet))
        return split_dataset_by_node(whole, process, processes)

    def _sound(self, whole: datasets.IterableDataset) -> datasets.IterableDataset:
        """The column that is heard, by our name."""
        column, there = self.stream.column, whole.features or {}
        feature = there.get(column)
        if not (isinstance(feature, datasets.Audio) or (isinstance(feature, dict) and "bytes" in feature)):
            kind = "no sound in its" if column in there else "no"
            raise ValueError(
                f"{self.stream.name} has {kind} column {column!r}; it has {', '.join(there)}\n"
                "say which one is heard: distill.stream.column=<column>"
            )
        whole = whole.select_columns([column])
        whole = whole if column == "audio" else whole.rename_column(column, "audio")
        return whole.cast_column("audio", datasets.Audio(decode=False))

    def describe(self, processes: int) -> str:
        """What is about to be streamed, how large it is, and where it goes."""
        stream, count = self.stream, len(self.files)
        kind = "tar" if self.kind == "webdataset" else self.kind
        part = f" ({stream.config})" if stream.config else ""
        held = 2 * stream.buffer * SAMPLE_RATE * 4  # bytes
        told = [
            f"distilled on a stream: {stream.name}{part}, {stream.splits}",
            f"{count} {kind} files, {self.size / 1e9:.2f} GB",
            f"read anew in every epoch, none of it kept on the disk, up to {held / 1e6:.0f} MB held by each process",
        ]
        if count % processes:
            told += [f"{count} files do not divide by {processes} processes: each reads all, and hears its share of it"]
        return "\n".join(told)


def open_shards(stream: Stream) -> Shards:
    """The files of some splits of a dataset.

    Raises ValueError or OSError with the name, the reason and the way out.
    """
    hub = Hub(stream.name, stream.config, stream.revision)
    try:
        builder = datasets.load_dataset_builder(hub.name, hub.config or None, revision=hub.revision or None)
    except Exception as error:  # three libraries meet here, and what they raise is no closed list
        raise explained(hub, error, "distill.stream") from error
    kind = type(builder).__module__.rpartition(".")[2]
    there = {str(split): list(files) for split, files in (builder.config.data_files or {}).items()}
    if kind not in KINDS:
        raise ValueError(
            f"{stream.name} is kept as {kind}; a stream is read from parquet or tar files\n"
            "convert it, or use it as an ordinary corpus: data.corpus=hub or folder, and leave out distill.stream"
        )
    splits = stream.splits.split("+")
    if missing := [split for split in splits if split not in there]:
        raise ValueError(
            f"{stream.name} has no split {missing[0]!r}; it has {', '.join(there)}\nsay distill.stream.splits=<split>"
        )
    files = [file for split in splits for file in there[split]]
    found = Shards(stream, kind, files, size(files))
    found.dataset(0, 1)  # a wrong column is told now
    return found


def size(files: list[str]) -> int:
    """Bytes of files in folders of one file system."""
    folders: dict[str, set[str]] = defaultdict(set)
    for file in files:
        folder, _, name = file.rpartition("/")
        folders[folder].add(name)
    total = 0
    for folder, names in folders.items():
        system, path = fsspec.core.url_to_fs(folder)
        entries = system.ls(path, detail=True)
        total += sum(entry["size"] for entry in entries if PurePosixPath(entry["name"]).name in names)
    return total


def sounds_in(files: list[str]) -> Iterator[dict]:
    """Every sound file in tar files, one after the other."""
    for file in files:
        with fsspec.open(file, "rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:  # type: ignore[arg-type]
            for member in tar:
                if member.isfile() and PurePosixPath(member.name).suffix.lower() in SOUNDS:
                    sound = tar.extractfile(member)
                    assert sound is not None  # it is a file
                    yield {"audio": {"bytes": sound.read(), "path": member.name}}
