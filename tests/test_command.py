"""What the command asks for before it works."""

import runpy
from types import SimpleNamespace

import pytest
from miniature import ROOT
from spoken import make_clips

from distill.loading import load
from teachers import FAMILIES


@pytest.fixture(scope="module")
def command() -> SimpleNamespace:
    """The functions of distill.py."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "distill.py"), run_name="command"))


def clips(speakers: str):
    return make_clips(transcript=["a", "b", "c", "d"], speaker=list(speakers))


def test_labels_are_asked_for_by_the_key_that_wants_them(command):
    """As in README: a folder without styles, its student published afterwards."""
    corpora = {"data": {"train": clips("aabb"), "validation": clips("cccc"), "test": clips("ddee")}}

    def demand(*given: str) -> None:
        recipe = load(["recipe=wavlm", "stages=[publish]", "publish.dry_run=true", *given], FAMILIES)
        command.demand_all_labels(recipe, recipe.stages, corpora)

    with pytest.raises(
        ValueError, match=r"^finetune\.tasks=\['asr', 'er'\]: er needs .*'style'.*\n.* finetune\.tasks=\["
    ):
        demand("fit.tasks=[asr,sv]", "evaluate.tasks=[asr,sv]")
    demand("finetune.tasks=[asr]")
    demand("finetune.tasks=[asr,sv]", "student.architecture=wavlm")  # of one speaker to validate on nothing is asked
    with pytest.raises(ValueError, match=r"^evaluate\.tasks=\['sv'\]: sv: the validation split has 1 speakers"):
        demand("stages=[evaluate,publish]", "finetune.tasks=[asr]", "evaluate.tasks=[sv]")


def test_no_labels_and_no_corpus_are_asked_for_a_task_of_no_stock_model(command):
    def heard(*given: str) -> list[str]:
        return command.heard(load(["recipe=wavlm", "evaluate.tasks=[asr]", *given], FAMILIES), ["publish"])

    assert heard("finetune.tasks=[sv,er]") == ["asr", "er"], "no x-vectors on HuBERT"
    assert heard("finetune.tasks=[sv,er]", "student.architecture=wavlm") == ["asr", "sv", "er"]
