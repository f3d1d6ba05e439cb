"""Tables: numbers have the digits that tell something, and columns are there where something fills them."""

import numpy as np
import pytest
from reports import analysis, evaluation, facts_of, random_row, run_folder, untraced

from distill.evidence import tables
from distill.report import write_report
from distill.tasks import PROTOCOLS


def test_what_is_published_stands_with_its_size_and_its_score(tmp_path):
    found = evaluation()
    assert "file" not in tables.cost_table(found, tables.standing(found)).head
    found["rows"]["student"]["bytes"], found["rows"]["onnx-int8"] = (
        2_510_000,
        random_row(np.random.default_rng(2), "x", True),
    )
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
    for words in ("HubertForCTC", "56.1", "1.40 MB", "2.51 MB"):
        assert words in html and words in markdown
    assert [cell.text for cell in tables.ready_table(found).rows[0]] == ["HubertForCTC", "0.63 M", "ASR WER ↓", "56.1"]


@pytest.mark.parametrize("task", {**PROTOCOLS["light"], **PROTOCOLS["superb"]}.values(), ids=lambda task: task.name)
def test_a_heading_has_the_name_of_the_metric_that_the_field_writes(task):
    """An error rate is letters in capitals; only accuracy is a word."""
    metric = tables.heading(task.name, {"metric": task.metric, "lower_is_better": True}).split(" ")[1]
    assert metric == "accuracy" or metric.isupper() or metric == "minDCF"


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
