"""Limits of a recipe's values, written at its fields, and how it is told that one is beyond them."""

import difflib
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, field, fields
from typing import Any


class RecipeError(ValueError):
    """What a user can get wrong in a recipe, in a few lines."""


def within(
    default: Any, least=-math.inf, above=-math.inf, below=math.inf, menu: Collection[str] = (), empty: bool = False
) -> Any:
    """A field, a list for a tuple, whose every value lies in these bounds or on this menu."""
    limits = {"least": least, "above": above, "below": below, "menu": menu, "empty": empty or default == ()}
    if isinstance(default, tuple):
        return field(default_factory=lambda: list(default), metadata=limits)
    return field(default=default, metadata=limits)


def check(section: str, config: Any) -> None:
    """Every field of a dataclass within the limits written at it."""
    values = asdict(config)
    for limited in (one for one in fields(config) if one.metadata):
        value, limits, key = values[limited.name], limited.metadata, f"{section}{limited.name}"
        if value == [] and not limits["empty"]:
            raise RecipeError(f"{key} is empty; name one or more")
        for one in value if isinstance(value, list) else [value]:
            if limits["menu"]:
                listed(key, one, limits["menu"])
            elif not (limits["least"] <= one < limits["below"] and limits["above"] < one < math.inf):
                bounds = {"at least": limits["least"], "above": limits["above"], "below": limits["below"]}
                words = [f"{word} {bound}" for word, bound in bounds.items() if math.isfinite(bound)]
                raise RecipeError(f"{key} must be {' and '.join(words)}, got {one:g}")


def listed(key: str, value: str, names: Collection[str]) -> None:
    """RecipeError unless a name is on its menu."""
    if value not in names:
        raise RecipeError(f"{key}: there is no {value!r}{nearest(value, names)}\nthere are: {', '.join(names)}")


def as_many(key: str, values: Sequence[Any], other: str, count: int) -> None:
    """RecipeError unless a list is as long as another thing says."""
    if len(values) != count:
        raise RecipeError(f"{key} has {len(values)} values and {other} {count}; give {count} values")


def nearest(name: str, names: Collection[str]) -> str:
    """A question after the name most like this one; nothing where none is."""
    close = difflib.get_close_matches(name, list(names), 1)
    return f"; did you mean {close[0]!r}?" if close else ""
