"""README's lines of Python do what the command does."""

import re
from pathlib import Path

from miniature import ROOT, Miniature

from distill.files import read_json


def lines() -> str:
    """The code of README's section."""
    section = (ROOT / "README.md").read_text().split("## From Python\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return code


def test_the_lines_give_the_student_and_the_scores_of_the_command(launched, miniature: Miniature, tmp_path: Path):
    """The same weights and the same scores, of the two rows that they have in common."""
    code, changed = re.subn(r'\["recipe=.*?"\]', repr(miniature.words(tmp_path)), lines())
    assert changed == 1
    said = miniature.python(["-c", code])
    theirs, ours = launched[0], tmp_path / "run"
    for kept in ("model.safetensors", "heads.safetensors", "config.json"):
        assert (ours / "student" / kept).read_bytes() == (theirs / "student" / kept).read_bytes()
    scores, all_rows = (read_json(run / "evaluation.json")["rows"] for run in (ours, theirs))
    assert list(scores) == ["teacher", "student"]
    for row, found in scores.items():
        assert {task: cell["seeds"] for task, cell in found["tasks"].items()} == {
            task: cell["seeds"] for task, cell in all_rows[row]["tasks"].items()
        }
        assert f"\n{row} " in said
