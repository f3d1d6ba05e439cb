"""What the clips of all rows tell together: intervals, retention, and whether the student differs from a row.

Beside every cell, `<row>.<task>.npz` keeps each clip's prediction: ids (C,), references (C,), and predictions (S, C)
as texts or classes or (S, C, E) as embeddings; with a trial list, its pairs as trials (2, N), and same (N,), 1 where
one speaker says both. The student's cells and all others hold the same clips.
"""

import os
from collections.abc import Sequence
from functools import cache
from math import inf
from pathlib import Path
from statistics import mean

import numpy as np

from distill.data.clips import Clips
from distill.evidence.statistics import SHARES, Evidence, evidence, interval, over_seeds, paired, resamples

STUDENT = "student"


def write_predictions(path: Path, clips: Clips, references: Sequence[str], predictions: Sequence[list]) -> None:
    """One cell's predictions, a list for each seed, and the trials of a list; the file appears whole or not at all."""
    kept = {"ids": np.array(clips.ids), "references": np.array(references), "predictions": np.array(predictions)}
    if clips.trials is not None and clips.trials.ids() <= set(clips.ids):
        left, right, kept["same"] = clips.trials.rows(clips.ids)
        kept["trials"] = np.stack([left, right])
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, **kept)
    os.replace(unfinished, path)


def read_evidence(path: Path, metric: str) -> tuple[list[str], Evidence] | None:
    """Ids and evidence of one cell; None where a probe diverged, of which there are no predictions."""
    if not path.exists():
        return None
    with np.load(path) as file:
        trials, same = (file[name] if name in file else None for name in ("trials", "same"))
        return file["ids"].tolist(), evidence(metric, file["predictions"], file["references"].tolist(), trials, same)


def draw(rows: dict, folder: Path) -> dict[str, dict[str, np.ndarray | None]]:
    """Row -> task -> its score in every resample (R,), None where a probe diverged.

    Raises ValueError where a row has heard other clips than the first.
    """
    times = cache(resamples)
    drawn, first = {}, {}
    for name, row in rows.items():
        drawn[name] = {}
        for task, cell in row["tasks"].items():
            found = read_evidence(folder / f"{name}.{task}.npz", cell["metric"])
            drawn[name][task] = None if found is None else found[1].scores(times(found[1].units))
            if found is not None and first.setdefault(task, found[0]) != found[0]:
                raise ValueError(
                    f"{folder}: {name} has heard other clips for {task} than another row; delete the folder"
                )
    return drawn


def compare(rows: dict, folder: Path, students: Sequence[str]) -> None:
    """Add to rows and cells: intervals, mean scores, retention of these students, paired tests."""
    drawn = draw(rows, folder)
    for name, row in rows.items():
        for task, cell in row["tasks"].items():
            cell["seed_interval"] = over_seeds(cell["seeds"], upper=100.0 if cell["metric"] in SHARES else inf)
            cell["interval"] = _interval(drawn[name][task])
        row["score"] = overall(row, drawn[name])
        if STUDENT in rows and name != STUDENT:
            _against(rows[STUDENT], row, drawn[STUDENT], drawn[name])
    for name in students:
        if {"teacher", "untrained"} <= rows.keys():
            rows[name]["retention"] = retention(rows, name)
            rows[name]["retention_interval"] = _retention_interval(rows, drawn, name)


def retention(rows: dict, name: str = STUDENT) -> dict[str, float | None]:
    """What a student keeps: the untrained one is 0, the teacher 1 and the most; and the mean over tasks.

    None where the teacher is no better than the untrained student.
    """
    kept: dict[str, float | None] = {}
    for task, cell in rows["teacher"]["tasks"].items():
        student, untrained = (rows[row]["tasks"][task]["value"] for row in (name, "untrained"))
        share = float(_share(student, untrained, cell["value"], cell["lower_is_better"]))
        kept[task] = None if np.isnan(share) else share
    known = [value for value in kept.values() if value is not None]
    return kept | {"mean": mean(known) if known else None}


def overall(row: dict, drawn: dict[str, np.ndarray | None]) -> dict:
    """The mean over tasks, error rates turned into 100 minus, with its interval."""
    cells = row["tasks"]
    values = [_good(cell["value"], cell["lower_is_better"]) for cell in cells.values()]
    all_R = [_good(one, cells[task]["lower_is_better"]) for task, one in drawn.items() if one is not None]
    whole = np.mean(all_R, axis=0) if len(all_R) == len(cells) else None
    return {"value": mean(values), "interval": _interval(whole)}


def _good(value, lower_is_better: bool):
    return 100.0 - value if lower_is_better else value


def _interval(scores_R: np.ndarray | None) -> list[float] | None:
    return None if scores_R is None or not np.isfinite(scores_R).any() else interval(scores_R)


def _share(student_R: np.ndarray, untrained_R: np.ndarray, teacher_R: np.ndarray, lower_is_better: bool) -> np.ndarray:
    """Of the way from untrained to teacher, at most 1; nan where there is no way."""
    sign = -1 if lower_is_better else 1
    whole_R, way_R = sign * (np.asarray(teacher_R) - untrained_R), sign * (np.asarray(student_R) - untrained_R)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole_R > 0, np.minimum(1.0, way_R / whole_R), np.nan)


def _retention_interval(rows: dict, drawn: dict, name: str) -> dict[str, list[float] | None]:
    """Of each task, and of the mean over the tasks that have a retention."""
    shares = {}
    for task, cell in rows["teacher"]["tasks"].items():
        ours, untrained, teacher = (drawn[row][task] for row in (name, "untrained", "teacher"))
        known = rows[name]["retention"][task] is not None
        if known and ours is not None and untrained is not None and teacher is not None:
            shares[task] = _share(ours, untrained, teacher, cell["lower_is_better"])
        else:
            shares[task] = None
    known = [share for share in shares.values() if share is not None]
    shares["mean"] = np.mean(known, axis=0) if known else None
    return {task: _interval(share) for task, share in shares.items()}


def _against(student: dict, row: dict, ours: dict, theirs: dict) -> None:
    """Each cell's `student_minus_row`: difference in points, interval, p-value."""
    for task, cell in row["tasks"].items():
        found = {"value": student["tasks"][task]["value"] - cell["value"], "interval": None, "p_value": None}
        if ours[task] is not None and theirs[task] is not None:
            found["interval"], found["p_value"] = paired(ours[task], theirs[task])
        cell["student_minus_row"] = found
