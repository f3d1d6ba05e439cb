"""The report: every number stands in evaluation.json, what is missing is left out, nothing is fetched."""

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill import figures, plots, tables
from distill.comparison import overall, retention
from distill.files import write_json
from distill.loading import save
from distill.recipe import Data, Recipe, RecipeError, Report, Teacher
from distill.report import write_comparison, write_report
from distill.run import Run, environment, newer

ROWS = ("log-mel", "wavlm", "whisper", "teacher", "student", "untrained")
TASKS = {"asr": "wer", "sv": "eer", "er": "accuracy"}
SCALES = {"M": 1e6, "G": 1e9, "MB": 1e6}


def evaluation(seed: int = 0, rows=ROWS, intervals: bool = True) -> dict:
    """An evaluation.json of random values."""
    rng = np.random.default_rng(seed)
    found = {name: _row(rng, name, intervals) for name in rows}
    if {"student", "teacher", "untrained"} <= found.keys():
        found["student"]["retention"] = retention(found)
        found["student"]["retention_interval"] = {"mean": [0.5, 0.75]}
    return {"rows": found, "machine": {"device": "CPU", "threads": 2}}


def _row(rng: np.random.Generator, name: str, intervals: bool) -> dict:
    cells = {task: _cell(rng, metric, name, intervals) for task, metric in TASKS.items()}
    drawn = {task: rng.uniform(20, 80, 50) if intervals else None for task in cells}
    return {
        "parameters": int(rng.integers(1e5, 4e9)),
        "macs": rng.uniform(1e6, 9e9),
        "real_time_factor": rng.uniform(1e-4, 1e-2),
        "real_time_factor_batch": rng.uniform(1e-5, 1e-3),
        "peak_memory": int(rng.integers(1e7, 1e9)),
        "seconds": {"hearing": rng.uniform(1, 9), "probes": rng.uniform(1, 9)},
        "tasks": cells,
        "score": overall({"tasks": cells}, drawn),
    }


def _cell(rng: np.random.Generator, metric: str, name: str, intervals: bool) -> dict:
    value = rng.uniform(10, 90)
    found = {
        "metric": metric,
        "lower_is_better": metric != "accuracy",
        "value": value,
        "seeds": [value - 1.234, value + 1.234],
        "seed_interval": [value - 9.5, value + 9.5],
        "interval": [value - 3.21, value + 3.45] if intervals else None,
        "learning_rate": 0.008,
        "validation": {"0.002": rng.uniform(10, 90), "0.008": rng.uniform(10, 90)},
    }
    difference = {"value": rng.normal(), "interval": [-1.25, 2.5], "p_value": 0.0321}
    return found if name == "student" else found | {"student_minus_row": difference}


def analysis() -> dict:
    """An analysis.json of random values."""
    rng = np.random.default_rng(1)
    layers = {name: rng.random((3, 5)).tolist() for name in ("wavlm", "teacher")}
    without = {name: {"all": 2.5, "layers": [1.0, 1.25]} for name in ("wavlm", "whisper")}
    curves = {
        name: rng.random(20).tolist() for name in ("loss", "explained_variance_1", "explained_variance_interface")
    }
    errors = {
        "length": {name: {"clips": 7, "rows": dict.fromkeys(ROWS, 40.0)} for name in ("up to 1 s", "above 1 s")},
        "speaker": {"anna": {"clips": 3, "rows": {"student": 12.0}}, "bert": {"clips": 4, "rows": {"teacher": 7.0}}},
    }
    return {
        "training": {
            "fit": {"seconds": 12.5, "curves": {"step": [1, 2], "loss_asr": [3.0, 2.0], "loss_er": [0.0, 0.0]}},
            "distill": {"seconds": 98.7, "curves": {"step": list(range(20))} | curves},
        },
        "listening": {
            "clips": 128,
            "tasks": {"asr": {"loss": 1.0, "without": without}, "er": {"loss": 2.0, "without": without}},
            "interface_weights": [0.25, 0.75],
        },
        "similarity": {"clips": 64, "frames": 1000, "layers": layers},
        "errors": {"asr": errors, "er": {}},
    }


def run_folder(folder: Path, found: dict, analysed: dict | None = None, recipe: Recipe | None = None) -> Path:
    folder.mkdir(parents=True)
    checkpoints = {"wavlm": "some/wavlm", "whisper": "some/whisper"}
    recipe = recipe or Recipe("wavlm+whisper", name=folder.name, teacher=Teacher(list(checkpoints), checkpoints))
    save(recipe, folder / "recipe.yaml")
    write_json(folder / "environment.json", environment())
    write_json(folder / "evaluation.json", found)
    if analysed is not None:
        write_json(folder / "analysis.json", analysed)
    return folder


class Page(HTMLParser):
    """A page's tables, the texts that name a source, its links and images."""

    def __init__(self, html: str):
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.sourced: list[tuple[str, str]] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.loose: list[str] = []  # in cells of tables, and under no source
        self.source, self.inside = "", False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href", "data", "action")]
        self.source = given.get("data-source", "")
        self.inside = self.inside or tag in ("td", "th")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        self.source = ""
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.source:
            self.sourced.append((self.source, data))
        if self.inside:
            self.tables[-1][-1][-1] += data
            if not self.source:
                self.loose.append(data)


def numbers(text: str) -> list[tuple[float, float]]:
    """Every number of a text in the unit it bears, and by how much it may be rounded."""
    found = []
    for sign, digits, unit in re.findall(r"([+-]?)(\d+(?:\.\d+)?)(?: (MB|M|G)\b)?", text):
        scale = SCALES.get(unit, 1.0)
        found.append((float(sign + digits) * scale, 0.5 * scale * 10 ** -len(digits.partition(".")[2])))
    return found


def flat(value) -> list[float]:
    if isinstance(value, dict):
        return [one for pair in value.items() for one in map(float, pair)]
    return [float(one) for one in value] if isinstance(value, list) else [float(value)]


def untraced(html: str, facts: dict) -> list[str]:
    """What a page says that is not what stands at the source it names."""
    wrong = []
    for source, text in Page(html).sourced:
        expected, said = flat(tables.look_up(facts, source)), numbers(text)
        close = [abs(a - b) <= slack * 1.001 for (a, slack), b in zip(said, expected, strict=False)]
        if len(said) != len(expected) or not all(close):
            wrong.append(f"{source}: {text} for {expected}")
    return wrong


def facts_of(run: Path) -> dict:
    """What the sources of a report name, read from its files by this test alone."""
    found = json.loads((run / "evaluation.json").read_text())
    rows = found["rows"].values()
    seconds = {part: sum(row["seconds"][part] for row in rows) for part in ("hearing", "probes")}
    return found | {"seconds": seconds, "analysis": json.loads((run / "analysis.json").read_text())}


def markdown_tables(text: str) -> list[list[list[str]]]:
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [
        [
            [cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in block.splitlines()
            if "---" not in line
        ]
        for block in blocks
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = run_folder(tmp_path_factory.mktemp("runs") / "some-run", evaluation(), analysis())
    write_report(folder)
    return folder


def test_every_number_stands_in_evaluation_json(run):
    html = (run / "report.html").read_text()
    assert untraced(html, facts_of(run)) == []
    page = Page(html)
    assert not [text for text in page.loose if re.search(r"\d", text) and "95" not in text], "a number with no source"
    sources = {source for source, _ in page.sourced}
    for name in ROWS:
        at = f"rows/{name}"
        assert {f"{at}/{key}" for key in ("parameters", "macs", "real_time_factor", "peak_memory")} <= sources
        for task in TASKS:
            wanted = {"value", "interval", "learning_rate", "validation", "seeds", "seed_interval"}
            assert {f"{at}/tasks/{task}/{key}" for key in wanted} <= sources
            if name != "student":
                assert f"{at}/tasks/{task}/student_minus_row/p_value" in sources


def test_every_number_stands_under_its_name(run):
    page = Page((run / "report.html").read_text())
    times, scores, costs, differences, sweep = (table[0] for table in page.tables)
    assert scores == ["row", "ASR WER ↓", "SV EER ↓", "ER accuracy ↑", "mean ↑", "retention ↑"]
    assert costs == ["row", "parameters", "MACs / s", "RTF, one clip", "RTF, full batch", "peak memory"]
    assert differences == ["student minus", "ASR WER", "p", "SV EER", "p", "ER accuracy", "p"]
    found = [source.removeprefix("rows/wavlm/") for source, _ in page.sourced if source.startswith("rows/wavlm/")]
    shown = [f"tasks/{task}/{key}" for task in TASKS for key in ("value", "interval")]
    shown += ["score/value", "score/interval"]
    shown += ["parameters", "macs", "real_time_factor", "real_time_factor_batch", "peak_memory"]
    parts = ("student_minus_row/value", "student_minus_row/interval", "student_minus_row/p_value")
    shown += [f"tasks/{task}/{key}" for task in TASKS for key in parts]
    parts = ("validation", "learning_rate", "seeds", "seed_interval")
    assert found == shown + [f"tasks/{task}/{key}" for task in TASKS for key in parts]
    assert [line[0] for line in page.tables[1][1:]] == list(ROWS)
    assert times == ["stage", "time"] and sweep[2:4] == ["validation at each rate", "chosen"]


def test_a_page_that_parts_from_evaluation_json_is_found_out(run):
    html, facts = (run / "report.html").read_text(), facts_of(run)
    facts["rows"]["student"]["tasks"]["asr"]["value"] += 0.11
    facts["rows"]["wavlm"]["parameters"] *= 1.2
    assert {line.split(":")[0] for line in untraced(html, facts)} == {
        "rows/student/tasks/asr/value",
        "rows/wavlm/parameters",
    }


def test_the_markdown_has_the_tables_of_the_page(run):
    page = Page((run / "report.html").read_text())
    plain = [[[re.sub(r"[()\s]+", " ", cell).strip() for cell in line] for line in table] for table in page.tables]
    text = (run / "report.md").read_text()
    same = [[[re.sub(r"[()\s]+", " ", cell).strip() for cell in line] for line in t] for t in markdown_tables(text)]
    assert same == plain and len(plain) == 5


def test_the_page_needs_nothing_but_itself(run):
    html = (run / "report.html").read_text()
    page = Page(html)
    assert not page.tags & {"script", "link", "iframe", "object"} and "url(" not in html and "@import" not in html
    for address in page.addresses:
        assert address.startswith("data:image/svg+xml;base64,") or (run / address).exists(), address
    assert 'name="viewport"' in html and "@media print" in html and 'lang="en"' in html
    assert len(html) < 2_000_000


def test_every_image_is_there_and_has_words(run):
    html, text = (run / "report.html").read_text(), (run / "report.md").read_text()
    images = re.findall(r"!\[(.+)\]\((report/.+\.png)\)", text)
    assert {Path(path).name for _, path in images} == {path.name for path in (run / "report").iterdir()}
    for _, path in images:
        with Image.open(run / path) as image:
            image.verify()
    assert len(images) == html.count("<img ") == len(re.findall(r'<img [^>]*alt="\w[^"]+"', html))
    names = {Path(path).stem for _, path in images}
    assert {"pareto-parameters", "pareto-time", "explained-variance", "listening", "errors-asr"} <= names
    assert {"similarity-wavlm", "similarity-teacher", "interface-weights"} <= names and "errors-er" not in names


def test_what_is_published_stands_with_its_size_and_its_score(tmp_path):
    found = evaluation()
    assert "file" not in tables.cost_table(found, tables.standing(found)).head
    found["rows"]["student"]["bytes"], found["rows"]["onnx-int8"] = 2_510_000, _row(np.random.default_rng(2), "x", True)
    found["rows"]["onnx-int8"]["bytes"] = 1_400_000
    found["finetuned"] = {
        "asr": {
            "model": "HubertForCTC",
            "parameters": 630_000,
            "metric": "wer",
            "lower_is_better": True,
            "value": 56.14,
        }
    }
    folder = run_folder(tmp_path / "runs" / "published", found, analysis())
    write_report(folder)
    html, markdown = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert untraced(html, facts_of(folder)) == []
    for words in ("HubertForCTC", "ASR WER ↓", "56.1", "1.40 MB", "2.51 MB"):
        assert words in html and words in markdown


def test_what_is_missing_is_left_out(tmp_path):
    found = evaluation(intervals=False)
    del found["rows"]["student"], found["rows"]["wavlm"]["tasks"]["sv"], found["machine"]
    for row in found["rows"].values():
        for key in ("score", "peak_memory", "seconds", "real_time_factor_batch"):
            del row[key]
        for cell in row["tasks"].values():
            cell.pop("student_minus_row")
            cell["seed_interval"] = None
    folder = run_folder(tmp_path / "runs" / "old", found)
    write_report(folder)
    html = (folder / "report.html").read_text()
    assert untraced(html, found) == [] and "Is the student different" not in html
    assert "Training" not in html and "None" not in html and "nan" not in html
    assert {path.stem for path in (folder / "report").iterdir()} == {"scores"}
    lines = {line[0]: line for line in Page(html).tables[0]}
    assert lines["wavlm"][2] == "" and lines["teacher"][2] != ""


def test_writing_again_gives_the_same_and_keeps_no_old_image(run):
    before = (run / "report.html").read_bytes()
    (run / "report" / "stale.png").write_bytes(b"")
    write_report(run)
    assert (run / "report.html").read_bytes() == before and not (run / "report" / "stale.png").exists()


def test_several_runs_are_compared(tmp_path):
    recipe = Recipe("wavlm+whisper", teacher=Teacher(["wavlm"], {"wavlm": "a"}))
    other = replace(recipe, seed=3, data=replace(Data(), embedded=replace(Data().embedded, seed=1)))
    runs = [
        run_folder(tmp_path / "runs" / "one", evaluation(1), recipe=recipe),
        run_folder(tmp_path / "runs" / "two", evaluation(2, rows=("student", "untrained")), recipe=other),
    ]
    write_comparison(runs, tmp_path / "runs" / "one")
    html = (tmp_path / "runs" / "one" / "comparison.html").read_text()
    facts = {run.name: json.loads((run / "evaluation.json").read_text()) for run in runs}
    assert untraced(html, facts) == []
    assert [line[0] for line in Page(html).tables[0]] == ["row", "one", "one, teacher", "two"]
    assert "not measured alike: they differ in data.embedded.seed" in html
    assert "differs from the first in data.embedded.seed, seed" in html
    assert {"./report.html", "../two/report.html"} <= set(Page(html).addresses)
    assert (tmp_path / "runs" / "one" / "comparison" / "pareto-time.png").exists()


def test_a_run_without_evaluation_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere has no evaluation.json; evaluate it first"):
        write_comparison([tmp_path / "nowhere"], tmp_path)
    with pytest.raises(RecipeError, match="two runs of one name in run, run"):
        Report(runs=["a/run", "b/run"])


def test_a_report_is_finished_until_there_is_another_evaluation(tmp_path):
    place = Run(Recipe("wavlm+whisper", name="a"), run_folder(tmp_path / "a", evaluation()))
    assert place.finished("evaluate") and not place.finished("report")
    place.report.write_text("")
    os.utime(place.report, ns=(0, place.evaluation.stat().st_mtime_ns))
    assert place.finished("report") and newer(place.report, place.evaluation)
    os.utime(place.report, ns=(0, place.evaluation.stat().st_mtime_ns - 1))
    assert not place.finished("report")
    asked = replace(place.recipe, evaluate=replace(place.recipe.evaluate, students=["runs/whisper"]))
    assert Run(asked, place.folder).finished("evaluate")  # whisper is a row there
    asked = replace(place.recipe, evaluate=replace(place.recipe.evaluate, students=["runs/hubert"]))
    os.utime(place.report)
    assert not Run(asked, place.folder).finished("evaluate") and not Run(asked, place.folder).finished("report")


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (tables.count, 631_000, "0.63 M"),
        (tables.count, 0, "0"),
        (tables.count, 94_400_000, "94 M"),
        (tables.count, 1.2e9, "1.20 G"),
        (tables.small, 0.0044321, "0.0044"),
        (tables.small, 0.000231, "0.00023"),
        (tables.small, 1.26, "1.3"),
        (tables.small, 12.6, "13"),
        (tables.small, 0.5, "0.50"),
        (tables.small, 0, "0"),
        (tables.signed, -0.04, "+0.0"),
        (tables.megabytes, 65_443_936, "65 MB"),
    ],
)
def test_numbers_have_the_digits_that_tell_something(form, value, text):
    assert form(value) == text


def test_names_are_moved_apart_as_little_as_can_be():
    assert plots.spread([0.0, 10.0], 1.0) == [0.0, 10.0]
    assert plots.spread([5.0, 5.0], 2.0) == [4.0, 6.0]
    moved = plots.spread(sorted(np.random.default_rng(0).uniform(0, 10, 12)), 0.7)
    assert np.diff(moved).min() >= 0.7 - 1e-9
    assert plots.spread([], 1.0) == []


def test_of_many_groups_the_extremes_are_shown():
    many = {f"{number:03}": {"student": float((7 * number) % 100)} for number in range(100)}
    shown = [group["student"] for group in figures._few(many).values()]
    assert shown == [*map(float, range(12)), *map(float, range(88, 100))]
    assert figures._few(dict(list(many.items())[:24])) == dict(list(many.items())[:24])


def test_figures_need_no_display():
    for path in Path(plots.__file__).parent.rglob("*.py"):
        assert "pyplot" not in path.read_text(), path


def test_rows_are_told_apart_by_colour_blind_readers():
    shades = plots.colours(ROWS)
    shown = {shades[name] for name in ("student", "teacher", "wavlm", "whisper")}
    assert len(shown) == 4 and shades["log-mel"] == shades["untrained"]
