"""What is published tells nothing of this machine's folders."""

from pathlib import Path

from distill.files import write_json
from distill.loading import load, save
from distill.places import unplaced
from distill.run import Run
from students.card import Facts
from students.hub import hub_folders
from teachers import FAMILIES

HOME = "/home/alice"
GIVEN = [
    "recipe=wavlm+whisper",
    "data.corpus=folder",
    f"data.folder.path={HOME}/my clips/",
    f"teacher.checkpoints.wavlm={HOME}/wavlm/step-9",
    f"teacher.checkpoints.whisper={HOME}/whisper/step-9",
    f"evaluate.students=[{HOME}/runs/a,{HOME}/runs/b]",
    "distill.cache=~alice/cache",
    "publish.onnx=false",
]


def test_paths_are_cut_to_their_last_part_and_all_else_stays():
    recipe = load(GIVEN, FAMILIES)
    cut = unplaced(recipe)
    assert cut.data.folder.path == "./my clips" and cut.distill.cache == "./cache"
    assert cut.evaluate.students == ["./a", "./b"]
    assert cut.teacher.checkpoints["wavlm"] == "./step-9", "the other one is called otherwise"
    assert len(set(cut.teacher.checkpoints.values())) == 2
    assert unplaced(cut) == cut
    plain = load(["recipe=wavlm+whisper", "data.corpus=hub", "data.hub.name=me/mine"], FAMILIES)
    assert unplaced(plain) == plain
    said = unplaced([f"{HOME}/distill.py", *GIVEN, "x='{a: /b/c, d: https://e.f/g}'"])
    assert said[:3] == ["./distill.py", *GIVEN[:2]] and said[-1] == "x='{a: ./c, d: https://e.f/g}'"
    assert "evaluate.students=[./a,./b]" in said and "alice" not in "".join(said)


def test_no_published_file_names_a_folder_of_this_machine(tmp_path):
    recipe = load([*GIVEN, f"runs={tmp_path}", "name=run"], FAMILIES)
    run = Run(recipe, tmp_path / "run")
    run.student.mkdir(parents=True)
    save(recipe, run.folder / "recipe.yaml")
    write_json(run.folder / "environment.json", {"command": [f"{HOME}/distill.py", *GIVEN]})
    cell = {"metric": "wer", "lower_is_better": True, "value": 7.0}
    row = {"parameters": 9, "macs": 9, "real_time_factor": 0.1, "tasks": {"asr": cell}}
    write_json(run.evaluation, {"rows": {"student": row}, "finetuned": {}})
    licences = dict.fromkeys(recipe.teacher.upstreams, "unknown")
    facts = Facts(recipe, "HubertModel", 9, 4, 8, 50.0, False, ["en"], licences, ["unknown"])
    (folder,) = hub_folders(run, facts, []).values()
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "recipe.yaml",
        "environment.json",
        "evaluation.json",
    }
    for path in folder.iterdir():
        assert "alice" not in path.read_text() and str(tmp_path) not in path.read_text(), path.name
    again = load([f"recipe={folder / 'recipe.yaml'}"], FAMILIES)
    assert again.data.folder.path == "./my clips" and Path(again.runs).name == tmp_path.name
