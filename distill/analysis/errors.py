"""Where a row errs: its score by speaker, language, length and noise of the test clips."""

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path

import numpy as np

from distill.comparison import read_evidence
from distill.data.clips import Clips
from distill.features import SAMPLE_RATE

WINDOW = SAMPLE_RATE // 40  # samples, 25 ms
QUIET, TYPICAL = 5, 50  # percentiles of the windows' power; correlate by 0.80 with the embedded corpus' true ratios


def errors(rows: Mapping[str, dict], clips: Clips, folder: Path) -> dict:
    """Task -> kind of group -> group -> {clips, rows: {row: score}}; groups that tell no score are left out.

    rows: those of evaluation.json. clips: the test split. folder: where the predictions lie. The equal error rate of
    a group is that of all trials with a clip of the group in them.
    """
    tasks = list(next(iter(rows.values()))["tasks"])
    kinds = groups(clips)
    return {task: _task(task, rows, clips.ids, kinds, folder) for task in tasks}


def _task(task: str, rows: Mapping[str, dict], ids: Sequence[str], kinds: dict, folder: Path) -> dict:
    at = {name: number for number, name in enumerate(ids)}
    found: dict[str, dict] = {}
    for row, content in rows.items():
        evidence = read_evidence(folder / f"{row}.{task}.npz", content["tasks"][task]["metric"])
        if evidence is None:
            continue
        heard = np.array([at[name] for name in evidence[0]])
        for kind, labels in kinds.items():
            names = [name for name in dict.fromkeys(labels) if name in set(np.asarray(labels)[heard])]
            for name in sorted(names) if kind in ("speaker", "language") else names:
                chosen = np.flatnonzero(np.asarray(labels)[heard] == name)
                score = evidence[1].part(chosen)
                if len(names) > 1 and not isnan(score):
                    group = found.setdefault(kind, {}).setdefault(name, {"clips": len(chosen), "rows": {}})
                    group["rows"][row] = score
    return found


def groups(clips: Clips) -> dict[str, list[str]]:
    """Kind -> the group of each clip: labels as they are, lengths and noise in thirds, the lowest third first."""
    named = {name: clips.column(name) for name in ("speaker", "language") if name in clips.dataset.column_names}
    noise = np.array([signal_to_noise(clips.audio(row)) for row in range(len(clips))])
    return named | {
        "length": thirds(clips.samples / SAMPLE_RATE, "s", 1),
        "signal to noise": thirds(noise, "dB", 0),
    }


def thirds(values: np.ndarray, unit: str, digits: int) -> list[str]:
    """The third each value is in, named by its bounds."""
    low, high = np.quantile(values, [1 / 3, 2 / 3])
    names = [f"up to {low:.{digits}f} {unit}", f"{low:.{digits}f} to {high:.{digits}f} {unit}"]
    names.append(f"above {high:.{digits}f} {unit}")
    return [names[int(value > low) + int(value > high)] for value in values]


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
