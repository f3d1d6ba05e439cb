"""Model cards: metadata the Hub takes, every number from evaluation.json, licences named and warned about."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hub_server import complaints

from distill.data.hub import Hub
from distill.data.settings import Data, Folder
from distill.limits import RecipeError
from distill.recipe import Publish, Recipe, Teacher
from students.card import Facts, finetuned_card, student_card
from students.hub import demand_publishable
from teachers.licences import COVERS, LICENCES, binding, licence

BASE = {"wavlm": "microsoft/wavlm-base-plus", "whisper": "openai/whisper-small"}
TASKS = {"asr": ("wer", True), "sv": ("eer", True), "er": ("accuracy", False), "lid": ("accuracy", False)}
ROWS = ("log-mel", "wavlm", "whisper", "teacher", "student", "untrained", "onnx", "onnx-int8")


@pytest.fixture
def facts() -> Facts:
    return Facts(
        recipe=Recipe("wavlm+whisper", teacher=Teacher(upstreams=list(BASE), checkpoints=BASE), data=Data()),
        architecture="HubertModel",
        parameters=626_208,
        layers=4,
        width=128,
        rate=50.0,
        group_norm=True,
        languages=["de", "en"],
        licences={"wavlm": "cc-by-sa-3.0", "whisper": "apache-2.0"},
        binding=["cc-by-sa-3.0"],
    )


@pytest.fixture
def result() -> dict:
    """An evaluation whose numbers are all different."""
    rows, value = {}, 11.017
    for name in ROWS:
        tasks = {}
        for task, (metric, lower) in TASKS.items():
            value += 1.137
            tasks[task] = {"metric": metric, "lower_is_better": lower, "value": value, "seeds": [value, value]}
        rows[name] = {"parameters": 626_208, "macs": 48e6, "real_time_factor": value / 1e4, "tasks": tasks}
    for name, size in (("student", 2_513_504), ("onnx", 3_021_341), ("onnx-int8", 1_398_033)):
        rows[name]["bytes"] = size
    rows["student"]["retention"] = {"asr": 0.7, "mean": 0.8203}
    cell = {"metric": "wer", "lower_is_better": True, "value": 33.335, "cer": 12.678, "clips": 480, "languages": ["en"]}
    cell |= {"model": "HubertForCTC", "parameters": 630_107, "labels": []}
    return {"rows": rows, "finetuned": {"asr": cell}}


def head(card: str) -> dict:
    return yaml.safe_load(card.split("---")[1])


def numbers(text: str) -> set[str]:
    """What looks measured: numbers with decimals, outside versions and names."""
    return set(re.findall(r"(?<![\w./-])\d+\.\d+(?![\w.-])", text))


def leaves(value) -> list[float]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [float(value)] if isinstance(value, int | float) else []


def traced(text: str, result: dict) -> bool:
    """Whether every number of a text is one of the result's, rounded; parameters are told in millions."""
    known = [*leaves(result), *(leaf / 1e6 for leaf in leaves(result))]
    for said in numbers(text):
        decimals = len(said.partition(".")[2])
        if not any(f"{round(value, decimals):.{decimals}f}" == said for value in known):
            return False
    return True


def test_the_hub_takes_the_metadata(facts, result):
    cards = [student_card(facts, "me/student"), student_card(facts, "me/student", result, {"asr": "me/student-asr"})]
    for card in [*cards, finetuned_card(facts, "me/student-asr", result, "asr", "me/student")]:
        assert complaints(card) == []
        assert card.endswith("\n") and "{{" not in card and "{%" not in card and "None" not in card


def test_the_metadata_says_where_it_comes_from(facts, result):
    data = head(student_card(facts, "me/student", result))
    assert data["base_model"] == list(BASE.values()) and data["base_model_relation"] == "finetune"
    assert data["license"] == "cc-by-sa-3.0" and data["language"] == ["de", "en"]
    assert data["pipeline_tag"] == "feature-extraction" and data["library_name"] == "transformers"
    assert {"speech", "distillation", "fusedistill", *BASE} == set(data["tags"])
    published = replace(facts, recipe=replace(facts.recipe, data=Data(corpus="librispeech")))
    assert head(student_card(published, "me/student", result))["datasets"] == ["openslr/librispeech_asr"]
    assert "datasets" not in data
    tuned = head(finetuned_card(facts, "me/student-asr", result, "asr", "me/student"))
    assert (
        tuned["language"] == ["en"]
        and tuned["base_model"] == ["me/student"]
        and tuned["pipeline_tag"] == "automatic-speech-recognition"
    )


def test_languages_are_codes_that_the_hub_takes(facts):
    card = student_card(
        replace(facts, languages=["EN", "English", "zh-CN", "zh_TW", "nld", "sr-Latn", ""]), "me/student"
    )
    assert head(card)["language"] == ["en", "nld", "sr", "zh"] and complaints(card) == []
    assert "language" not in head(student_card(replace(facts, languages=["English"]), "me/student"))


@pytest.mark.parametrize(
    ("data", "words", "datasets"),
    [
        (Data(corpus="hub", hub=Hub("me/my-dataset")), "Trained on me/my-dataset.", ["me/my-dataset"]),
        (Data(corpus="hub", hub=Hub("/home/me/mine")), "Trained on its maker's own recordings.", None),
        (Data(corpus="folder", folder=Folder("/home/me/mine")), "Trained on its maker's own recordings.", None),
        (Data(corpus="librispeech"), "Trained on librispeech.", ["openslr/librispeech_asr"]),
    ],
)
def test_what_it_was_trained_on_is_named(facts, result, data, words, datasets):
    told = replace(facts, recipe=replace(facts.recipe, data=data))
    card = student_card(told, "me/student", result)
    assert words in card and head(card).get("datasets") == datasets and complaints(card) == []
    assert "/home/me" not in card and "/home/me" not in finetuned_card(told, "me/x", result, "asr", "me/student")


def test_a_rehearsal_claims_no_upstream_and_is_not_published(facts):
    """A dry run shows what the folders would be; published upstreams taught nothing in it."""
    recipe = replace(facts.recipe, teacher=replace(facts.recipe.teacher, weights="random"))
    card = student_card(replace(facts, recipe=recipe), "me/student")
    assert "A rehearsal" in card and "base_model" not in head(card)
    assert "A rehearsal" not in student_card(facts, "me/student")
    demand_publishable(replace(recipe, stages=["publish"], publish=Publish(dry_run=True)))
    with pytest.raises(RecipeError, match=r"random is a rehearsal.*publish\.dry_run=true"):
        demand_publishable(replace(recipe, stages=["publish"], publish=Publish(repo="me/student")))


def test_the_model_index_is_what_was_measured_and_nothing_else(facts, result):
    (index,) = head(student_card(facts, "me/student", result))["model-index"]
    found = {one["dataset"]["config"]: one["metrics"] for one in index["results"]}
    assert {one["dataset"]["split"] for one in index["results"]} == {"test"}
    assert {m["name"] for metrics in found.values() for m in metrics} >= {"WER, percent", "EER, percent"}
    cells = result["rows"]["student"]["tasks"]
    assert {task: [(m["type"], m["value"]) for m in metrics] for task, metrics in found.items()} == {
        task: [(cell["metric"], round(cell["value"], 2))] for task, cell in cells.items()
    }
    assert "model-index" not in head(student_card(facts, "me/student"))


def test_every_number_is_of_the_evaluation(facts, result):
    for card in (
        student_card(facts, "me/student", result, {"asr": "me/student-asr"}),
        finetuned_card(facts, "me/student-asr", result, "asr", "me/student"),
    ):
        body = card.split("---", 2)[2].replace("CC BY-SA 3.0", "").replace("cc-by-sa-3.0", "")
        assert numbers(body) and traced(body, result)
        assert not traced(body + "\nWER 99.9\n", result)


def test_card_and_evaluation_cannot_part(facts, result):
    """Another evaluation, another card: each measured number moves its own."""
    before = student_card(facts, "me/student", result)
    assert "| 0.82 |" in before, "what the student keeps of its teacher"
    for task in TASKS:
        for row in ROWS:
            changed = json.loads(json.dumps(result))
            changed["rows"][row]["tasks"][task]["value"] = 77.7
            assert "77.7" in student_card(facts, "me/student", changed) and "77.7" not in before
    changed = json.loads(json.dumps(result))
    changed["finetuned"]["asr"]["value"] = 77.7
    assert "77.7" in finetuned_card(facts, "me/student-asr", changed, "asr", "me/student")


def test_a_card_needs_no_row_but_the_student(facts, result):
    del result["rows"]["student"]["retention"]
    alone = result | {"rows": {"student": result["rows"]["student"]}}
    card = student_card(facts, "me/student", alone)
    assert "| student |" in card and "| teacher |" not in card and complaints(card) == []


def test_folders_are_no_base_models(facts, tmp_path):
    shipped = Teacher(upstreams=["wavlm"], checkpoints={"wavlm": "teachers/mini/wavlm"})
    (tmp_path / "own").mkdir()
    for teacher in (shipped, replace(shipped, checkpoints={"wavlm": str(tmp_path / "own")})):
        card = student_card(replace(facts, recipe=replace(facts.recipe, teacher=teacher)), "me/student")
        assert "base_model" not in head(card) and "base_model_relation" not in head(card)
        assert complaints(card) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [("unknown", "unknown here"), ("cc-by-nc-4.0", "no commercial use"), ("cc-by-sa-3.0", "same licence")],
)
def test_the_strictest_licence_is_warned_about(facts, name, words):
    card = student_card(replace(facts, binding=[name]), "me/student")
    assert words in card and complaints(card) == []
    known = {"license": name} if name != "unknown" else {"license": "other", "license_name": "unknown"}
    assert {key: value for key, value in head(card).items() if key.startswith("license")} == known


def test_licences_of_which_none_covers_the_other_are_all_kept(facts):
    card = student_card(replace(facts, binding=["cc-by-nc-4.0", "cc-by-sa-3.0"]), "me/student")
    assert "all of them bind" in card and "no commercial use" in card and "pass on under the same licence" in card
    assert head(card)["license"] == "other" and head(card)["license_name"] == "cc-by-nc-4.0-and-cc-by-sa-3.0"
    assert complaints(card) == []
    card = student_card(replace(facts, binding=["cc-by-nc-4.0", "unknown"]), "me/student")
    assert "unknown here" in card and "no commercial use" in card and head(card)["license_name"] == "unknown"


def test_each_upstream_is_listed_with_its_licence(facts):
    card = student_card(facts, "me/student")
    assert "| wavlm | microsoft/wavlm-base-plus | cc-by-sa-3.0 |" in card
    assert "| whisper | openai/whisper-small | apache-2.0 |" in card


def test_onnx_is_told_of_where_it_lies(facts, result):
    assert "onnx/model_int8.onnx" in student_card(facts, "me/student", result, onnx=True)
    card = student_card(facts, "me/student", result)
    assert "onnx/model" not in card and "1.40" in card, "measured, not there"


def test_padding_is_warned_of_where_it_matters(facts):
    assert "one clip at a time" in student_card(facts, "me/student")
    assert "one clip at a time" not in student_card(replace(facts, group_norm=False), "me/student")


def test_licences_are_known_or_said_to_be_unknown(tmp_path, monkeypatch):
    assert licence("microsoft/wavlm-base-plus") == "cc-by-sa-3.0" and licence("openai/whisper-small") == "apache-2.0"
    assert licence("facebook/mms-300m") == licence("facebook/mms-1b") == "cc-by-nc-4.0"
    assert licence("someone/something") == "unknown" and licence(str(tmp_path)) == "unknown"
    assert licence(str(Path(__file__).parent.parent / "teachers" / "mini" / "wavlm")) == "apache-2.0"
    assert set(LICENCES.values()) <= COVERS.keys()
    monkeypatch.chdir(tmp_path)
    assert licence("teachers/mini/wavlm") == "apache-2.0", "as it is opened, wherever the command runs"


def test_what_binds_is_what_no_other_licence_covers():
    assert binding(["apache-2.0", "cc-by-sa-3.0", "mit"]) == ["cc-by-sa-3.0"]
    assert binding(["apache-2.0", "mit", "apache-2.0"]) == ["apache-2.0"]
    assert binding(["cc-by-nc-4.0", "cc-by-sa-3.0"]) == ["cc-by-nc-4.0", "cc-by-sa-3.0"], "neither covers"
    assert binding(["cc-by-nc-sa-4.0", "cc-by-nc-4.0"]) == ["cc-by-nc-sa-4.0"]
    assert binding(["cc-by-nc-sa-4.0", "cc-by-sa-3.0"]) == ["cc-by-nc-sa-4.0", "cc-by-sa-3.0"]
    assert binding(["unknown", "cc-by-nc-4.0", "mit"]) == ["cc-by-nc-4.0", "unknown"]
