"""Where the values of a recipe come from, and what is said about a wrong one."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from distill.loading import RECIPES, changed, cost, load, menu, read_saved, save, text, usage
from distill.recipe import Recipe, RecipeError
from teachers import FAMILIES


def recipe(*words: str, folder: Path = RECIPES) -> Recipe:
    return load(words, FAMILIES, folder)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Recipes of our own, so that these tests do not depend on tuned numbers."""
    (tmp_path / "scales").mkdir()
    checkpoints = "teacher: {checkpoints: {hubert: h, wavlm: w, whisper: s}}"
    (tmp_path / "scales" / "mini.yaml").write_text(
        f"# small\n{checkpoints}\ndistill: {{steps: 10, clip: 0.1, warmup: 0.2}}"
    )
    (tmp_path / "scales" / "base.yaml").write_text(f"# large\n{checkpoints}\ndistill: {{steps: 99}}")
    (tmp_path / "hubert+whisper.yaml").write_text("# two\ndistill: {steps: 20, clip: 0.2}")
    return tmp_path


def test_command_line_over_recipe_over_scale_over_default(folder):
    made = recipe("recipe=hubert+whisper", "distill.steps=30", folder=folder).distill
    assert (made.steps, made.clip, made.warmup) == (30, 0.2, 0.2)
    assert made.weight_decay == Recipe("x").distill.weight_decay


def test_the_scale_is_chosen_on_the_command_line(folder):
    made = recipe("recipe=hubert", "scale=base", folder=folder)
    assert (made.distill.steps, made.scale, made.name) == (99, "base", "hubert-base")


def upstreams(path: Path) -> list[str]:
    return yaml.safe_load(path.read_text())["teacher"]["upstreams"]


@pytest.mark.parametrize("path", menu(RECIPES).values(), ids=str)
def test_a_recipe_is_called_as_its_upstreams_unless_it_names_further_corpora(path):
    assert path.stem == "+".join(upstreams(path)) or "corpora" in yaml.safe_load(path.read_text())


@pytest.mark.parametrize("name", menu(RECIPES))
@pytest.mark.parametrize("scale", menu(RECIPES / "scales"))
def test_every_recipe_loads_at_every_scale_that_its_upstreams_have(name, scale):
    families = upstreams(menu(RECIPES)[name])
    short = [family for family in families if scale not in FAMILIES[family].sizes]
    if short:
        with pytest.raises(RecipeError, match=f"scale={scale} has no checkpoint of {short[0]}"):
            recipe(f"recipe={name}", f"scale={scale}")
        return
    made = recipe(f"recipe={name}", f"scale={scale}")
    assert made.teacher.upstreams == families
    assert made.teacher.checkpoints == {family: FAMILIES[family].sizes[scale] for family in made.teacher.upstreams}


@pytest.mark.parametrize("path", menu(RECIPES).values(), ids=str)
def test_every_recipe_says_its_command_cost_and_expectation(path):
    command, cost, expected = path.read_text().splitlines()[1:4]
    assert command.startswith(f"# command: accelerate launch distill.py recipe={path.stem}")
    assert cost.startswith("# cost: ") and expected.startswith("# expected: ")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_recipe_of_its_own(family):
    assert family in menu(RECIPES)


@pytest.mark.parametrize("path", [*menu(RECIPES).values(), *menu(RECIPES / "scales").values()], ids=str)
def test_every_recipe_opens_with_what_it_is(path):
    assert path.read_text().startswith("# ")


def test_families_need_no_file_and_no_order():
    made = recipe("recipe=whisper+wavlm+hubert")
    assert made.recipe == "hubert+wavlm+whisper"
    assert made.teacher.upstreams == ["hubert", "wavlm", "whisper"]
    assert recipe("recipe=whisper+wavlm") == recipe("recipe=wavlm+whisper")


def test_a_checkpoint_is_a_size_of_its_family_or_a_name_or_a_folder():
    for said, meant in {"large": "microsoft/wavlm-large", "my/own": "my/own", "./folder": "./folder"}.items():
        assert recipe("recipe=wavlm", f"teacher.checkpoints.wavlm={said}").teacher.checkpoints == {"wavlm": meant}
    words = ("recipe=data2vec+whisper", "teacher.checkpoints.data2vec=x", "teacher.checkpoints.whisper=whisper-tiny.en")
    assert recipe(*words).teacher.checkpoints == {"data2vec": "x", "whisper": "openai/whisper-tiny.en"}


TWICE = ("recipe=wavlm", "teacher.upstreams=[wavlm,big]", "teacher.families.big=wavlm")


def test_a_family_may_come_twice_under_two_names(tmp_path):
    made = recipe(*TWICE, "teacher.checkpoints.big=large", "teacher.depth.big=9")
    assert made.teacher.upstreams == ["wavlm", "big"]
    assert made.teacher.checkpoints == {"wavlm": "teachers/mini/wavlm", "big": "microsoft/wavlm-large"}
    assert made.teacher.depth == {"big": 9}
    save(made, tmp_path / "recipe.yaml")
    assert load([f"recipe={tmp_path}/recipe.yaml"], FAMILIES) == made


def test_one_checkpoint_may_come_twice_to_two_depths():
    assert recipe(*TWICE, "teacher.depth.big=2").teacher.checkpoints["big"] == "teachers/mini/wavlm"
    with pytest.raises(RecipeError, match=r"wavlm and big are both teachers/mini/wavlm; give another teacher"):
        recipe(*TWICE)


def test_a_saved_recipe_runs_again(tmp_path):
    made = recipe("recipe=wavlm+whisper", "scale=base", "seed=3", "evaluate.tasks=[asr]", "name=mine")
    save(made, tmp_path / "recipe.yaml")
    assert load([f"recipe={tmp_path}/recipe.yaml"], FAMILIES) == made
    assert read_saved(tmp_path / "recipe.yaml") == made
    assert load([f"recipe={tmp_path}/recipe.yaml", "name=other"], FAMILIES) == replace(made, name="other")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_saved_recipe_keeps_its_scale(tmp_path):
    save(recipe("recipe=wavlm", "scale=base"), tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match="scale=base, scale=mini cannot change it"):
        load([f"recipe={tmp_path}/recipe.yaml", "scale=mini"], FAMILIES)


def test_a_file_of_ones_own_may_say_little(tmp_path):
    (tmp_path / "mine.yaml").write_text("teacher: {upstreams: [whisper]}\nscale: base")
    made = load([f"recipe={tmp_path}/mine.yaml"], FAMILIES)
    assert (made.recipe, made.name, made.teacher.upstreams) == ("mine", "mine-base", ["whisper"])


def test_dicts_and_lists_on_the_command_line():
    made = recipe(
        "recipe=wavlm",
        "teacher.checkpoints.wavlm=my/own",
        "student={layers: 2, width: 64}",
        "distill.layers=2",
        "distill.layer_weights=[1, 0.5]",
        "evaluate.steps.asr=7",
        "stages=[evaluate]",
    )
    assert made.teacher.checkpoints == {"wavlm": "my/own"}
    assert (made.student.layers, made.student.width) == (2, 64)
    assert made.distill.layer_weights == [1.0, 0.5]
    assert made.evaluate.steps["asr"] == 7
    assert set(made.evaluate.steps) > {"asr"}
    assert made.stages == ["evaluate"]


def test_what_is_made_from_a_finished_run_may_change():
    new = [
        "stages=[publish]",
        "publish.repo=me/student",
        "publish.private=true",
        "finetune.tasks=[]",
        "finetune.steps=7",
    ]
    assert changed(recipe("recipe=wavlm"), recipe("recipe=wavlm", *new)) == []
    assert recipe("recipe=wavlm").stages == ["fit", "distill", "evaluate", "report"], "publishing is asked for"


def test_only_what_changes_a_result_counts_as_changed():
    old = recipe("recipe=wavlm")
    new = recipe("recipe=wavlm", "distill.steps=3", "teacher.checkpoints.wavlm=x", "evaluate.steps.sv=1")
    assert changed(old, new) == ["distill.steps", "evaluate.steps.sv", "teacher.checkpoints.wavlm"]
    harmless = ("stages=[fit]", "runs=elsewhere", "name=n", "distill.save_every=7", "distill.log_every=7")
    assert changed(old, recipe("recipe=wavlm", *harmless)) == []
    places = ("distill.cache=x", "evaluate.cache=disk", "data.workers=2", "evaluate.rows=[student]", "report.runs=[x]")
    assert changed(old, recipe("recipe=wavlm", *places)) == []


def test_the_seed_of_a_student_is_the_recipes_unless_it_has_its_own():
    assert recipe("recipe=wavlm", "seed=3").student_seed() == 3
    assert recipe("recipe=wavlm", "seed=3", "distill.seed=0").student_seed() == 0


WRONG = {
    "recipe=": ["say which recipe", "recipe=wavlm+whisper"],
    "recipe=wavlm+wisper": ["unknown recipe", "'wisper'", "did you mean 'wavlm+whisper'?"],
    "recipe=wavlm+wavlm": ["names an upstream twice", "teacher.families.other=wavlm"],
    "teacher.upstreams=[wavlm,big]": ["there is no 'big'", "teacher.families.big=<family>"],
    "teacher.upstreams=[wavml]": ["there is no 'wavml'", "did you mean 'wavlm'?"],
    "teacher.upstreams=[wavlm,wavlm]": ["names an upstream twice", "teacher.families.other=wavlm"],
    "teacher.families.wavlm=hubrt": ["teacher.families.wavlm: there is no 'hubrt'; did you mean 'hubert'?"],
    "teacher.families.big=wavlm": ["teacher.families: there is no 'big'"],
    "teacher.depth.hubert=3": ["teacher.depth: there is no 'hubert'"],
    "teacher.depth.wavlm=1": ["gives a stack of 2 layers", "evaluate.interface=weighted_sum"],
    "teacher.depth.wavlm=0": ["teacher.depth.wavlm must be at least 1, got 0"],
    "teacher={upstreams: [student], families: {student: wavlm}}": ["'student' cannot name an upstream"],
    "teacher={upstreams: [a.b], families: {a: {b: wavlm}}}": ["teacher.families.a is one value"],
    "teacher.whisper_window=slow": ["teacher.whisper_window: there is no 'slow'", "full, fast"],
    "teacher.seamless_states=x": ["teacher.seamless_states: there is no 'x'", "conformer, adaptor"],
    "recipe=data2vec": [
        "scale=mini has no checkpoint of data2vec, only of wavlm, hubert, whisper",
        "scale=base or large",
    ],
    "recipe=no/such.yaml": ["cannot read no/such.yaml"],
    "scale=bass": ["there is no 'bass'", "did you mean 'base'?", "base, large, mini"],
    "distil.steps=3": ["unknown key 'distil.steps'", "did you mean 'distill'?", "keys: recipe, scale"],
    "distill.stepz=3": ["did you mean 'steps'?", "under distill: steps, batch_seconds"],
    "stages=[publish]": ["publish.repo=<user>/<name>", "publish.dry_run=true"],
    "publish.repo=student": ["publish.repo=student must be <user or organisation>/<name>"],
    "finetune.tasks=[ser]": ["finetune.tasks: there is no 'ser'"],
    "batch_seconds=3": ["did you mean fit.batch_seconds or distill.batch_seconds or finetune.batch_seconds?"],
    "distill.steps.x=3": ["distill.steps is one value"],
    "student=3": ["student is a section"],
    "distill.steps=many": ["distill.steps wants an int, got 'many'"],
    "distill.steps=1.5": ["wants an int, got 1.5"],
    "distill.steps=null": ["wants an int, got None"],
    "distill.clip=hard": ["wants a number, got 'hard'"],
    "student.conv_kernel=[1, x]": ["wants a list, each an int"],
    "stages=fit": ["stages wants a list", "got 'fit'"],
    "stages=[fit": ["cannot read the value", "stages=[a,b]"],
    "stages=[]": ["stages is empty"],
    "stages=[fit,destill]": ["there is no 'destill'", "did you mean 'distill'?"],
    "fit.tasks=[asr,sid]": ["fit.tasks: there is no 'sid'", "asr, sv, er, lid"],
    "evaluate.tasks=[sid]": ["evaluate.tasks", "'sid'"],
    "distill.loss=l2": ["distill.loss: there is no 'l2'", "l1_cosine"],
    "distill.steps=-1": ["distill.steps must be at least 0, got -1"],
    "distill.warmup=1": ["at least 0 and below 1, got 1"],
    "distill.warmup=nan": ["got nan"],
    "distill.clip=inf": ["got inf"],
    "fit.batch_seconds=0": ["fit.batch_seconds must be above 0, got 0"],
    "student.heads=5": ["must be a multiple of student.heads=5"],
    "student.conv_stride=[5]": ["student.conv_stride has 1 values and student.conv_kernel has 5"],
    "distill.layer_weights=[0,0,0,0]": ["distill.layer_weights are all 0", "give one of them above 0"],
    "distill.layer_weights=[1]": ["distill.layer_weights has 1 values and distill.layers is"],
    "distill.posteriors_weight=-1": ["distill.posteriors_weight must be at least 0"],
    "distill={posteriors_weight: 1, interface_weight: 0}": ["needs distill.interface_weight above 0, got 0"],
    "distill={posteriors_weight: 1, targets: codes}": ["distill.targets other than codes"],
    "distill={balance: gradient, targets: codes}": ["leave them out, or take other targets"],
    "distill={balance: gradient, supervise: fused}": ["choose distill.supervise=separate or both"],
    "distill.source_weights.walm=2": ["distill.source_weights: there is no 'walm'", "there are: fused, wavlm"],
    "distill.source_weights.wavlm=-1": ["distill.source_weights.wavlm must be at least 0, got -1"],
    "distill.source_weights.wavlm=nan": ["must be at least 0, got nan"],
    "distill.source_weights.wavlm=much": ["distill.source_weights.wavlm wants a number, got 'much'"],
    "teacher={upstreams: [fused, wavlm], families: {fused: wavlm}}": ["an upstream cannot be called fused"],
    "distill.noise_db=[20,0]": ["distill.noise_db=[20.0, 0.0] must rise"],
    "distill.reverb_share=2": ["distill.reverb_share=2 be 1 at most"],
    "distill.reverb_seconds=[0.6,0.1]": ["distill.reverb_seconds=[0.6, 0.1] must rise"],
    "distill.reverb_seconds=[0,0.1]": ["must be at least 0.01, got 0"],
    "distill.reverb_seconds=[1]": ["it needs 2"],
    "distill.layers=99": ["need as many student layers"],
    "student.initialise=whisper": ["student.initialise: there is no 'whisper'", "there are: wavlm"],
    "teacher.checkpoints.hubert=x": ["teacher.checkpoints: there is no 'hubert'"],
    "name=a/b": ["must be the name of one folder", "runs=<folder>"],
    "name=..": ["must be the name of one folder"],
    "name=${oc.env:HOME}": ["not looked up"],
    "steps": ["every argument is key=value"],
}


@pytest.mark.parametrize("word", WRONG)
def test_a_mistake_is_named_with_the_way_out_in_a_few_lines(word):
    words = [word] if word.startswith("recipe=") else ["recipe=wavlm", word]
    with pytest.raises((RecipeError, ValueError)) as caught:
        recipe(*words)
    for part in WRONG[word]:
        assert part in str(caught.value)
    assert str(caught.value).count("\n") <= 3


@pytest.mark.parametrize(
    "content", ["- a\n- b", "a: [", "distill: {stepz: 1}", "\x00", "distill: {steps: 1, steps: 2}"]
)
def test_a_mistake_in_a_file_names_the_file(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=str(path)):
        load([f"recipe={path}"], FAMILIES)


def test_usage_lists_what_there_is():
    said = usage(FAMILIES)
    for name in [*menu(RECIPES), *menu(RECIPES / "scales"), *FAMILIES, "distill.", "batch_seconds"]:
        assert name in said


def test_text_is_the_whole_recipe():
    assert "interface_weight" in text(recipe("recipe=wavlm"))


def test_a_cost_is_told_of_the_recipe_it_was_measured_with(tmp_path):
    (tmp_path / "scales").mkdir()
    (tmp_path / "scales/mini.yaml").write_text((RECIPES / "scales/mini.yaml").read_text())
    (tmp_path / "wavlm.yaml").write_text("# cost: 3 minutes\nteacher:\n  upstreams: [wavlm]\n")
    for words, told in ((["name=x", "fit.save_every=3"], "3 minutes"), (["fit.steps=3"], "")):
        recipe = load(["recipe=wavlm", *words], FAMILIES, tmp_path)
        assert cost(recipe, FAMILIES, tmp_path) == told
    assert cost(load(["recipe=hubert"], FAMILIES, tmp_path), FAMILIES, tmp_path) == ""


@pytest.mark.parametrize(("scale", "targets"), [("mini", "memory"), ("base", "online"), ("large", "online")])
def test_no_scale_keeps_more_targets_in_memory_than_machines_have(scale, targets):
    """Those of LibriSpeech at base would take 1.3 TB."""
    assert load(["recipe=wavlm+whisper", f"scale={scale}"], FAMILIES).distill.targets == targets
