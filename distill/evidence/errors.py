"""Where a row errs: its score by speaker, language, length and noise of the test clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import numpy as np

from distill.data.clips import Clips
from distill.evidence.comparison import read_evidence
from distill.evidence.statistics import Evidence
from distill.features import SAMPLE_RATE

WINDOW = SAMPLE_RATE // 40  # samples, 25 ms
QUIET, TYPICAL = 5, 50  # percentiles of the windows' power; correlate by 0.80 with the embedded corpus' true ratios


@dataclass(frozen=True)
class Groups:
    """Names in the order they are shown in, and the number of each clip's name."""

    names: list[str]
    numbers_C: np.ndarray


def errors(rows: Mapping[str, dict], tasks: Sequence[str], clips: Clips, folder: Path) -> dict:
    """Task -> kind of group -> group -> {clips, rows: {row: score}}; groups that tell no score are left out.

    rows: those of evaluation.json. clips: the test split that these tasks hear. folder: where the predictions lie.
    The equal error rate of a group is that of all trials with a clip of the group in them.
    """
    kinds = groups(clips)
    return {task: _task(task, rows, clips.ids, kinds, folder) for task in tasks}


def _task(
    task: str, rows: Mapping[str, dict], ids: Sequence[str], kinds: Mapping[str, Groups], folder: Path
) -> dict[str, dict]:
    at = {name: number for number, name in enumerate(ids)}
    found: dict[str, dict] = {}
    for row in (row for row in rows if task in rows[row]["tasks"]):
        kept = read_evidence(folder / f"{row}.{task}.npz", rows[row]["tasks"][task]["metric"])
        if kept is None:
            continue
        heard = np.array([at[name] for name in kept[0]])
        for kind, group in kinds.items():
            numbers = group.numbers_C[heard]
            if len(np.unique(numbers)) > 1:
                _score(found.setdefault(kind, {}), row, group.names, numbers, kept[1])
    return found


def _score(found: dict[str, dict], row: str, names: Sequence[str], numbers: np.ndarray, evidence: Evidence) -> None:
    """Add one row's score of every group."""
    for number, name in enumerate(names):
        chosen = np.flatnonzero(numbers == number)
        score = evidence.part(chosen)
        if not isnan(score):
            found.setdefault(name, {"clips": len(chosen), "rows": {}})["rows"][row] = score


def groups(clips: Clips) -> dict[str, Groups]:
    """Labels as they are, where the corpus has them; lengths and noise in thirds, the lowest first."""
    noise = np.array([signal_to_noise(clips.audio(row)) for row in range(len(clips))])
    measured = {
        "length": thirds(clips.samples / SAMPLE_RATE, "s", 1),
        "signal to noise": thirds(noise, "dB", 0),
    }
    for name in ("language", "speaker"):
        if name in clips.dataset.column_names:
            names, numbers_C = np.unique(clips.column(name), return_inverse=True)
            measured[name] = Groups(names.tolist(), numbers_C)
    return measured


def thirds(values: np.ndarray, unit: str, digits: int) -> Groups:
    """Three groups, named by their bounds."""
    low, high = np.quantile(values, [1 / 3, 2 / 3])
    middle = f"{low:.{digits}f} to {high:.{digits}f} {unit}"
    names = [f"up to {low:.{digits}f} {unit}", middle, f"above {high:.{digits}f} {unit}"]
    return Groups(names, (values > low).astype(int) + (values > high))


def signal_to_noise(audio_N: np.ndarray) -> float:
    """An estimate in dB that needs no clean signal: the power of a typical window over that of quiet ones.

    Speech pauses, steady noise does not: the quietest windows are taken for the noise. Reverberation fills pauses
    and lowers it.
    """
    usable = audio_N[: len(audio_N) // WINDOW * WINDOW].astype(np.float64)
    if not len(usable):
        return 0.0
    quiet, typical = np.percentile(np.square(usable).reshape(-1, WINDOW).mean(1), [QUIET, TYPICAL])
    return float(10 * np.log10(max(typical, 1e-12) / max(quiet, 1e-12)))
