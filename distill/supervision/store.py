"""Frames of many clips on disk: shards that appear whole or not at all, read by memory map at random access."""

import os
import socket
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.files import read_json, write_json

SHARD = 2**28  # bytes, about
SHARDS = 16  # at least, where there are as many batches, so that processes share the work evenly


class StoreError(ValueError):
    """What is on the disk is not what should be there."""


@dataclass(frozen=True)
class Layout:
    """Where every clip's frames lie. Batches never change, so that hearing them again gives the same bits."""

    batches: list[np.ndarray]  # rows heard together, in the order in which their frames are written
    shard_of_batch: np.ndarray  # (batches,)
    shards: np.ndarray  # (clips,) the shard of each
    starts: np.ndarray  # (clips,) first frame in that shard
    lengths: np.ndarray  # (clips,) frames

    @classmethod
    def of(cls, batches: list[np.ndarray], lengths: np.ndarray, frame_bytes: int) -> "Layout":
        order = np.concatenate(batches)
        before = np.cumsum(lengths[order]) - lengths[order]  # frames written before each clip
        firsts = np.cumsum([0] + [len(rows) for rows in batches[:-1]])
        room = max(min(SHARD // frame_bytes, int(lengths.sum()) // SHARDS), 1)  # frames of a shard
        shard_of_batch = np.unique(before[firsts] // room, return_inverse=True)[1]
        shard_in_order = np.repeat(shard_of_batch, [len(rows) for rows in batches])
        first_of_shard = before[firsts[np.searchsorted(shard_of_batch, np.arange(shard_of_batch[-1] + 1))]]
        shards, starts = np.empty_like(order), np.empty_like(order)
        shards[order] = shard_in_order
        starts[order] = before - first_of_shard[shard_in_order]
        return cls(batches, shard_of_batch, shards, starts, lengths)

    @cached_property
    def frames(self) -> np.ndarray:
        """Frames of each shard."""
        return np.bincount(self.shards, self.lengths).astype(np.int64)

    def batches_of(self, shard: int) -> list[np.ndarray]:
        """The rows of each batch of a shard."""
        return [self.batches[number] for number in np.flatnonzero(self.shard_of_batch == shard)]


class Store:
    """A folder with one file of raw frames and one of size and checksum per shard; a frame takes `width` bytes."""

    def __init__(self, folder: Path, layout: Layout, width: int):
        self.folder, self.layout, self.width = folder, layout, width
        self._maps: dict[int, np.ndarray] = {}

    def missing(self) -> list[int]:
        """Shards still to be written. Raises StoreError for one that has lost a part."""
        return [shard for shard in range(len(self.layout.frames)) if not self.written(shard)]

    def bytes(self, shards: Iterable[int] | None = None) -> int:
        """What these shards take on the disk; all of them by default."""
        frames = self.layout.frames if shards is None else self.layout.frames[list(shards)]
        return int(frames.sum()) * self.width

    def write(self, shard: int, parts: Iterable[np.ndarray]) -> None:
        """A shard's frames, in order: (F, W) uint8 for each batch. The checksum comes last and makes it whole."""
        name = f"{self._data(shard).name}.{socket.gethostname()}.{os.getpid()}.unfinished"
        unfinished, checksum, size = self.folder / name, 0, 0
        try:
            with unfinished.open("wb") as file:
                for part in parts:
                    file.write(part.data)
                    checksum, size = zlib.crc32(part.data, checksum), size + part.nbytes
                file.flush()
                os.fsync(file.fileno())
            assert size == self.bytes([shard])  # the layout is made from the same lengths
            unfinished.replace(self._data(shard))
            write_json(self._index(shard), {"bytes": size, "crc32": checksum})
        except OSError as error:
            if self.written(shard):  # another run was faster, and tidied up
                return
            raise OSError(f"cannot write {self._data(shard)}: {error.strerror}") from error
        finally:
            unfinished.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what killed processes left, once every shard is whole."""
        for path in self.folder.glob("*.unfinished"):
            path.unlink(missing_ok=True)

    def batch(self, rows: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """Clips side by side, (B, T, W) uint8 with zeros after each, and their frames (B,)."""
        lengths = self.layout.lengths[rows]
        padded = np.zeros((len(lengths), int(lengths.max()), self.width), np.uint8)
        for place, row, length in zip(padded, rows, lengths, strict=True):
            start = self.layout.starts[row]
            place[:length] = self._map(int(self.layout.shards[row]))[start : start + length]
        return torch.from_numpy(padded), torch.from_numpy(lengths)

    def _map(self, shard: int) -> np.ndarray:
        """A shard's frames (F, W), its checksum compared when it is first looked at."""
        if shard not in self._maps:
            self.written(shard)
            frames = np.memmap(self._data(shard), np.uint8, "r", shape=(int(self.layout.frames[shard]), self.width))
            if zlib.crc32(frames.data) != read_json(self._index(shard))["crc32"]:
                raise StoreError(f"{self._data(shard)} has changed since it was written; delete {self.folder}")
            self._maps[shard] = frames
        return self._maps[shard]

    def written(self, shard: int) -> bool:
        """Whether a shard is there, whole. Raises StoreError where it has lost a part."""
        if not self._index(shard).exists():
            return False
        found = self._data(shard).stat().st_size if self._data(shard).exists() else 0
        if found != self.bytes([shard]) or read_json(self._index(shard))["bytes"] != found:
            wanted = self.bytes([shard])
            raise StoreError(f"{self._data(shard)} has {found} bytes where {wanted} belong; delete {self.folder}")
        return True

    def _data(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.frames"

    def _index(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.json"
