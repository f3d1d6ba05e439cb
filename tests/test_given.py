"""What a recipe names and nobody would hear or run is refused."""

from pathlib import Path

import pytest

from distill.limits import RecipeError
from distill.loading import load
from teachers import FAMILIES


@pytest.mark.parametrize(
    "word", ["folder.path=a", "hub.name=a/b", "columns.transcript=text", "splits.test=dev", "trials=list.txt"]
)
def test_what_says_something_of_another_corpus_is_refused_of_the_embedded_one(word):
    """Recordings that are named and not heard would pass for those that were."""
    with pytest.raises(RecipeError, match=rf"data\.{word.partition('=')[0].split('.')[0]}.*; say which, data\.corpus="):
        load(["recipe=wavlm", f"data.{word}"], FAMILIES)
    assert load(["recipe=wavlm", f"data.{word}", "data.corpus=hub"], FAMILIES).data.corpus == "hub"


@pytest.mark.parametrize(("section", "value"), [("depth", 2), ("checkpoints", "/nowhere"), ("families", "wavlm")])
def test_an_upstream_that_is_none_is_refused_in_a_file_too(tmp_path, section, value):
    path = tmp_path / "mine.yaml"
    path.write_text(f"teacher: {{upstreams: [wavlm, whisper], {section}: {{wavml: {value}}}}}")
    with pytest.raises(RecipeError, match=rf"teacher\.{section}: there is no 'wavml'; did you mean 'wavlm'"):
        load([f"recipe={path}"], FAMILIES)
    path.write_text("teacher: {upstreams: [wavlm, whisper], depth: {whisper: 2}}")
    assert load([f"recipe={path}", "teacher.upstreams=[wavlm]"], FAMILIES).teacher.upstreams == ["wavlm"]


def test_a_checkpoint_may_lie_in_the_home_folder():
    checkpoints = load(["recipe=wavlm", "teacher.checkpoints.wavlm=~/mine"], FAMILIES).teacher.checkpoints
    assert checkpoints == {"wavlm": str(Path.home() / "mine")}
