"""The report: every number stands in evaluation.json, what is missing is left out, nothing is fetched."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from reports import ROWS, TASKS, Page, analysis, evaluation, facts_of, markdown_tables, run_folder, untraced

from distill.data.settings import Data
from distill.recipe import Recipe, RecipeError, Report, Teacher
from distill.report import write_comparison, write_report
from distill.run import Run, newer


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
    assert not Run(asked, place.folder).finished("evaluate")  # whisper is a row there, but not known to be that one
    asked = replace(place.recipe, evaluate=replace(place.recipe.evaluate, students=["runs/hubert"]))
    os.utime(place.report)
    assert not Run(asked, place.folder).finished("evaluate") and not Run(asked, place.folder).finished("report")
