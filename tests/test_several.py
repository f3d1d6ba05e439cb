"""Several corpora in one run: each task hears its own, once, and every score says of which corpus it is."""

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from miniature import evaluation
from replicas import iemocap, trials, voxceleb1
from spoken import Levels, speak

from distill import evaluation as stage
from distill.data import corpora
from distill.data.clips import Clips
from distill.data.corpora import load_corpora, load_splits, speaking_of
from distill.evaluation import evaluate_rows, table
from distill.evidence.tables import score_table, standing
from distill.loading import changed, load, read_saved, save
from distill.protocol import Evaluate
from distill.recipe import Recipe, RecipeError
from distill.tasks import demand_labels
from teachers import FAMILIES

CPU = torch.device("cpu")
SETTINGS = Evaluate(
    tasks=["lid", "sv", "er"],
    corpora={"sv": "voices", "er": "voices"},
    learning_rates=[1e-2],
    seeds=[0],
    steps={"sv": 3, "er": 3, "lid": 3},
)


@pytest.fixture(scope="module")
def heard() -> dict[str, dict[str, Clips]]:
    return {"data": splits(0), "voices": splits(10)}


def splits(seed: int) -> dict[str, Clips]:
    sizes = {"train": 24, "validation": 12, "test": 18}
    return {part: speak(size, seed + number) for number, (part, size) in enumerate(sizes.items())}


def evaluate(rows: dict, heard: Mapping, settings: Evaluate, folder) -> dict:
    return evaluate_rows(rows, heard, settings, folder, CPU, say=lambda _: None)


def test_each_task_is_scored_on_its_own_corpus_as_if_it_were_the_only_one(heard, tmp_path):
    found = evaluate({"row": Levels()}, heard, SETTINGS, tmp_path)["rows"]["row"]["tasks"]
    assert list(found) == ["lid", "sv", "er"]
    for task, corpus in (("lid", "data"), ("sv", "voices"), ("er", "voices")):
        with np.load(tmp_path / f"row.{task}.npz") as file:
            assert set(file["ids"].tolist()) <= set(heard[corpus]["test"].ids)
        alone = replace(SETTINGS, tasks=[task], corpora={})
        rows = evaluate({"row": Levels()}, {"data": heard[corpus]}, alone, tmp_path / task)["rows"]
        assert list(rows["row"]["tasks"]) == [task]
        for name in ("metric", "value", "seeds", "learning_rate"):  # the score, not its intervals
            assert rows["row"]["tasks"][task][name] == found[task][name]


def test_a_corpus_is_heard_once_for_all_its_tasks_and_one_is_kept_at_a_time(heard, tmp_path, monkeypatch):
    found, hear = [], stage.hear_splits

    def watched(rows, splits, tasks, *given):
        found.append((splits, tasks, len(list(tmp_path.glob(".frames-*")))))
        return hear(rows, splits, tasks, *given)

    monkeypatch.setattr(stage, "hear_splits", watched)
    evaluate({"row": Levels()}, heard, replace(SETTINGS, cache="disk"), tmp_path)
    assert found == [(heard["data"], ["lid"], 1), (heard["voices"], ["sv", "er"], 1)]
    assert not list(tmp_path.glob(".frames-*"))


def test_a_killed_evaluation_hears_only_the_corpora_of_what_is_missing(heard, tmp_path):
    whole = evaluate({"row": Levels()}, heard, SETTINGS, tmp_path)
    (tmp_path / "row.lid.json").unlink()
    encoder, voices = Levels(), {part: None for part in heard["voices"]}
    again = evaluate({"row": encoder}, heard | {"voices": voices}, SETTINGS, tmp_path)
    assert again["rows"]["row"]["tasks"] == whole["rows"]["row"]["tasks"]
    assert 0 < encoder.heard <= 2 * sum(len(clips) for clips in heard["data"].values())


def test_a_cell_is_old_when_its_own_task_hears_another_corpus(heard, tmp_path):
    evaluate({"row": Levels()}, heard, SETTINGS, tmp_path)
    encoder = Levels()
    both = heard | {"other": splits(20)}
    evaluate({"row": encoder}, both, replace(SETTINGS, corpora={"sv": "voices", "er": "other"}), tmp_path)
    with np.load(tmp_path / "row.er.npz") as file:
        assert set(file["ids"].tolist()) <= set(both["other"]["test"].ids)
    with np.load(tmp_path / "row.sv.npz") as file:
        assert set(file["ids"].tolist()) <= set(heard["voices"]["test"].ids)
    assert encoder.heard <= 2 * sum(len(clips) for clips in both["other"].values())


def recipe(*words: str) -> Recipe:
    return load(["recipe=wavlm", *words], FAMILIES)


def test_a_corpus_is_called_as_the_published_one_or_else_is_a_folder(tmp_path):
    made = recipe(
        "corpora.voxceleb1.folder.path=/vox",
        "corpora.mine.columns.style=mood",
        "corpora.clean={corpus: librispeech-100, bad_share: 0.2}",
        "evaluate.corpora={sv: voxceleb1, er: mine}",
    )
    assert {name: data.corpus for name, data in made.corpora.items()} == {
        "voxceleb1": "voxceleb1",
        "mine": "folder",
        "clean": "librispeech-100",
    }
    assert made.corpora["voxceleb1"].folder.path == "/vox" and made.corpora["clean"].bad_share == 0.2
    assert made.corpora["mine"].columns == {"style": "mood"} and made.data == recipe().data
    assert [made.corpus_of(task) for task in ("asr", "sv", "er")] == ["embedded", "voxceleb1", "mine"]
    save(made, tmp_path / "recipe.yaml")
    assert read_saved(tmp_path / "recipe.yaml") == made
    assert load([f"recipe={tmp_path}/recipe.yaml"], FAMILIES) == made
    assert changed(made, recipe()) == sorted(changed(made, recipe())) != []
    assert "corpora.voxceleb1.folder.path" in changed(made, recipe()) and "evaluate.corpora.sv" in changed(
        made, recipe()
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate.corpora.sv=vox"], r"evaluate\.corpora\.sv: there is no 'vox'\nthere are: data"),
        (["corpora.vox.fold=1", "evaluate.corpora.sv=voxx"], "did you mean 'vox'"),
        (["evaluate.corpora.vs=data"], r"evaluate\.corpora: there is no task 'vs'"),
        (["corpora.vox.fold=9"], r"corpora\.vox: corpora\.vox\.fold must be at least 1 and below 6, got 9"),
        (["corpora.vox.corpus=vocxeleb"], r"corpora\.vox\.corpus: there is no 'vocxeleb'; did you mean 'voxceleb1'"),
        (["corpora.data.fold=2"], r"corpora\.data: data is the corpus of fit and distill; give a further one another"),
        (["corpora.vox=3"], r"corpora\.vox is a section: corpora\.vox\.corpus="),
        (["corpora.vox.flod=2"], r"unknown key 'corpora\.vox\.flod'; did you mean 'fold'"),
    ],
)
def test_a_corpus_that_cannot_be_is_refused_by_its_name(words, message):
    with pytest.raises(ValueError, match=message):
        recipe(*words)


def test_only_corpora_that_are_heard_are_loaded(monkeypatch):
    monkeypatch.setattr(corpora, "load_splits", lambda data, say: say("12 clips") or data.corpus)
    words = ["corpora.voxceleb1.fold=1", "corpora.iemocap.fold=2", "evaluate.corpora={sv: voxceleb1, er: iemocap}"]
    made, said = recipe(*words), []
    assert load_corpora(made, [], said.append) == {"data": "embedded"}
    assert load_corpora(made, ["asr", "er"], said.append) == {"data": "embedded", "iemocap": "iemocap"}
    assert said == ["12 clips", "12 clips", "iemocap: 12 clips"]


def test_what_is_wrong_with_a_corpus_is_said_of_its_own_keys():
    made = recipe("corpora.vox.corpus=voxceleb1")
    wanted = r"^corpora\.vox: corpora\.vox\.corpus=voxceleb1 wants corpora\.vox\.folder\.path="
    with pytest.raises(RecipeError, match=wanted), speaking_of("vox"):
        load_splits(made.corpora["vox"])
    for corpus, said in (
        ("data", r"^see metadata\.csv, data\.csv and data\.fold$"),
        ("x", r"^corpora\.x: see metadata\.csv, data\.csv and corpora\.x\.fold$"),
    ):
        with pytest.raises(ValueError, match=said), speaking_of(corpus):
            raise ValueError("see metadata.csv, data.csv and data.fold")
    unlabelled = Clips(speak(3, 0).dataset.remove_columns("style"))
    wanted = r"^corpora\.x: er needs the column 'style'; .*\n.* corpora\.x\.columns\.style=<column>"
    with pytest.raises(RecipeError, match=wanted), speaking_of("x"):
        demand_labels(["er"], {"train": unlabelled})


def scored(corpora_: Mapping[str, str]) -> dict:
    cells = {
        task: {"metric": "eer", "lower_is_better": True, "value": 1.0, "seeds": [1.0], "corpus": corpus}
        for task, corpus in corpora_.items()
    }
    return {"rows": {"student": {"tasks": cells, "parameters": 1, "macs": 1.0, "real_time_factor": 1.0}}}


def test_tables_name_the_corpora_where_there_are_several():
    several, one = scored({"asr": "librispeech", "sv": "voxceleb1"}), scored({"asr": "embedded", "sv": "embedded"})
    assert table(several).splitlines()[1].split() == ["of", "librispeech", "voxceleb1"]
    assert len(table(one).splitlines()) == len(table(several).splitlines()) - 1
    first, *others = score_table(several, standing(several)).rows
    assert [(cell.text, cell.source) for cell in first[:3]] == [
        ("of", ""),
        ("librispeech", "rows/student/tasks/asr/corpus"),
        ("voxceleb1", "rows/student/tasks/sv/corpus"),
    ]
    assert len(others) == 1 == len(score_table(one, standing(one)).rows)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_one_command_scores_three_corpora(miniature, tmp_path):
    words = miniature.words(
        tmp_path,
        f"corpora.voxceleb1.folder.path={voxceleb1(tmp_path / 'vox')}",
        f"corpora.voxceleb1.trials={trials(tmp_path / 'trials.txt')}",
        "corpora.voxceleb1.validation_share=0.5",
        f"corpora.iemocap.folder.path={iemocap(tmp_path / 'iemocap')}",
        "evaluate.corpora={sv: voxceleb1, er: iemocap}",
        "evaluate.tasks=[asr,sv,er]",
        "evaluate.rows=[student,untrained]",
        "fit.tasks=[asr]",
        "fit.steps=1",
        "distill.steps=1",
    )
    said = miniature.run(words)
    assert "voxceleb1: test: 3 clips of 2 speakers" in said and "iemocap: train: 16 clips" in said
    cells = evaluation(tmp_path / "run")["rows"]["student"]["tasks"]
    assert {task: cell["corpus"] for task, cell in cells.items()} == {
        "asr": "embedded",
        "sv": "voxceleb1",
        "er": "iemocap",
    }
    assert cells["sv"]["clips"]["test"] == 3 and cells["er"]["clips"]["test"] == 4  # a class has one clip
    groups = json.loads((tmp_path / "run" / "analysis.json").read_text())["errors"]
    assert list(groups) == ["asr", "sv", "er"] and "speaker" in groups["er"]
    assert "sv: voxceleb1; er: iemocap".upper() in (tmp_path / "run" / "report.md").read_text().upper()
