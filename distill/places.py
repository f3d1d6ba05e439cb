"""Recipes, command lines and environments as they may be published: absolute paths cut to their last part."""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

ROOTED = ("/", "~")
AFTER = r"(?<=[=\[,{\s\"'])[/~][^,\]}\"']*"  # a path within a word of the command line, where it is in a list perhaps


def unplaced(value: Any, known: dict[str, str] | None = None) -> Any:
    """A recipe, or what JSON holds, with every absolute path in it as `./<its last part>`.

    Of two paths with one last part the second gets a number. known: the paths that were met, path -> what is left of
    it; give it again to have the same ones called the same.
    """
    known = {} if known is None else known
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: unplaced(getattr(value, one.name), known) for one in fields(value)})
    if isinstance(value, Mapping):
        return {key: unplaced(one, known) for key, one in value.items()}
    if isinstance(value, list):
        return [unplaced(one, known) for one in value]
    if isinstance(value, str):
        return cut(value, known) if value.startswith(ROOTED) else re.sub(AFTER, lambda it: cut(it[0], known), value)
    return value


def cut(path: str, known: dict[str, str]) -> str:
    """What is left of a path."""
    whole = path.rstrip("/")
    if whole not in known:
        name = f"./{Path(whole).name}"
        known[whole] = name if name not in known.values() else f"{name}-{len(known)}"
    return known[whole]
