"""Targets on disk: a frozen encoder hears every clip once, and what it said is found again by what made it."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from tqdm import tqdm

from distill.data.clips import Clips, pad
from distill.encoders.frames import by_length
from distill.encoders.sharding import in_step
from distill.features import SAMPLE_RATE, Encoder
from distill.files import read_json, write_json
from distill.supervision.identity import digest_of
from distill.supervision.packing import Packing
from distill.supervision.store import Layout, Store, StoreError

VERSION = 1  # raise it when the same audio, teacher and settings give other bytes
SAME = 0.05  # relative error beyond which what is stored and what the teacher says now are two things


def open_store(
    accelerator: Accelerator,
    encoder: Encoder,
    clips: Clips,
    packing: Packing,
    seconds: float,
    place: Path,
    made_of: dict[str, object],
) -> Store:
    """What a frozen encoder says of `clips`, written by all processes where it is missing; all must call it.

    seconds: most audio heard at once. place: where caches lie. made_of: all that the bytes depend on, in plain
    data. Raises ValueError where the disk is too small, StoreError where what is found was not made of this.
    """
    lengths = encoder.frames(torch.from_numpy(clips.samples)).cpu().numpy()
    layout = Layout.of(list(by_length(clips.samples, seconds)), lengths, packing.width)
    made_of = made_of | {"packing": packing.name, "frame_bytes": packing.width}
    folder = place / f"targets-{digest_of(made_of)[:16]}"
    store, scribe = Store(folder, layout, packing.width), Scribe(encoder, clips, packing, accelerator.device)
    with accelerator.main_process_first():
        claim(folder, made_of)
    write_missing(accelerator, store, scribe)
    if absent := store.missing():
        raise StoreError(f"{folder} lacks {len(absent)} shards other processes wrote; give a folder all machines see")
    with in_step(accelerator.device, encoder):
        if accelerator.is_main_process:
            store.tidy()
            scribe.compare(store)
    return store


def write_missing(accelerator: Accelerator, store: Store, scribe: "Scribe") -> None:
    """Each process its share of the shards that are not there, but for those that another run was faster with.

    Raises ValueError where the disk is too small.
    """
    missing: list[int] = broadcast_object_list([store.missing()])[0]  # another run may be writing them too
    if missing:
        demand_room(store.folder, store.bytes(missing), scribe.packing)
    accelerator.wait_for_everyone()
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    mine = np.random.default_rng(os.getpid()).permutation(mine).tolist()  # runs side by side begin with different ones
    quiet = not mine or not accelerator.is_main_process
    with in_step(accelerator.device, scribe.encoder):
        announce(accelerator, store, missing, scribe)
        for shard in tqdm(mine, "targets", unit="shard", mininterval=15, disable=quiet):
            if not store.written(shard):
                scribe.write(store, shard)
    accelerator.wait_for_everyone()


class Scribe:
    """Hears clips and writes down what the teacher says, batch by batch."""

    def __init__(self, encoder: Encoder, clips: Clips, packing: Packing, device: torch.device):
        self.encoder, self.clips, self.packing, self.device = encoder, clips, packing, device

    def listen(self, rows: np.ndarray) -> Tensor:
        """Layers of a batch of clips: (B, L, T, D)."""
        audio_BN, lengths_B = pad([self.clips.audio(row) for row in rows])
        return self.encoder(audio_BN.to(self.device), lengths_B.to(self.device)).hidden

    def write(self, store: Store, shard: int) -> None:
        store.write(shard, (self._packed(store.layout, rows) for rows in store.layout.batches_of(shard)))

    def _packed(self, layout: Layout, rows: np.ndarray) -> np.ndarray:
        hidden_BTLD = self.listen(rows).transpose(1, 2)
        own = [hidden_TLD[: layout.lengths[row]] for row, hidden_TLD in zip(rows, hidden_BTLD, strict=True)]
        return self.packing.pack(torch.cat(own)).cpu().numpy()

    def compare(self, store: Store) -> None:
        """Hear the shortest batch again. Raises StoreError where it is not what is stored."""
        rows = store.layout.batches[-1]
        stored = self.packing.unpack(store.batch(rows)[0].to(self.device))
        packed, shape = self._packed(store.layout, rows), (len(rows), stored.shape[2], store.width)
        bytes_BTW = np.zeros(shape, np.uint8)
        ends = np.cumsum(store.layout.lengths[rows])
        for place, frames in zip(bytes_BTW, np.split(packed, ends[:-1]), strict=True):
            place[: len(frames)] = frames
        heard = self.packing.unpack(torch.from_numpy(bytes_BTW).to(self.device))
        error = float((stored - heard).norm() / heard.norm().clamp(min=1e-9))
        if not error < SAME:
            ids = ", ".join(self.clips.ids[row] for row in rows[:3])
            raise StoreError(
                f"{store.folder} holds other targets than the teacher gives now (relative error {error:.2f} "
                f"for {ids}); delete the folder, they are made anew"
            )

    def pace(self, rows: np.ndarray) -> float:
        """Audio-seconds per second of hearing a batch."""
        started = time.perf_counter()
        self.packing.pack(self.listen(rows)[:, :, 0]).cpu()
        return float(self.clips.samples[rows].sum()) / SAMPLE_RATE / (time.perf_counter() - started)


def claim(folder: Path, made_of: dict[str, object]) -> None:
    """Make the folder, or find it made of the same. Raises StoreError."""
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / "made_of.json"
    if not known.exists():
        write_json(known, made_of)
    found = read_json(known)
    if different := [key for key in made_of.keys() | found.keys() if made_of.get(key) != found.get(key)]:
        raise StoreError(f"{folder} was made of another {', '.join(sorted(different))}; delete it or move it away")


def demand_room(folder: Path, wanted: int, packing: Packing) -> None:
    """ValueError with the sizes, and what takes less, where the disk would not hold so many bytes more."""
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise ValueError(
            f"the targets take {size(wanted)} as {packing.name}, {folder} has {size(free)} free; free some, name "
            f"another disk (distill.cache=<folder>), or take less: distill.cache_precision=int8 halves float16, "
            "distill.targets=codes takes a fiftieth or less, distill.targets=online nothing"
        )


def announce(accelerator: Accelerator, store: Store, missing: list[int], scribe: Scribe) -> None:
    """How much is written where, and about how long that takes."""
    if not missing:
        accelerator.print(f"targets: found in {store.folder}, {size(store.bytes())}")
    elif accelerator.is_main_process:
        batches = [rows for shard in missing for rows in store.layout.batches_of(shard)]
        audio = sum(float(scribe.clips.samples[rows].sum()) for rows in batches) / SAMPLE_RATE
        seconds = audio / scribe.pace(batches[len(batches) // 2]) / accelerator.num_processes
        print(
            f"targets: {size(store.bytes(missing))} of {scribe.packing.name} to {store.folder}, "
            f"{audio / 3600:.2f} h of audio, about {max(seconds / 60, 0.1):.1f} minutes",
            flush=True,
        )


def size(count: int) -> str:
    """Bytes in words."""
    power = min(max(len(str(count)) - 1, 0) // 3, 4)
    return f"{count / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
