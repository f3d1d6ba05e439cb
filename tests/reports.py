"""Runs with an evaluation of random values, and pages read back: what each number is said to be."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from distill.evidence import tables
from distill.evidence.comparison import overall, retention
from distill.files import write_json
from distill.loading import save
from distill.recipe import Recipe, Teacher
from distill.run import environment

ROWS = ("log-mel", "wavlm", "whisper", "teacher", "student", "untrained")
TASKS = {"asr": "wer", "sv": "eer", "er": "accuracy"}
SCALES = {"M": 1e6, "G": 1e9, "MB": 1e6}


def evaluation(seed: int = 0, rows=ROWS, intervals: bool = True) -> dict:
    """An evaluation.json of random values."""
    rng = np.random.default_rng(seed)
    found = {name: random_row(rng, name, intervals) for name in rows}
    if {"student", "teacher", "untrained"} <= found.keys():
        found["student"]["retention"] = retention(found)
        found["student"]["retention_interval"] = {"mean": [0.5, 0.75]}
    return {"rows": found, "machine": {"device": "CPU", "threads": 2}}


def random_row(rng: np.random.Generator, name: str, intervals: bool) -> dict:
    cells = {task: random_cell(rng, metric, name, intervals) for task, metric in TASKS.items()}
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


def random_cell(rng: np.random.Generator, metric: str, name: str, intervals: bool) -> dict:
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
