"""Ready-made students: as large as they say, and chosen where the recipe is."""

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from distill.features import parameters
from distill.limits import RecipeError
from distill.loading import RECIPES, load, menu, save, summary
from distill.recipe import Recipe
from students import make_student
from teachers import FAMILIES

PRESETS = menu(RECIPES / "students")


def recipe(*words: str) -> Recipe:
    return load(["recipe=wavlm+whisper", *words], FAMILIES)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("scale", ["mini", "base"])
def test_a_preset_is_as_large_as_it_says(name, scale):
    with FakeTensorMode():
        count = parameters(make_student(recipe(f"scale={scale}", f"student.preset={name}").student, 0))
    assert summary(PRESETS[name]).startswith(f"{count / 1e6:.1f} M parameters")
    assert count / 1e6 == pytest.approx(float(name.removesuffix("m")), rel=0.1), "as its name says"


def test_there_is_one_of_every_size():
    assert set(PRESETS) == {"5m", "12m", "25m", "50m", "90m"}


def test_a_preset_wins_over_the_scale_and_loses_to_what_is_given():
    sized = recipe("student.preset=12m", "student.layers=5").student
    assert (sized.layers, sized.width, sized.preset) == (5, 256, "12m")
    assert recipe("scale=base", "student.preset=12m").student.width == 256


def test_a_run_with_a_preset_can_be_run_again_and_given_another(tmp_path):
    first = recipe("student.preset=12m", "student.layers=5")
    save(first, tmp_path / "recipe.yaml")
    assert load([f"recipe={tmp_path / 'recipe.yaml'}"], FAMILIES) == first
    other = load([f"recipe={tmp_path / 'recipe.yaml'}", "student.preset=25m"], FAMILIES)
    assert other.student == recipe("student.preset=25m").student


def test_an_unknown_preset_is_named_with_the_others():
    with pytest.raises(
        RecipeError, match=r"there is no '26m'; did you mean '25m'\?\nthere are: 12m, 25m, 50m, 5m, 90m"
    ):
        recipe("student.preset=26m")
