"""The whole command on a folder of recordings."""

from dataclasses import replace

import pytest
import torch
from miniature import Miniature, evaluation, journal, weights
from sounds import sound, talkers

from distill.loading import read_saved
from distill.recipe import Recipe, RecipeError
from distill.run import open_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve speakers with no splits and no language; one file is of 8 kHz, one is too long, one is broken."""
    folder = talkers(tmp_path_factory.mktemp("folder"), 12, clips=6)
    sound(folder / "audio" / "0005.wav", 1.0, 8_000)
    sound(folder / "audio" / "0006.wav", 5.0)
    (folder / "audio" / "0007.wav").write_bytes(b"no sound")
    return folder


def words(miniature: Miniature, runs, folder, *given: str) -> list[str]:
    tasks = ["fit.tasks=[asr,sv]", "evaluate.tasks=[asr,sv]", "data.longest=3", "data.bad_share=0.05"]
    corpus = ["data.corpus=folder", f"data.folder.path={folder}", "data.test_share=0.2", "data.validation_share=0.2"]
    return miniature.words(runs, *corpus, *tasks, *given)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_one_command_takes_a_folder_to_a_table_whoever_decodes(miniature, folder, tmp_path):
    said = miniature.run(words(miniature, tmp_path / "alone", folder, "data.workers=0"))
    for line in (
        "left out 1 of 72 files (1.39%)",
        "audio/0007.wav: cannot be read as audio",
        "left out 1 of 72 clips, longer than data.longest=3 s",
        "no test split: 2 of 12 training speakers",
        "asr wer-",
    ):
        assert line in said
    table = evaluation(tmp_path / "alone" / "run")["rows"]
    assert set(table["student"]["tasks"]) == {"asr", "sv"}
    miniature.run(words(miniature, tmp_path / "two", folder, "data.workers=2", "stages=[fit,distill]"))
    alone, two = tmp_path / "alone" / "run", tmp_path / "two" / "run"
    assert journal(alone) == journal(two)
    mine, theirs = weights(alone), weights(two)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_run_that_made_nothing_leaves_its_place_to_another_recipe(tmp_path):
    first = Recipe("wavlm+whisper", name="run", runs=str(tmp_path))
    place = open_run(first)
    open_run(replace(first, seed=1))
    assert read_saved(place.folder / "recipe.yaml").seed == 1
    (place.folder / "tensorboard").mkdir()
    with pytest.raises(RecipeError, match="holds a run of another recipe; they differ in seed"):
        open_run(first)


@pytest.mark.parametrize(
    "given",
    [["fit.tasks=[asr,er]"], ["stages=[fit,distill,evaluate,publish]", "publish.dry_run=true", "finetune.tasks=[er]"]],
)
def test_a_corpus_that_cannot_serve_the_tasks_ends_before_anything_is_trained(miniature, folder, tmp_path, given):
    job = miniature.start([*words(miniature, tmp_path, folder), *given])
    assert job.code() == 1
    assert "er needs the column 'style'" in job.said() and "Traceback" not in job.said()
    assert not (tmp_path / "run" / "teacher").exists()
