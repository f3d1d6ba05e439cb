"""A stream as batches: pools of its clips, each dealt like a small corpus whose lengths are known.

A pool is fixed by where it begins, so that after an interruption it is read again and gone on with, exactly. While
one is heard the next is read and decoded by threads.
"""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from distill.data.batches import Batch, deal, epoch
from distill.data.clips import decode, pad, source_of
from distill.data.hub import Hub, explained
from distill.data.manifest import SHOWN
from distill.data.shards import Shards, Stream, open_shards
from distill.data.workers import THREADS
from distill.features import SAMPLE_RATE
from distill.limits import RecipeError
from distill.recipe import Recipe

AT_ONCE = 16  # rows between two looks at how full a pool is
SURE = 1000  # rows before the share of bad ones says something within an epoch; at its end it always does


@dataclass(frozen=True)
class Clip:
    """A whole row, or a piece of a long one."""

    name: str
    audio_N: np.ndarray  # float32 at 16 kHz

    @property
    def samples(self) -> int:
        return len(self.audio_N)


@dataclass
class Tally:
    """What one process has met in an epoch so far."""

    rows: int = 0
    short: int = 0
    long: int = 0  # that were left out
    bad: int = 0
    named: list[str] = field(default_factory=list)  # the first of the bad ones, and what is wrong with them

    def left_out(self) -> int:
        return self.short + self.long + self.bad

    def text(self) -> str:
        more = [f"and {self.bad - len(self.named)} more"] if self.bad > len(self.named) else []
        counted = f"{self.bad} bad ones ({self.bad / self.rows:.2%}), {self.short} too short, {self.long} too long"
        return "\n  ".join([f"left out of {self.rows} clips: {counted}", *self.named, *more])


@dataclass(frozen=True)
class Source:
    """Shards, and how the recipe wants sound to be read."""

    shards: Shards
    shortest: float  # seconds
    mono: str
    bad_share: float

    @property
    def stream(self) -> Stream:
        return self.shards.stream


def open_stream(recipe: Recipe, processes: int) -> Source | None:
    """What a recipe's student is distilled on, where that is a stream; raises as `open_shards`."""
    data, stream, share = recipe.data, recipe.distill.stream, recipe.distill.batch_seconds / processes
    if not stream.name:
        return None
    if stream.buffer < share:
        raise RecipeError(
            f"distill.stream.buffer={stream.buffer:g} s is less than a process hears in a step, {share:g} s; "
            "raise it to some thirty times as much"
        )
    return Source(open_shards(stream), data.shortest, data.mono, data.bad_share)


class Reader:
    """Reads one process's share of a stream, epoch after epoch, in pools of decoded clips.

    least: seconds and clips that a pool has at least. place: where to go on, as `pool` gave it.
    """

    def __init__(
        self,
        source: Source,
        *,
        seed: int,
        process: int,
        processes: int,
        least: tuple[float, int],
        place: dict | None,
        say: Callable[[str], None],
    ):
        self.source, self.stream, self.seed, self.process, self.say = source, source.stream, seed, process, say
        self.least_seconds, self.least_clips = least
        self.dataset = source.shards.dataset(process, processes)
        self._threads, self.stopped = ThreadPoolExecutor(THREADS), False
        place = place or {"epoch": 0, "pools": 0, "tally": asdict(Tally()), "state": None}
        self.epoch, self.pools, self.tally = place["epoch"], place["pools"], Tally(**place["tally"])
        self._open(place["state"])

    def place(self) -> dict:
        """Between the row read last and the next one, as plain data."""
        state = self.dataset.state_dict() if self.tally.rows else None
        return {"epoch": self.epoch, "pools": self.pools, "tally": asdict(self.tally), "state": state}

    def pool(self) -> tuple[dict, list[Clip]]:
        """Where it begins, and its clips: a buffer full, or what was left of an epoch.

        Raises ValueError where too many files are bad, OSError as the network does.
        """
        begins, clips, seconds = self.place(), [], 0.0
        while not self.stopped and (seconds < self.stream.buffer or len(clips) < self.least_clips):
            fresh = self._read()
            if fresh is None:
                self._turn()
                begins = begins if clips else self.place()
                if seconds >= self.least_seconds and len(clips) >= self.least_clips:
                    break
            else:
                clips += fresh
                seconds += sum(clip.samples for clip in fresh) / SAMPLE_RATE
        self.pools += 1
        return begins, clips

    def close(self) -> None:
        """Say what was left out, and let go of the files: pyarrow must not be left with one at the end of Python."""
        self._tell()
        self._threads.shutdown()
        self._rows.close()

    def _open(self, state: dict | None) -> None:
        """An epoch, its shards in an order of its own."""
        drawn = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0]
        self.dataset.set_epoch(int(drawn) | 1)  # `datasets` shuffles no shards in epoch 0
        if state is not None:
            self.dataset.load_state_dict(state)
        self._rows = iter(self.dataset)

    def _read(self) -> list[Clip] | None:
        """The clips of the next rows; None where there is no row any more."""
        try:
            rows = list(islice(self._rows, AT_ONCE))
        except Exception as error:  # three libraries meet here, and what they raise is no closed list
            hub = Hub(self.stream.name, self.stream.config, self.stream.revision)
            raise explained(hub, error, "distill.stream") from error
        if not rows:
            return None
        stored = [row["audio"] or {"bytes": b"", "path": None} for row in rows]
        names = [sound["path"] or f"clip {self.tally.rows + row}" for row, sound in enumerate(stored)]
        self.tally.rows += len(rows)
        found = list(self._threads.map(self._attempt, stored, names))
        clips = [clip for name, audio in zip(names, found, strict=True) for clip in self._usable(name, audio)]
        self._demand_few_bad(SURE)
        return clips

    def _attempt(self, stored: dict, name: str) -> np.ndarray | str:
        """The sound, or what is wrong with it."""
        try:
            return decode(source_of(stored), name, self.source.mono)
        except ValueError as error:
            return str(error)

    def _usable(self, name: str, audio: np.ndarray | str) -> list[Clip]:
        """What a row gives: itself, its pieces or nothing."""
        if isinstance(audio, str):
            self.tally.bad += 1
            self.tally.named += [audio] if len(self.tally.named) < SHOWN else []
            return []
        seconds, longest = len(audio) / SAMPLE_RATE, self.stream.longest
        if seconds < self.source.shortest:
            self.tally.short += 1
            return []
        if seconds <= longest:
            return [Clip(name, audio)]
        if self.stream.long == "drop":
            self.tally.long += 1
            return []
        pieces = np.array_split(audio, int(np.ceil(seconds / longest)))
        return [Clip(f"{name}[{number}]", piece) for number, piece in enumerate(pieces)]

    def _turn(self) -> None:
        """The end of an epoch, and the next one."""
        tally = self.tally
        self._demand_few_bad(0)
        if tally.left_out() == tally.rows:
            raise ValueError(
                f"{self.stream.name}: process {self.process} finds no usable clip among its {tally.rows}; "
                "use fewer processes, or widen data.shortest and distill.stream.longest"
            )
        self._tell()
        self.epoch, self.tally = self.epoch + 1, Tally()
        self._open(None)

    def _demand_few_bad(self, least: int) -> None:
        tally, most = self.tally, self.source.bad_share
        if tally.bad > most * max(tally.rows, least):
            raise ValueError(f"{self.stream.name}: too many are bad, above data.bad_share={most:g}\n{tally.text()}")

    def _tell(self) -> None:
        if self.tally.left_out():
            self.say(f"stream, epoch {self.epoch}, process {self.process}: {self.tally.text()}")


@dataclass
class Feed:
    """The batches of one process that hears a stream; all processes make equally many passes in a step.

    count: lengths of clips (B,) -> what the losses of a step are divided by, (J,); total: its sum over the processes.
    """

    source: Source
    count: Callable[[Tensor], Tensor]
    total: Callable[[Tensor], Tensor]
    seed: int
    batch_seconds: float  # of a step, over all processes
    passes: int  # forward passes per step and process
    blur: float  # seconds, of lengths in a batch
    process: int
    processes: int
    say: Callable[[str], None] = print
    place: dict = field(default_factory=dict)  # what comes after the step under way

    def _share(self) -> float:
        """Seconds that a process hears in a step."""
        return self.batch_seconds / self.processes

    def batches(self, steps: int, place: dict | None) -> Generator[Batch]:
        """All forward passes of so many steps. place: as it was kept after the last one; None: from the beginning."""
        with closing(self._steps(place)) as taken:
            for clips in islice(taken, steps):
                samples = np.asarray([clip.samples for clip in clips])
                counts = self.total(self.count(torch.from_numpy(samples)))
                for rows in deal(np.arange(len(clips)), samples, self.passes):
                    audio_BN, lengths_B = pad([clips[row].audio_N for row in rows])
                    yield Batch(rows, [clips[row].name for row in rows], audio_BN, lengths_B, counts)

    def _steps(self, place: dict | None) -> Generator[list[Clip]]:
        """The clips of one step after the other, without end."""
        pool, done = (place["pool"], place["steps"]) if place else (None, 0)
        reader = self._reader(pool)
        with closing(reader), ThreadPoolExecutor(1) as beside:
            try:
                coming = beside.submit(reader.pool)
                while True:
                    begins, clips = coming.result()
                    coming = beside.submit(reader.pool)
                    for number, rows in islice(enumerate(self._deal(clips, begins["pools"])), done, None):
                        self.place = {"pool": begins, "steps": number + 1}
                        yield [clips[row] for row in rows]
                    done = 0
            finally:
                reader.stopped = True

    def _reader(self, place: dict | None) -> Reader:
        return Reader(
            self.source,
            seed=self.seed,
            process=self.process,
            processes=self.processes,
            least=(self._share(), self.passes),
            place=place,
            say=self.say,
        )

    def _deal(self, clips: list[Clip], number: int) -> list[np.ndarray]:
        """The steps of a pool, none of fewer clips than passes."""
        samples = np.asarray([clip.samples for clip in clips])
        steps: list[np.ndarray] = []
        for rows in epoch(samples, self._share(), self.seed, number, self.blur):
            if steps and min(len(rows), len(steps[-1])) < self.passes:
                steps[-1] = np.concatenate([steps[-1], rows])
            else:
                steps.append(rows)
        return steps
