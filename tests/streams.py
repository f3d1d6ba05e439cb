"""Streams of small shards, and what feeds on them."""

from pathlib import Path

from torch import Tensor

from distill.data.shards import Stream, open_shards
from distill.data.stream import Feed, Source


def source(folder: Path, bad_share: float = 0.01, shortest: float = 0.1, **stream) -> Source:
    return Source(open_shards(Stream(name=str(folder), **stream)), shortest, "", bad_share)


def feed(what: Source, process: int = 0, processes: int = 1, **changed) -> Feed:
    """About three seconds a step; counts are samples."""
    settings = {"seed": 0, "batch_seconds": 3.0, "passes": 2, "blur": 0.0, "say": [].append}
    settings |= {"total": lambda counts: counts} | changed

    def count(lengths_B: Tensor) -> Tensor:
        return lengths_B.sum()[None]

    return Feed(what, count, process=process, processes=processes, **settings)
