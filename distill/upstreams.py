"""Which upstreams a recipe means: their names, families and checkpoints."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from distill.encoders.family import Family
from distill.limits import RecipeError, listed, nearest
from distill.recipe import Recipe, Teacher

ROWS = ("log-mel", "teacher", "student", "untrained")  # names in the evaluation that are taken


def resolve(recipe: Recipe, families: Mapping[str, Family]) -> Teacher:
    """The teacher with its upstreams named and a checkpoint for each. Raises RecipeError."""
    names = recipe.teacher.upstreams or recipe.recipe.split("+")
    for name in names:
        demand_name(name, recipe.teacher.families, families)
    if len(set(names)) < len(names):
        raise RecipeError(
            f"teacher.upstreams={names} names an upstream twice; give one a name of its own: "
            f"teacher.upstreams=[{names[0]},other] teacher.families.other={names[0]} teacher.checkpoints.other=..."
        )
    checkpoints = {name: checkpoint(recipe, name, families) for name in names}
    teacher = replace(recipe.teacher, upstreams=list(names), checkpoints=checkpoints)
    demand_different(teacher)
    demand_deep(recipe, teacher)
    return teacher


def demand_deep(recipe: Recipe, teacher: Teacher) -> None:
    """RecipeError where hconv is asked to take a stack of 2 layers."""
    shallow = [f"teacher.depth.{name}" for name in teacher.upstreams if teacher.depth.get(name) == 1]
    fused = shallow[:1] if len(shallow) == len(teacher.upstreams) else []  # it is as deep as the deepest of them
    heard = [*shallow, *["student.layers"] * (recipe.student.layers == 1)]
    taken = {"evaluate.interface": (recipe.evaluate.interface, heard), "teacher.interface": (teacher.interface, fused)}
    for key, (interface, keys) in taken.items():
        if keys and interface == "hconv":
            raise RecipeError(
                f"{keys[0]}=1 gives a stack of 2 layers, which {key}=hconv cannot take; "
                f"take 2 layers or more, or {key}=weighted_sum"
            )


def demand_name(name: str, named: Mapping[str, str], families: Mapping[str, Family]) -> None:
    """RecipeError unless an upstream's name says its family, or the recipe does, and can be that of a row."""
    if name in named:
        listed(f"teacher.families.{name}", named[name], families)
    elif name not in families:
        raise RecipeError(
            f"teacher.upstreams: there is no {name!r}{nearest(name, families)}\nthere are: {', '.join(families)}; "
            f"for a name of your own give teacher.families.{name}=<family>"
        )
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name) or name in ROWS:
        raise RecipeError(
            f"teacher.upstreams: {name!r} cannot name an upstream; take letters, digits and - such as big"
        )


def checkpoint(recipe: Recipe, name: str, families: Mapping[str, Family]) -> str:
    """The published name or folder of an upstream: what the recipe says, or its family's of this scale."""
    family = recipe.teacher.families.get(name, name)
    sizes, said = families[family].sizes, recipe.teacher.checkpoints.get(name, recipe.scale)
    if name not in recipe.teacher.checkpoints and said not in sizes:
        ready = ", ".join(one for one in families if said in families[one].sizes)
        raise RecipeError(
            f"scale={said} has no checkpoint of {family}, only of {ready}\n"
            f"choose scale={' or '.join(size for size in sizes if size in ('base', 'large'))}, "
            f"or give teacher.checkpoints.{name}=<name or folder>"
        )
    return sizes.get(said, str(Path(said).expanduser()) if said.startswith("~") else said)


def demand_different(teacher: Teacher) -> None:
    """RecipeError where two upstreams are the same checkpoint to the same depth."""
    seen: dict[tuple[str, int], str] = {}
    for name, checkpoint in teacher.checkpoints.items():
        first = seen.setdefault((checkpoint, teacher.depth.get(name, 0)), name)
        if first != name:
            raise RecipeError(f"{first} and {name} are both {checkpoint}; give another teacher.checkpoints.{name}=...")
