"""The examples, each really run on a tiny student, in a process' own words: `python examples/<name>.py ...`."""

import ast
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from distill.finetune import start
from distill.tasks import TASKS
from students.downstream import save_downstream
from students.export import export

EXAMPLES = Path(__file__).parent.parent / "examples"
OURS = {"distill", "students", "teachers"}


@pytest.fixture
def play(monkeypatch, capsys, noise, tmp_path):
    """Runs an example with the given words and two recordings to name; what it prints."""
    for index, samples in enumerate((16_000, 12_345)):
        soundfile.write(tmp_path / f"{index}.wav", noise(samples).numpy(), 16_000)

    def run(name: str, model: Path, recordings: int = 1) -> str:
        words = [str(tmp_path / f"{index}.wav") for index in range(recordings)]
        monkeypatch.setattr(sys, "argv", [name, str(model), *words])
        capsys.readouterr()  # what making the student said: DeepSpeed greets whoever imports it first
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def student(build_tiny_student, tmp_path) -> Path:
    export(build_tiny_student().eval(), {}, tmp_path / "student", "# A card\n")
    return tmp_path / "student"


def tuned(student, task: str, vocabulary: tuple[str, ...], folder: Path) -> Path:
    prepared = replace(TASKS[task], vocabulary=vocabulary)  # pyright: ignore[reportArgumentType]
    save_downstream(start(student, prepared, 0), prepared, folder)
    return folder


def test_features(play, student):
    assert play("features", student) == "3 layers of 49 frames x 32 features\n"


def test_recognition(play, build_tiny_student, tmp_path):
    said = play("recognise", tuned(build_tiny_student(), "asr", tuple("ab "), tmp_path / "asr"))
    assert re.fullmatch(r"[ab ]*\n", said)


def test_classification(play, build_tiny_student, tmp_path):
    said = play("classify", tuned(build_tiny_student(), "er", ("calm", "flat"), tmp_path / "er"))
    found = dict(reversed(line.split()) for line in said.splitlines())
    assert found.keys() == {"calm", "flat"} and sum(map(float, found.values())) == pytest.approx(1, abs=0.02)


def test_speakers(play, student, noise):
    assert -1 <= float(play("speakers", student, recordings=2)) <= 1


def test_onnx(play, tmp_path, monkeypatch):
    """What onnxruntime itself computes is held elsewhere; this one must ask it rightly."""
    from students import deployment

    graph = tmp_path / "model.onnx"
    write_identity(graph)
    assert deployment.open_session(graph).get_inputs()[0].name == "input_values"
    assert play("onnx_features", graph) == "16000 frames x 1 features\n"


def write_identity(path: Path) -> None:
    """A graph with the names of ours that gives back its input, one feature per sample."""
    import onnx
    from onnx import TensorProto, helper

    values = helper.make_tensor_value_info("input_values", TensorProto.FLOAT, ["B", "N"])
    last = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["B", "N", 1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [2])
    node = helper.make_node("Unsqueeze", ["input_values", "axes"], ["last_hidden_state"])
    graph = helper.make_graph([node], "identity", [values], [last], [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_needs_nothing_of_ours_and_says_how_to_call_it(path):
    tree = ast.parse(path.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & OURS
    assert (
        sum(
            not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr)
            for node in ast.walk(tree)
            if isinstance(node, ast.stmt)
        )
        <= 10
    )
    assert f"python examples/{path.name}" in (ast.get_docstring(tree) or "")
