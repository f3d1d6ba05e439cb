"""What rows of an evaluation hear: each clip once for all tasks, and on the disk for all rows that share upstreams."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from distill.data.clips import Clips
from distill.encoders.frames import bytes_of, extract_together, standardisers
from distill.encoders.frozen import frozen_parts
from distill.features import Encoder
from distill.probe import Split
from distill.protocol import Evaluate, demand

PARTS = ("train", "validation", "test")
Splits = Mapping[str, Clips]
Rows = Mapping[str, Encoder]  # by name
Heard = dict[str, dict[str, Split]]  # of one row: task -> part -> its clips with their standardised features


def groups(rows: Rows) -> list[dict[str, Encoder]]:
    """All rows, those together that listen through the same frozen encoder: a teacher and its upstreams."""
    found: list[dict[str, Encoder]] = []
    for name, encoder in rows.items():
        near = [some for some in found if any(frozen_parts(encoder) & frozen_parts(one) for one in some.values())]
        joined = {other: one for some in near for other, one in some.items()} | {name: encoder}
        found = [some for some in found if some not in near] + [joined]
    return found


def passes(
    rows: Rows, waiting: Mapping[str, list[str]], splits: Splits, settings: Evaluate, place: Path, world: int
) -> list[list[str]]:
    """Which rows of a group are heard together; as many as there are rows, and the last ones may be empty.

    waiting: the tasks of each. Only rows that wait for the same ones go together, so that each hears the very batches
    that it would hear alone, and says the same, bit for bit; and only on a disk that has room for all they say.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for name, tasks in waiting.items():
        found.setdefault(tuple(tasks), []).append(name)
    together = []
    for tasks, names in found.items():
        if tasks and fits([rows[name] for name in names], splits, list(tasks), settings, place, world):
            together.append(names)
        elif tasks:
            together += [[name] for name in names]
    return together + [[]] * (len(rows) - len(together))


def fits(
    encoders: list[Encoder], splits: Splits, tasks: list[str], settings: Evaluate, place: Path, world: int
) -> bool:
    """Whether the disk can keep what all of these say while each of so many processes wants as much room.

    Memory is spared: with evaluate.cache=memory no more than what one row says is kept at a time.
    """
    if settings.cache == "memory" or len(encoders) == 1:
        return len(encoders) == 1
    parts = [splits[part].select(union(one).tolist()) for part, one in choose(splits, tasks, settings).items()]
    wanted = sum(bytes_of(encoder, clips) for encoder in encoders for clips in parts)
    return world * wanted <= shutil.disk_usage(place).free


def choose(splits: Splits, tasks: list[str], settings: Evaluate) -> dict[str, dict[str, np.ndarray]]:
    """The clips of each task, by part. ValueError where a task has none."""
    chosen = {}
    for part in PARTS:
        clips, most = splits[part], settings.train_clips if part == "train" else settings.score_clips
        chosen[part] = {task: settings.menu()[task].choose(clips, most) for task in tasks}
        for task, used in chosen[part].items():
            demand(len(used) > 0, f"{task}: none of the {len(clips)} clips of the {part} split is for it")
    return chosen


def union(used: Mapping[str, np.ndarray]) -> np.ndarray:
    """The clips of all tasks."""
    return np.unique(np.concatenate(list(used.values())))


def hear_splits(
    rows: Rows, splits: Splits, tasks: list[str], settings: Evaluate, device: torch.device, folder: Path
) -> dict[str, Heard]:
    """What each row hears; a clip of several tasks is heard once, by an upstream of several rows too.

    folder: where features go that are kept on the disk, those of a row in a folder of its name.
    """
    encoders, seconds = list(rows.values()), settings.forward_seconds
    chosen = choose(splits, tasks, settings)
    standardise = standardisers(encoders, splits["train"], seconds, device)
    heard: dict[str, Heard] = {name: {task: {} for task in tasks} for name in rows}
    for name in rows:
        (folder / name).mkdir()
    for part, used in chosen.items():
        clips, all_used = splits[part], union(used)
        places = [folder / name / part if settings.cache == "disk" else None for name in rows]
        some = clips.select(all_used.tolist())
        caches = extract_together(encoders, some, standardise, seconds, device, places)
        for task, own in used.items():
            selected, within = clips.select(own.tolist()), np.searchsorted(all_used, own)
            for name, cache in zip(rows, caches, strict=True):
                heard[name][task][part] = Split(selected, cache, within)
    return heard
