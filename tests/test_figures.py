"""Figures: nothing overlaps, nothing is hidden, nothing needs a display."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from reports import ROWS

from distill.evidence import figures, plots


def test_names_are_moved_apart_as_little_as_can_be():
    assert plots.spread([0.0, 10.0], 1.0) == [0.0, 10.0]
    assert plots.spread([5.0, 5.0], 2.0) == [4.0, 6.0]
    moved = plots.spread(sorted(np.random.default_rng(0).uniform(0, 10, 12)), 0.7)
    assert np.diff(moved).min() >= 0.7 - 1e-9
    assert plots.spread([], 1.0) == []


def test_names_of_points_cover_neither_points_nor_each_other():
    places = {
        "log-mel": (0.0, 37.0),
        "student": (0.6, 64.2),
        "whisper": (1.0, 64.4),
        "wavlm": (1.36, 64.8),
        "teacher": (2.8, 66.9),
    }
    with plots.style():
        made = plots.pareto({name: (x, y, None) for name, (x, y) in places.items()}, "parameters", log=False)
        made.draw_without_rendering()
    (axes,) = made.axes
    boxes = {name.get_text(): name.get_window_extent() for name in axes.texts}
    dots = axes.transData.transform(list(places.values()))
    assert set(boxes) == set(places)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes.values(), 2))
    assert not any(box.contains(*dot) for box in boxes.values() for dot in dots)
    assert all(made.bbox.containsx(box.x0) and made.bbox.containsx(box.x1) for box in boxes.values())


@pytest.mark.parametrize("count", [2, 3, 12])
def test_no_point_of_few_rows_or_many_is_cut(count):
    rows = {f"row {number}": (50.0 + number, [49.0, 60.0]) for number in range(count)}
    with plots.style():
        made = plots.scores({"task": rows, "another": rows})
        made.draw_without_rendering()
    for axes in made.axes:
        frame = axes.get_window_extent()
        for line in axes.lines:
            _, height = axes.transData.transform(line.get_xydata()).min(0)
            radius = line.get_markersize() * made.dpi / 72 / 2
            assert frame.y0 + radius < height < frame.y1 - radius


def test_of_many_groups_the_extremes_are_shown():
    many = {f"{number:03}": {"student": float((7 * number) % 100)} for number in range(100)}
    shown = [group["student"] for group in figures._few(many).values()]
    assert shown == [*map(float, range(12)), *map(float, range(88, 100))]
    assert figures._few(dict(list(many.items())[:24])) == dict(list(many.items())[:24])


@pytest.mark.parametrize(("losses", "shown"), [((0.0, 2.0), ["ASR"]), ((0.0, 0.0), [])])
def test_a_task_without_a_loss_is_left_out_of_what_the_teacher_listens_to(losses, shown):
    tasks = {
        task: {"loss": loss, "without": {"wavlm": {"all": 2 * loss, "layers": [loss, loss]}}}
        for task, loss in zip(("lid", "asr"), losses, strict=True)
    }
    found = figures.of_layers({"listening": {"tasks": tasks, "clips": 8, "interface_weights": [0.4, 0.6]}})
    made = {one.name: one.made for one in found}
    assert ("listening" in made) == bool(shown) and "interface-weights" in made
    if shown:
        assert [label.get_text() for label in made["listening"].axes[0].get_xticklabels()] == shown


def test_a_row_without_a_score_in_any_group_has_no_point():
    with plots.style():
        made = plots.groups({"speaker": {"anna": {"student": 40.0}, "bert": {"student": 50.0}}}, ROWS[-2:], "WER, %")
    points = {line.get_label(): line.get_xydata().tolist() for line in made.axes[0].lines}
    assert points == {"student": [[40.0, 0.0], [50.0, 1.0]]}


def test_figures_need_no_display():
    for path in Path(plots.__file__).parent.rglob("*.py"):
        assert "pyplot" not in path.read_text(), path


def test_rows_are_told_apart_by_colour_blind_readers():
    shades = plots.colours(ROWS)
    shown = {shades[name] for name in ("student", "teacher", "wavlm", "whisper")}
    assert len(shown) == 4 and shades["log-mel"] == shades["untrained"]
