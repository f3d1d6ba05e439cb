"""The figures of one report: which there are, what they show, and the words beside them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from distill import plots
from distill.tables import NAMES, heading, look_up, tasks

COMPARED = ("teacher", "student", "untrained")  # rows whose errors are taken apart


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
        panels[f"{heading(task, found)}"] = {n: (cell["value"], cell.get("interval")) for n, cell in cells.items()}
    words = "Points are means over seeds, bars are 95 % bootstrap intervals over test clips."
    yield Drawing(
        "scores", "scores", "Scores", f"{words} Percent; ↓ lower is better, ↑ higher is better.", plots.scores(panels)
    )
    for name, key, axis, log, scale in (
        ("pareto-parameters", "parameters", "parameters, millions", False, 1e6),
        ("pareto-time", "real_time_factor", "real-time factor of one clip: s of work per s of audio", True, 1.0),
    ):
        found = {
            row: (values[key] / scale, values["score"]["value"], values["score"].get("interval"))
            for row, values in rows.items()
            if key in values and "score" in values
        }
        if found:
            title = f"Mean score against {axis.split(',')[0].split(' of')[0]}"
            yield Drawing(
                name,
                "scores",
                title,
                "No row on the grey line is beaten on both axes by another.",
                plots.pareto(found, axis, log),
            )


def of_training(analysis: dict) -> Iterator[Drawing]:
    """Losses of both stages, and what the student explains of its targets."""
    fit = look_up(analysis, "training/fit/curves")
    if fit:
        names = [name for name in fit if name.startswith("loss_")]
        named = {name.removeprefix("loss_").upper(): [v / fit[name][0] for v in fit[name]] for name in names}
        words = "Loss of each task's head while the teacher's interface is fitted, divided by its first value."
        yield Drawing(
            "training-fit",
            "training",
            "Fitting the teacher",
            words,
            plots.lines(fit["step"], named, "loss / first loss"),
        )
    curves = look_up(analysis, "training/distill/curves")
    if curves:
        words = "The distillation loss, averaged over layers and frames."
        yield Drawing(
            "training-distill",
            "training",
            "Distillation",
            words,
            plots.lines(curves["step"], {"loss": curves["loss"]}, "loss"),
        )
        names = {n: n.removeprefix("explained_variance_") for n in curves if n.startswith("explained_variance_")}
        if names:
            named = {words if words == "interface" else f"pair {words}": curves[n] for n, words in names.items()}
            words = "Share of the variance of each target that the student explains, on training clips: layer pairs from shallow to deep, and the interface's output."
            yield Drawing(
                "explained-variance",
                "training",
                "Explained variance of the targets",
                words,
                plots.lines(curves["step"], named, "explained variance"),
            )


def of_layers(analysis: dict) -> Iterator[Drawing]:
    """What the teacher listens to, and whose layers the student's resemble."""
    listening = analysis.get("listening")
    if listening:
        names = list(listening["tasks"])
        upstreams = next(iter(listening["tasks"].values()))["without"]
        ys, values = [], []
        for upstream, found in upstreams.items():
            for layer in ["all", *range(len(found["layers"]))]:
                ys.append(f"{upstream} {layer}")
                values.append([_loss(listening["tasks"][task], upstream, layer) for task in names])
        values = np.array(values)
        words = (
            "How much a fitted task loss rises, in percent, when one layer of an upstream, or all of it, is held at its mean. "
            f"On {listening['clips']} training clips; 0 is the embedding."
        )
        yield Drawing(
            "listening",
            "layers",
            "What the fused teacher listens to",
            words,
            plots.heat(
                values, ys, [task.upper() for task in names], "loss without it, + %", 0, float(max(values.max(), 1))
            ),
        )
        if listening["interface_weights"]:
            weights = np.array([listening["interface_weights"]])
            yield Drawing(
                "interface-weights",
                "layers",
                "Weights of the fused layers",
                "Softmax of the interface's weighted sum.",
                plots.heat(weights, [""], [str(n) for n in range(weights.shape[1])], "fused layer", 2, 1.0),
            )
    for name, layers in (look_up(analysis, "similarity/layers") or {}).items():
        values = np.array(layers)
        words = f"Debiased linear CKA on {analysis['similarity']['frames']} frames of test clips: 1 is alike but for a rotation, 0 unrelated. Layer 0 is the embedding."
        yield Drawing(
            f"similarity-{name}",
            "layers",
            f"Student layers beside {name}'s",
            words,
            plots.heat(
                values,
                [f"student {n}" for n in range(len(values))],
                [str(n) for n in range(values.shape[1])],
                f"layer of {name}",
                2,
                1.0,
            ),
        )


def _loss(found: dict, upstream: str, layer: str | int) -> float:
    """By how many percent a task's loss rises."""
    without = found["without"][upstream]
    return 100 * ((without["all"] if layer == "all" else without["layers"][layer]) / found["loss"] - 1)


def of_errors(result: dict, analysis: dict) -> Iterator[Drawing]:
    """Scores by speaker, language, length and noise, task by task."""
    for task, kinds in (analysis.get("errors") or {}).items():
        there = [row for row in COMPARED if row in result["rows"]]
        metric = next(row["tasks"][task]["metric"] for row in result["rows"].values() if task in row["tasks"])
        shown = {kind: {name: group["rows"] for name, group in found.items()} for kind, found in kinds.items()}
        if shown and there:
            words = "Groups of test clips; length and noise in thirds, the noise estimated from the audio. Small groups scatter."
            yield Drawing(
                f"errors-{task}",
                "errors",
                f"{task.upper()} by group",
                words,
                plots.groups(shown, there, f"{NAMES.get(metric, metric)}, %"),
            )
