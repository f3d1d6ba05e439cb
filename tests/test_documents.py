"""What README and docs/ say can be typed: their commands resolve, their keys exist, their links lead somewhere."""

import re
import shlex

import pytest
from miniature import ROOT

from distill.loading import kind, load
from distill.recipe import Recipe
from teachers import FAMILIES

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"```\w*\n(.*?)```|`([^`\n]+(?:\n[^`\n]+)?)`", re.DOTALL)
LINK = re.compile(r"\]\(([^)]+)\)|src=\"([^\"]+)\"")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def codes(text: str) -> list[str]:
    """What stands between backticks, a command that goes on in the next line in one piece."""
    return [(block or span).replace("\\\n", "") for block, span in CODE.findall(text)]


def commands(text: str) -> list[list[str]]:
    """The words behind `distill.py` of every command."""
    lines = [line for code in codes(text) for line in code.splitlines() if " distill.py " in line]
    return [shlex.split(line.split(" distill.py ")[1], comments=True) for line in lines]


def keys(text: str) -> set[str]:
    """Every dotted key that is given a value, of a section of the recipe."""
    sections = "|".join(name for name in Recipe.__dataclass_fields__ if name != "corpora")
    return set(re.findall(rf"(?<![\w.])((?:{sections})(?:\.\w+)+)=", "\n".join(codes(text))))


def anchors(text: str) -> set[str]:
    """The headings as they are linked to."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_command_resolves(page):
    for words in commands(page.read_text()):
        plain = [word for word in words if not word.startswith("--")]
        if not plain[0].startswith("recipe=runs/"):
            load(plain, FAMILIES)


@every_page
def test_every_key_is_in_the_schema(page):
    for key in keys(page.read_text()):
        kind(key)


@every_page
def test_every_link_leads_somewhere(page):
    text = page.read_text()
    for link in filter(None, (one or other for one, other in LINK.findall(text))):
        if not link.startswith("https://"):
            path, _, heading = link.partition("#")
            there = page.parent / path if path else page
            assert there.exists(), link
            assert not heading or heading in anchors(there.read_text()), link


def test_all_pages_are_reached_from_the_first():
    linked = (ROOT / "README.md").read_text()
    for page in PAGES[1:]:
        assert f"](docs/{page.name}" in linked, page.name


def test_commands_and_keys_are_found():
    """The checks above check something."""
    text = "\n".join(page.read_text() for page in PAGES)
    assert len(commands(text)) > 20 and len(keys(text)) > 40
