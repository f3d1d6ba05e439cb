"""The report's figures: each a function from plain data to a Figure, drawn without a display.

They are as wide as a phone, so that their text is never scaled down; `ROW_COLOURS` are of Okabe and Ito, told
apart by colour-blind readers, and lines and points bear their names.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox, BboxBase

WIDTH = 4.1  # inches; 394 px of a screen
POINT = 100 / 72  # pixels, at the resolution in which text is measured
SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))  # of a point, the best first
INK, FAINT, RULE = "#222222", "#767676", "#dddddd"
ROW_COLOURS = {"student": "#d55e00", "teacher": "#0072b2", "untrained": "#999999", "log-mel": "#999999"}
OTHERS = ("#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # for upstreams and further students, in their order
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelcolor": FAINT,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "text.color": INK,
    "svg.hashsalt": "fusedistill",  # the same figure gives the same bytes
    "figure.constrained_layout.use": True,
}


def colours(rows: Sequence[str]) -> dict[str, str]:
    """A colour for each row, whatever other rows there are beside those we name."""
    others = [row for row in rows if row not in ROW_COLOURS]
    return ROW_COLOURS | {row: OTHERS[number % len(OTHERS)] for number, row in enumerate(others)}


def figure(height: float, panels: tuple[int, int] = (1, 1), **shared: bool) -> tuple[Figure, np.ndarray]:
    """A Figure as wide as a phone and its axes, (rows, columns); `shared` as in `Figure.subplots`."""
    made = Figure(figsize=(WIDTH, height))
    return made, made.subplots(*panels, squeeze=False, sharex=shared.get("x", False), sharey=shared.get("y", False))


def svg(made: Figure) -> str:
    """The figure as the address of an image within the page."""
    return "data:image/svg+xml;base64," + base64.b64encode(_saved(made, "svg")).decode()


def png(made: Figure) -> bytes:
    return _saved(made, "png")


def _saved(made: Figure, kind: str) -> bytes:
    stream = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}
    made.savefig(stream, format=kind, dpi=200, metadata=metadata)
    return stream.getvalue()


def style():
    """The report's looks, as a context in which figures are made and saved."""
    return matplotlib.rc_context(STYLE)


def pareto(points: Mapping[str, tuple[float, float, Sequence[float] | None]], cost: str, *, log: bool) -> Figure:
    """Rows as points: name -> cost, mean score, its interval; a line joins those that no other row beats on both."""
    made, ((axes,),) = figure(3.3)
    shades = colours(list(points))
    front = []
    for price, score, _ in sorted(points.values(), key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((price, score))
    axes.step(*zip(*front, strict=True), where="post", color=RULE, zorder=1)
    for name, (price, score, bounds) in points.items():
        if bounds is not None:
            axes.plot([price, price], bounds, color=shades[name], linewidth=1.5, alpha=0.5)
        axes.plot(price, score, "o", color=shades[name], markersize=8 if name == "student" else 6)
    if log:
        axes.set_xscale("log")
        prices = [price for price, _, _ in points.values()]
        near = max(prices) < 30 * min(prices)  # powers of ten alone would be one or none
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if near else (1,)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.08)
    axes.set_xlabel(cost)
    axes.set_title("mean score, % (error rates as 100 minus)", color=FAINT)
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    _beside(made, axes, [(price, score, name, shades[name]) for name, (price, score, _) in points.items()])
    return made


def _beside(made: Figure, axes: Axes, marks: Sequence[tuple[float, float, str, Any]]) -> None:
    """Names of points, (x, y, name, colour), each on the side where it covers least of the points and other names."""
    made.draw_without_rendering()  # lays out: what is measured below is what will be drawn
    dots = axes.transData.transform([(x, y) for x, y, *_ in marks])
    taken = [Bbox.from_bounds(x - 5 * POINT, y - 5 * POINT, 10 * POINT, 10 * POINT) for x, y in dots]
    for x, y, name, colour in sorted(marks, key=lambda mark: -mark[1]):
        tried = [_named(axes, x, y, name, colour, side) for side in SIDES]
        boxes = [one.get_window_extent() for one in tried]
        covered = [sum(_shared(box, other) for other in taken) - _shared(box, made.bbox) for box in boxes]
        best = int(np.argmin(covered))
        taken.append(boxes[best])
        for number, one in enumerate(tried):
            if number != best:
                one.remove()


def _shared(one: BboxBase, other: BboxBase) -> float:
    """The area of two boxes that is of both."""
    both = Bbox.intersection(one, other)
    return 0.0 if both is None else both.width * both.height


def _named(axes: Axes, x: float, y: float, name: str, colour: Any, side: tuple[int, int]) -> Annotation:
    """A name on a side of its point, (1, 0) for the right."""
    across = {1: "left", 0: "center", -1: "right"}
    along = {1: "bottom", 0: "center", -1: "top"}
    return axes.annotate(
        name,
        (x, y),
        xytext=(8 * side[0], 7 * side[1]),
        textcoords="offset points",
        ha=across[side[0]],
        va=along[side[1]],
        color=colour,
        annotation_clip=False,
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )


def _label(axes: Axes, marks: Sequence[tuple[float, float, str, Any]], height: float) -> None:
    """Names right of points, (x, y, name, colour), moved apart where they would meet; height: inches of the figure."""
    low, high = axes.get_ylim()
    line = 11 / 72 / (0.75 * height) * (high - low)  # of text, in data units; the layout is not made yet
    marks = sorted(marks, key=lambda mark: mark[1])
    for (x, _, name, colour), y in zip(marks, spread([mark[1] for mark in marks], line), strict=True):
        _named(axes, x, y, name, colour, (1, 0))


def spread(places: Sequence[float], apart: float) -> list[float]:
    """Ascending places moved as little as keeps them `apart`: neighbours that meet share out their way."""
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        while len(groups) > 1 and _centre(groups[-1]) - _centre(groups[-2]) < apart * _half(groups[-1], groups[-2]):
            last = groups.pop()
            groups[-1] += last
    return [
        _centre(group) + apart * (number - (len(group) - 1) / 2) for group in groups for number in range(len(group))
    ]


def _centre(group: Sequence[float]) -> float:
    return sum(group) / len(group)


def _half(*groups: Sequence[float]) -> float:
    """Names between the centres of two stacked groups."""
    return sum(len(group) for group in groups) / 2


def scores(tasks: Mapping[str, Mapping[str, tuple[float, Sequence[float] | None]]]) -> Figure:
    """A panel for each task, by its title: row -> score and interval."""
    names = list(dict.fromkeys(name for rows in tasks.values() for name in rows))
    lines = -(-len(tasks) // 2)
    made, panels = figure(0.55 + lines * (0.45 + 0.19 * len(names)), (lines, 2), y=True)
    shades = colours(names)
    for axes in panels.flat[len(tasks) :]:
        axes.set_visible(False)
    for axes, (title, rows) in zip(panels.flat, tasks.items(), strict=False):
        axes.set_title(title)
        axes.grid(axis="x", color=RULE, linewidth=0.5)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", length=0)
        for tick, name in zip(axes.get_yticklabels(), names, strict=False):  # the left panels alone have them
            tick.set_color(shades[name])
        for name, (value, bounds) in rows.items():
            height = names.index(name)
            axes.plot(value, height, "o", color=shades[name], markersize=5)
            if bounds is not None:
                axes.plot(bounds, [height, height], color=shades[name], linewidth=1.5)
    panels[0, 0].set_ylim(len(names) - 0.5, -0.5)  # half a line above and below: no point is cut
    return made


def lines(steps: Sequence[float], named: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Curves over optimizer steps, each named at its end."""
    made, ((axes,),) = figure(2.6)
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.8, len(named)))
    for values, shade in zip(named.values(), shades, strict=True):
        axes.plot(steps, values, color=shade, linewidth=1.5)
    axes.set_title(title, color=FAINT)
    axes.set_xlabel("optimizer steps")
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    axes.margins(x=0)
    axes.set_xlim(0, None)
    ends = zip(named.items(), shades, strict=True)
    _label(axes, [(steps[-1], values[-1], name, shade) for (name, values), shade in ends], made.get_figheight())
    return made


def heat(values_YX: np.ndarray, ys: Sequence[str], xs: Sequence[str], axis: str, *, digits: int, most: float) -> Figure:
    """A table in shades, its values written in; `most` is the darkest."""
    made, ((axes,),) = figure(0.75 + 0.28 * len(ys))
    axes.imshow(values_YX, cmap="Blues", vmin=0, vmax=most, aspect="auto")
    axes.set_yticks(range(len(ys)), ys)
    axes.set_xticks(range(len(xs)), xs)
    axes.set_xlabel(axis)
    axes.tick_params(length=0, colors=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    size = 8.5 if len(xs) <= 9 else 5.5
    for (y, x), value in np.ndenumerate(values_YX):
        shade = "white" if value > 0.6 * most else INK
        axes.text(x, y, f"{value:z.{digits}f}", ha="center", va="center", color=shade, fontsize=size)
    return made


def groups(kinds: Mapping[str, Mapping[str, Mapping[str, float]]], rows: Sequence[str], title: str) -> Figure:
    """Scores by kind of group, then group, then row: a panel for each kind, a line for each group."""
    sizes = [len(found) for found in kinds.values()]
    made = Figure(figsize=(WIDTH, 0.5 + 0.45 * len(sizes) + 0.17 * sum(sizes)))
    panels = made.subplots(len(sizes), 1, squeeze=False, sharex=True, height_ratios=[size + 0.5 for size in sizes])
    shades = colours(rows)
    for axes, (kind, found) in zip(panels[:, 0], kinds.items(), strict=True):
        axes.set_title(f"by {kind}", color=FAINT)
        axes.set_yticks(range(len(found)), list(found))
        axes.tick_params(length=0, labelsize=8)
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.grid(color=RULE, linewidth=0.5)
        for row in rows:
            at = [(values[row], height) for height, values in enumerate(found.values()) if row in values]
            if at:  # of no arguments matplotlib makes a point at 0
                axes.plot(*zip(*at, strict=True), "o", color=shades[row], markersize=4.5, label=row)
    panels[-1, 0].set_xlabel(title)
    for place, row in enumerate(rows):
        panels[0, 0].text(
            1 - 0.26 * (len(rows) - 1 - place),
            1.0,
            row,
            color=shades[row],
            ha="right",
            va="bottom",
            transform=panels[0, 0].transAxes,
        )
    return made
