"""What the runs of a study say together: means, intervals over clips and seeds, paired tests, one table, one plot.

Shape letters: S seeds of distillation, R resamples of the test clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from pathlib import Path
from statistics import mean

import numpy as np

from benchmarks.spread import Variance, of_clips, of_seed
from distill.evidence import plots
from distill.evidence.comparison import STUDENT, read_evidence, retention
from distill.evidence.statistics import RESAMPLES, over_seeds, resamples
from distill.evidence.tables import heading
from distill.files import read_json, write_json, write_text
from distill.limits import RecipeError

NOTE = (
    "Test split, in percent: mean over seeds of distillation, how many is in brackets, and of heads. Intervals (95 %) "
    "and p-values are of other test clips (speakers, for verification; a bootstrap, the same draws for every cell) {}; "
    "they are not corrected for the number of comparisons. The average turns error rates into 100 minus. Retention "
    "puts the untrained student at 0 and the teacher of `{}` at 1, the most that a task counts."
)
SEEDS = (
    "and other seeds of distillation (Welch's t; a seed's standard deviation is {:.1f} on the average, with {:.0f} "
    "degrees of freedom, of all cells together); an asterisk says p < 0.05"
)
ONE_SEED = "alone, as no cell has two seeds of distillation: another seed may turn them, so there are no asterisks"


@dataclass(frozen=True)
class Score:
    """One task of one cell, or the average over its tasks."""

    values_S: list[float]
    drawn_R: np.ndarray | None  # of drawn clips, the mean over seeds; None where a probe diverged
    units: int = 0  # clips or speakers that were drawn
    lower_is_better: bool = False

    def good(self) -> "Score":
        """The same with higher better."""
        if not self.lower_is_better:
            return self
        drawn_R = None if self.drawn_R is None else 100.0 - self.drawn_R
        return Score([100.0 - value for value in self.values_S], drawn_R, self.units)

    def told(self, other: "Score", seed: Variance) -> dict:
        """In plain data, with its difference to another cell's; seed: of one seed's score, of all cells together."""
        value, apart = mean(self.values_S), mean(self.values_S) - mean(other.values_S)
        found = {"value": value, "seeds": self.values_S, "interval": None}
        found["seed_interval"] = over_seeds(self.values_S, -inf, inf)
        difference = {"value": apart, "interval": None, "p_value": None}
        if self.drawn_R is not None:
            own = of_clips(self.drawn_R, self.units) + seed.scaled(1 / len(self.values_S))
            found["interval"] = own.interval(value)
            if other.drawn_R is not None and self is not other:
                clips = of_clips(self.drawn_R - other.drawn_R, self.units)
                whole = clips + seed.scaled(1 / len(self.values_S) + 1 / len(other.values_S))
                difference |= {"interval": whole.interval(apart), "p_value": whole.p_value(apart)}
        return found | {"difference": difference}


def read_rows(folder: Path, metrics: Mapping[str, str]) -> dict:
    """The rows of an evaluated run; metrics: what a task is judged by, where that is not its own metric."""
    rows = read_json(folder / "evaluation.json")["rows"]
    for row in rows.values():
        for task, metric in metrics.items():
            cell = row["tasks"].get(task, {})
            if cell and cell["metric"] != metric:
                if metric not in cell:
                    raise RecipeError(f"{folder}: {task} has no {metric} beside its {cell['metric']}")
                cell |= {"metric": metric, "value": cell[metric]}
    return rows


def read_task(folders: Sequence[Path], task: str, metrics: Mapping[str, str]) -> tuple[Score, list[str]]:
    """The score of one cell's students from their runs' folders, and the clips that were scored."""
    cells = [read_rows(folder, metrics)[STUDENT]["tasks"][task] for folder in folders]
    kept = [
        read_evidence(folder / "evaluation" / f"{STUDENT}.{task}.npz", cell["metric"])
        for folder, cell in zip(folders, cells, strict=True)
    ]
    values, lower = [cell["value"] for cell in cells], cells[0]["lower_is_better"]
    known = [found for found in kept if found is not None]
    if len(known) < len(kept):
        return Score(values, None, lower_is_better=lower), []
    if any(ids != known[0][0] for ids, _ in known):
        raise RecipeError(f"{task}: {', '.join(folder.name for folder in folders)} were scored on different clips")
    drawn_R = np.mean([evidence.scores(resamples(evidence.units)) for _, evidence in known], axis=0)
    return Score(values, drawn_R, known[0][1].units, lower), known[0][0]


def average(scores: Mapping[str, Score]) -> Score:
    """Over tasks, higher is better; its draws stand on the task with the fewest clips or speakers."""
    good = [score.good() for score in scores.values()]
    drawn = [score.drawn_R for score in good if score.drawn_R is not None]
    values_S = np.mean([score.values_S for score in good], axis=0).tolist()
    units = min(score.units for score in good)
    return Score(values_S, np.mean(drawn, axis=0) if len(drawn) == len(good) else None, units)


def verdict(done: Mapping[str, Sequence[Path]], against: str, metrics: Mapping[str, str]) -> dict:
    """Cell -> its tasks and `average`, each compared with the cell `against`; done: the folders of its runs.

    metrics: what a task is judged by, where that is not its own metric. Raises RecipeError where cells were scored on
    different clips.
    """
    rows = read_rows(done[against][0], metrics)
    tasks = rows[STUDENT]["tasks"]
    heard: dict[str, list[str]] = {}
    scores: dict[str, dict[str, Score]] = {}
    for cell, folders in done.items():
        scores[cell] = {}
        scored = read_rows(folders[0], metrics)[STUDENT]["tasks"].keys()
        if scored != tasks.keys():
            raise RecipeError(f"{cell} was scored by {', '.join(scored)}, but {against} by {', '.join(tasks)}")
        for task in tasks:
            scores[cell][task], ids = read_task(folders, task, metrics)
            if ids and heard.setdefault(task, ids) != ids:
                raise RecipeError(f"{task}: {cell} was scored on other clips than {next(iter(done))}")
    averages = {cell: average(found) for cell, found in scores.items()}
    seeds = {task: of_seed(found[task].values_S for found in scores.values()) for task in tasks}
    seed = of_seed(score.values_S for score in averages.values())
    told = {}
    for cell, found in scores.items():
        values = {task: score.told(scores[against][task], seeds[task]) for task, score in found.items()}
        whole = averages[cell].told(averages[against], seed)
        known = {"teacher", "untrained"} <= rows.keys()
        kept = retention(rows | {cell: {"tasks": values}}, cell) if known else {"mean": None}
        runs = [folder.name for folder in done[cell]]
        told[cell] = {"runs": runs, "tasks": values, "average": whole, "retention": kept}
    heads = {task: heading(task, cell) for task, cell in tasks.items()}
    spread = {"deviation": sqrt(seed.value), "freedom": seed.freedom}
    return {
        "against": against,
        "headings": heads,
        "resamples": RESAMPLES,
        "seed": spread,
        "cells": told,
        "rows": rows,
    }


def ranked(found: dict) -> dict:
    """The verdict's cells, the best average first."""
    return dict(sorted(found["cells"].items(), key=lambda item: -item[1]["average"]["value"]))


def table(found: dict) -> str:
    """The verdict as Markdown: a row for each cell, the best average first."""
    head = ["student of", *found["headings"].values(), "average ↑", f"against {found['against']}", "p", "retention"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    known = found["seed"]["freedom"] > 0
    for cell, told in ranked(found).items():
        scores = [bounded(one, known) for one in (*told["tasks"].values(), told["average"])]
        apart, kept = told["average"]["difference"], told["retention"]["mean"]
        chance = "" if apart["p_value"] is None else f"{apart['p_value']:.3f}".replace("0.000", "<0.001")
        words = [f"{cell} ({len(told['runs'])})", *scores, f"{apart['value']:+z.1f}", chance]
        lines.append("| " + " | ".join([*words, "" if kept is None else f"{kept:.2f}"]) + " |")
    seeds = SEEDS.format(*found["seed"].values()) if known else ONE_SEED
    return "\n".join([*lines, "", NOTE.format(seeds, found["against"])])


def bounded(told: dict, marked: bool) -> str:
    """A value and its interval; an asterisk, where marked, if it differs from the cell compared with, p < 0.05."""
    chance = told["difference"]["p_value"]
    mark = "*" if marked and chance is not None and chance < 0.05 else ""
    bounds = "" if told["interval"] is None else " [{:.1f}, {:.1f}]".format(*told["interval"])
    return f"{told['value']:.1f}{mark}{bounds}"


def write_verdict(done: Mapping[str, Sequence[Path]], against: str, metrics: Mapping[str, str], folder: Path) -> str:
    """study.json, study.md and study.png in a folder; the table."""
    found = verdict(done, against, metrics)
    cells = ranked(found)
    panels = {"average ↑": {cell: _point(told["average"]) for cell, told in cells.items()}}
    for task, title in found["headings"].items():
        panels[title] = {cell: _point(told["tasks"][task]) for cell, told in cells.items()}
    write_json(folder / "study.json", found)
    write_text(folder / "study.md", table(found) + "\n\n![scores](study.png)\n")
    with plots.style():
        (folder / "study.png").write_bytes(plots.png(plots.scores(panels)))
    return table(found)


def _point(told: dict) -> tuple[float, list[float] | None]:
    return told["value"], told["interval"]
