"""The figures of one report: which there are, what they show, and the words beside them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from distill.evidence import plots
from distill.evidence.tables import NAMES, heading, look_up, tasks

COMPARED = ("teacher", "student", "untrained")  # rows whose errors are taken apart
ENDS = 12  # groups of a kind that are shown from either end, where a corpus has many
FRONT = "No row on the grey line is beaten on both axes by another. Bars are 95 % intervals over test clips."


@dataclass(frozen=True)
class Drawing:
    """A figure, its file's name, and what it says in words."""

    name: str
    section: str  # scores, training, layers or errors
    title: str
    caption: str
    made: Figure


def of_rows(result: dict, places: Mapping[str, str]) -> Iterator[Drawing]:
    """Scores with intervals, and what they cost; places: row -> where it stands in `result`."""
    rows = {name: look_up(result, at) for name, at in places.items()}
    panels = {}
    for task, found in tasks(result, places).items():
        cells = {name: row["tasks"][task] for name, row in rows.items() if task in row["tasks"]}
        panels[heading(task, found)] = {n: (cell["value"], cell.get("interval")) for n, cell in cells.items()}
    caption = "Means over seeds in percent, with 95 % intervals over test clips. ↓ lower is better, ↑ higher is better."
    yield Drawing("scores", "scores", "Scores", caption, plots.scores(panels))
    prices = {name: row["parameters"] / 1e6 for name, row in rows.items() if "parameters" in row}
    yield from _pareto("pareto-parameters", "Score against size", rows, prices, "parameters, millions", log=False)
    prices = {name: row["real_time_factor"] for name, row in rows.items() if "real_time_factor" in row}
    axis = "real-time factor of one clip: s of work per s of audio"
    yield from _pareto("pareto-time", "Score against time", rows, prices, axis, log=True)


def _pareto(
    name: str, title: str, rows: Mapping[str, dict], prices: Mapping[str, float], axis: str, *, log: bool
) -> Iterator[Drawing]:
    scores = {row: rows[row]["score"] for row in prices if "score" in rows[row]}
    points = {row: (prices[row], score["value"], score["interval"]) for row, score in scores.items()}
    if points:
        yield Drawing(name, "scores", title, FRONT, plots.pareto(points, axis, log=log))


def of_training(analysis: dict) -> Iterator[Drawing]:
    """Losses of both stages, and what the student explains of its targets."""
    fit = look_up(analysis, "training/fit/curves") or {}
    losses = {name.removeprefix("loss_").upper(): fit[name] for name in fit if name.startswith("loss_")}
    if losses:
        shares = {name: [value / (max(values) or 1.0) for value in values] for name, values in losses.items()}
        caption = "Loss of each task's head while fusion and interface are fitted, divided by its highest value."
        made = plots.lines(fit["step"], shares, "loss / highest loss")
        yield Drawing("training-fit", "training", "Fitting the teacher", caption, made)
    curves = look_up(analysis, "training/distill/curves") or {}
    if "loss" in curves:
        made = plots.lines(curves["step"], {"": curves["loss"]}, "loss")
        caption = "The distillation loss for a frame: the mean over layer pairs, and the interface's by its weight."
        yield Drawing("training-distill", "training", "Distillation", caption, made)
    explained = {name: curves[name] for name in curves if name.startswith("explained_variance_")}
    if explained:
        parts = {name: name.removeprefix("explained_variance_") for name in explained}
        named = {part if part == "interface" else f"pair {part}": explained[name] for name, part in parts.items()}
        caption = (
            "Share of each target's variance that the student explains, on training clips: pairs of layers, the "
            "shallowest first, and the interface's output."
        )
        made = plots.lines(curves["step"], named, "explained variance")
        yield Drawing("explained-variance", "training", "Explained variance of the targets", caption, made)


def of_layers(analysis: dict) -> Iterator[Drawing]:
    """What the teacher listens to, and whose layers the student's resemble."""
    if listening := analysis.get("listening"):
        yield from _listening(listening)
    found = analysis.get("similarity", {"layers": {}})
    for name, layers in found["layers"].items():
        values = np.array(layers)
        ours, theirs = ([str(number) for number in range(size)] for size in values.shape)
        caption = (
            f"Debiased linear CKA on {found['frames']} frames of {found['clips']} test clips: 1 is alike but for "
            "rotation and scale, 0 unrelated. Layer 0 is the embedding."
        )
        made = plots.heat(values, [f"student {one}" for one in ours], theirs, f"layer of {name}", digits=2, most=1.0)
        yield Drawing(f"similarity-{name}", "layers", f"Student layers beside those of {name}", caption, made)


def _listening(listening: dict) -> Iterator[Drawing]:
    found = {task: losses for task, losses in listening["tasks"].items() if losses["loss"]}  # of 0 nothing rises
    if found:
        depths = {name: len(losses["layers"]) for name, losses in next(iter(found.values()))["without"].items()}
        cases = [(name, layer) for name, depth in depths.items() for layer in ("all", *range(depth))]
        rises = np.array([[_rise(losses, *case) for losses in found.values()] for case in cases])
        caption = (
            "By how many percent a fitted head's loss rises when a layer of an upstream, or all of them, is held at "
            f"its mean, on {listening['clips']} training clips. Layer 0 is the embedding. Layers that say the same can "
            "stand in for each other."
        )
        ys, xs = [f"{name} {layer}" for name, layer in cases], [task.upper() for task in found]
        made = plots.heat(rises, ys, xs, "rise of the loss, %", digits=0, most=max(float(rises.max()), 1.0))
        yield Drawing("listening", "layers", "What the fused teacher listens to", caption, made)
    if weights := listening["interface_weights"]:
        layers = [str(number) for number in range(len(weights))]
        made = plots.heat(np.array([weights]), [""], layers, "fused layer", digits=2, most=1.0)
        caption = "Softmax of the interface's weighted sum."
        yield Drawing("interface-weights", "layers", "Weights of the fused layers", caption, made)


def _rise(losses: dict, upstream: str, layer: str | int) -> float:
    """Of a task's loss, in percent, without a layer."""
    without = losses["without"][upstream]
    return 100 * ((without["all"] if isinstance(layer, str) else without["layers"][layer]) / losses["loss"] - 1)


def of_errors(result: dict, analysis: dict) -> Iterator[Drawing]:
    """Scores by speaker, language, length and noise, task by task."""
    rows = [name for name in COMPARED if name in result["rows"]]
    for task, kinds in analysis.get("errors", {}).items():
        metric = next(row["tasks"][task]["metric"] for row in result["rows"].values() if task in row["tasks"])
        shown = {kind: _few({name: group["rows"] for name, group in found.items()}) for kind, found in kinds.items()}
        if shown and rows:
            caption = (
                "Groups of test clips; small ones scatter. Lengths and noise in thirds; noise is estimated from the "
                f"audio itself. Of more than {2 * ENDS} groups the {ENDS} lowest and highest of the student are shown."
            )
            made = plots.groups(shown, rows, f"{NAMES.get(metric, metric)}, %")
            yield Drawing(f"errors-{task}", "errors", f"{task.upper()} by group", caption, made)


def _few(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The groups where the student's score is lowest and highest, if there are too many to show."""
    if len(found) <= 2 * ENDS:
        return found
    ranked = sorted(found, key=lambda name: found[name].get("student", 0.0))
    return {name: found[name] for name in ranked[:ENDS] + ranked[-ENDS:]}
