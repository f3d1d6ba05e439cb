"""Trial lists: which pairs of clips speaker verification is scored on, as VoxCeleb publishes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LABELS = {"1": 1, "0": 0, "target": 1, "nontarget": 0}


@dataclass(frozen=True)
class Trials:
    """Pairs of clips by id, and 1 where one speaker says both."""

    left: list[str]
    right: list[str]
    same: list[int]
    lines: list[int]  # of the file, counted from 1

    def ids(self) -> set[str]:
        return {*self.left, *self.right}

    def rows(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same pairs as rows of a list of clips, and their labels: (pairs,) each."""
        at = {name: row for row, name in enumerate(ids)}
        return (
            np.array([at[name] for name in self.left]),
            np.array([at[name] for name in self.right]),
            np.array(self.same, dtype=np.int64),
        )


def read_trials(path: Path) -> Trials:
    """A file of lines `1 clip clip`, or `clip clip target`; ValueError that names the line and what is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data.trials={path}: cannot be read ({error}); give a file of lines `1 clip clip`") from None
    numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
    pairs = [_pair(path, number, lines[number - 1]) for number in numbers]
    left, right, same = (list(column) for column in zip(*pairs, strict=True)) if pairs else ([], [], [])
    if set(same) != {0, 1}:
        raise ValueError(
            f"{path}: {same.count(1)} pairs of one speaker and {same.count(0)} of two; a trial list needs both kinds"
        )
    return Trials(left, right, same, numbers)


def _pair(path: Path, number: int, line: str) -> tuple[str, str, int]:
    fields = line.split()
    if len(fields) != 3:
        raise ValueError(f"{path}:{number}: {len(fields)} fields where 3 are wanted, `1 clip clip`: {line[:80]!r}")
    for label, left, right in (fields, [fields[2], *fields[:2]]):
        if label in LABELS:
            return left, right, LABELS[label]
    raise ValueError(f"{path}:{number}: no label; one of {', '.join(LABELS)} stands first or last: {line[:80]!r}")


def demand_clips(path: Path, trials: Trials, clips: Mapping[str, str]) -> None:
    """ValueError that names the first line with a clip that cannot be used.

    clips: every clip of the corpus by id -> why it cannot be used, "" where it can.
    """
    for number, *pair in zip(trials.lines, trials.left, trials.right, strict=True):
        for name in pair:
            reason = clips.get(name, f"the corpus has no such clip; they are named like {next(iter(clips))}")
            if reason:
                raise ValueError(f"{path}:{number}: {name!r}: {reason}")


def demand_speakers(path: Path, trials: Trials, speakers: Mapping[str, str]) -> None:
    """ValueError that names the first line whose label is not what the corpus says of its speakers, by clip."""
    for number, left, right, same in zip(trials.lines, trials.left, trials.right, trials.same, strict=True):
        if speakers[left] and speakers[right] and (speakers[left] == speakers[right]) != bool(same):
            raise ValueError(
                f"{path}:{number}: says {'one speaker' if same else 'two speakers'}, "
                f"but {left!r} is of {speakers[left]!r} and {right!r} of {speakers[right]!r}"
            )
