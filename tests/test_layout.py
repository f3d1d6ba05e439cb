"""How the pieces may depend on each other, held for every module."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("distill", "teachers", "students")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").glob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> set[str]:
    """The top-level packages a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: import by the full name"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_point_down(path):
    """distill.py -> teachers, students -> distill; the siblings never meet."""
    own = path.relative_to(ROOT).parts[0]
    above = {"distill": {"teachers", "students"}, "teachers": {"students"}, "students": {"teachers"}}[own]
    assert not imported(path) & above


@pytest.mark.parametrize("path", [*MODULES, ROOT / "distill.py", *TESTS], ids=name)
def test_a_module_opens_with_one_sentence(path):
    said = ast.get_docstring(ast.parse(path.read_text()))
    assert said, "a module opens with one sentence saying what it holds"
    assert said.split("\n\n")[0].rstrip().endswith((".", ":")), "a sentence"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_pickle_from_outside_and_no_code_from_outside(path):
    """Weights come as safetensors; nothing names code, and nothing that was named is run."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            assert isinstance(node.value, ast.Constant) and node.value.value is False
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "__import__")
        if isinstance(node, ast.Import):
            assert "pickle" not in {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            assert {alias.name for alias in node.names} == {"UnpicklingError"}


def test_nothing_at_the_top_hides_a_library():
    """The folder of distill.py is first on sys.path."""
    taken = {"evaluate", "datasets", "tokenizers", "transformers", "accelerate", "deepspeed", "torch"}
    assert not taken & {path.stem for path in ROOT.iterdir()}


def test_every_package_is_listed():
    """setuptools cannot find them by itself beside distill.py."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES if path.name == "__init__.py"}
    assert found == set(settings["packages"])


def test_every_module_lies_in_a_package():
    for path in MODULES:
        bare = "metrics" in path.parts  # what `evaluate.load` reads is found by its folder
        assert bare or (path.parent / "__init__.py").exists(), name(path)


def test_every_dependency_is_pinned_and_within_its_range():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "name==version and nothing else"
    pins = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    for wanted in map(Requirement, project["dependencies"] + extras):
        if wanted.name == project["name"]:  # one extra that takes in another
            continue
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), wanted
