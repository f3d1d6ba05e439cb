"""Frozen upstreams, one family per file; FAMILIES is the menu."""

from collections.abc import Callable
from difflib import get_close_matches

from distill.features import Encoder
from distill.frozen import Frozen
from distill.recipe import Teacher
from distill.teacher import FusedTeacher
from teachers import wav2vec2, whisper
from teachers.checkpoint import RANDOM

FAMILIES: dict[str, Callable[[str], Encoder]] = {  # name -> loader of a folder or a repository on the Hub
    "hubert": wav2vec2.load_hubert,
    "wavlm": wav2vec2.load_wavlm,
    "whisper": whisper.load_whisper,
}
SIZES: dict[str, dict[str, str]] = wav2vec2.SIZES | {"whisper": whisper.SIZES}  # family -> size -> checkpoint


def build_upstream(family: str, size: str, checkpoint: str | None = None) -> Frozen:
    """A family's checkpoint of that size, or the one named instead, frozen.

    Raises ValueError for an unknown family or size, CheckpointError (a ValueError) where it cannot be opened.
    """
    demand_known("family of upstreams", family, list(FAMILIES))
    if checkpoint is None:
        demand_known(f"size of {family}", size, list(SIZES[family]))
        checkpoint = SIZES[family][size]
    return Frozen(FAMILIES[family](checkpoint))


def build_teacher(settings: Teacher, seed: int) -> FusedTeacher:
    """The fused teacher of a recipe, not yet fitted: its upstreams frozen, its own weights from the seed."""
    prefix = RANDOM if settings.weights == "random" else ""
    upstreams = {name: build_upstream(name, "", prefix + settings.checkpoints[name]) for name in settings.upstreams}
    return FusedTeacher(upstreams, settings.combine, settings.width, settings.interface, seed).eval()


def demand_known(what: str, name: str, known: list[str]) -> None:
    """ValueError that lists the known names and the nearest, if `name` is none of them."""
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"unknown {what} {name!r}, known are {', '.join(known)}{hint}")
