"""Frozen upstreams, one file for those that share a forward; FAMILIES is the menu."""

from collections.abc import Callable
from difflib import get_close_matches

import torch

from distill.encoders.family import Family, Options
from distill.encoders.frozen import Frozen
from distill.features import Encoder
from distill.recipe import Teacher
from distill.teacher import FusedTeacher
from teachers import conformer, seamless, wav2vec2, whisper
from teachers.checkpoint import RANDOM

FAMILIES: dict[str, Family] = wav2vec2.FAMILIES | whisper.FAMILIES | conformer.FAMILIES | seamless.FAMILIES


Hold = Callable[[Encoder], Encoder]  # how an upstream's weights are held: whole, or shared out to all processes


def build_upstream(
    family: str,
    size: str,
    checkpoint: str | None = None,
    options: Options | None = None,
    hold: Hold = lambda encoder: encoder,
) -> Frozen:
    """A family's checkpoint of that size, or the one named instead, frozen.

    Raises ValueError for an unknown family or size, CheckpointError (a ValueError) where it cannot be opened.
    """
    demand_known("family of upstreams", family, list(FAMILIES))
    if checkpoint is None:
        demand_known(f"size of {family}", size, list(FAMILIES[family].sizes))
        checkpoint = FAMILIES[family].sizes[size]
    return Frozen(hold(FAMILIES[family].load(checkpoint, options or Options())))


def build_teacher(
    settings: Teacher, seed: int, dtype: torch.dtype = torch.float32, hold: Hold = lambda encoder: encoder
) -> FusedTeacher:
    """The fused teacher of a recipe, not yet fitted: its upstreams frozen, its own weights from the seed.

    dtype: of the upstreams' weights; fusion and statistics are float32. hold: of each in turn, before the next is
    opened.
    """
    upstreams, prefix = {}, RANDOM if settings.weights == "random" else ""
    for name in settings.upstreams:
        options = Options(settings.depth.get(name, 0), dtype, settings.whisper_window, settings.seamless_states)
        family = settings.families.get(name, name)
        upstreams[name] = build_upstream(family, "", prefix + settings.checkpoints[name], options, hold)
    fused = (settings.combine, settings.width, settings.interface, seed, settings.standardise)
    return FusedTeacher(upstreams, *fused).eval()


def demand_known(what: str, name: str, known: list[str]) -> None:
    """ValueError that lists the known names and the nearest, if `name` is none of them."""
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"unknown {what} {name!r}, known are {', '.join(known)}{hint}")
