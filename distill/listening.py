"""To which upstream and layer a fused teacher listens: what each task loses without it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log

import numpy as np
import torch
from torch import Tensor

from distill.data.clips import Clips, pad
from distill.encoders.frames import by_length
from distill.features import Features
from distill.fit import Fitting, Labels
from distill.interface import WeightedSum
from distill.tasks.task import Task, draw
from distill.teacher import FusedTeacher

CLIPS = 128  # of the training split, about: the speaker head knows no others
TINY = 1e-6  # a loss this small is none
EVEN = 0.01  # of growth that each upstream has in any case: what never grows by more, says nothing of any


@torch.no_grad()
def listening(
    teacher: FusedTeacher,
    heads: Mapping[str, Tensor],
    tasks: Sequence[Task],
    clips: Clips,
    seconds: float,
    device: torch.device,
) -> dict:
    """Mean loss of each fitted task head, whole and with one upstream, or one layer of it, held at its mean.

    Ablation, and neither gradients nor the interface's weights: hconv has no weight for each layer, a gradient
    tells of the smallest change alone, and the loss without a layer is a quantity that means the same for every
    interface. Neighbouring layers that say the same thing can stand in for each other, so a layer may matter
    less than its upstream's row suggests; the weights of a weighted sum are given beside it.
    """
    labels = [Labels.of(task, clips) for task in tasks]
    fitted = Fitting(teacher.fusion, teacher.interface, [one.task for one in labels])
    fitted.heads.load_state_dict(dict(heads))
    fitted.to(device).eval()
    rows = drawn(labels, len(clips))
    cases = [("", -1), *((name, layer) for name, layers in _depths(teacher).items() for layer in range(-1, layers))]
    sums = torch.zeros(len(cases), len(labels), dtype=torch.float64)
    for batch in by_length(clips.samples[rows], seconds):
        audio_BN, lengths_B = (part.to(device) for part in pad([clips.audio(row) for row in rows[batch]]))
        stacks = [encoder(audio_BN, lengths_B) for encoder in teacher.encoders()]
        targets = {one.task.name: [one.targets[row] for row in rows[batch]] for one in labels}
        for number, (name, layer) in enumerate(cases):
            sums[number] += fitted(without(teacher, stacks, name, layer), targets, 1.0).double().cpu()
    losses = (sums / torch.tensor([max(one.count(rows), 1) for one in labels])).T.tolist()
    found = {one.task.name: _named(cases, values) for one, values in zip(labels, losses, strict=True)}
    return {"clips": len(rows), "tasks": found, "interface_weights": weights(teacher)}


def drawn(labels: Sequence[Labels], count: int) -> np.ndarray:
    """Rows of so many clips that are asked: CLIPS, and as many more for a task that has a label at none of them."""
    rows = draw(np.arange(count), CLIPS)
    for one in labels:
        if not one.count(rows):
            own = np.flatnonzero([target is not None for target in one.targets])
            rows = np.union1d(rows, draw(own, CLIPS))
    return rows


def needed(found: dict) -> dict[str, float]:
    """How much the tasks need each upstream, from what `listening` found: upstream -> weight; their mean is 1.

    A task needs an upstream by log(its loss without it / its loss). So a task that the heads have hardly learned, whose
    loss hardly grows, has hardly a say; where that is so of all tasks, the weights are even.
    """
    tasks = list(found["tasks"].values())
    names = list(tasks[0]["without"])
    growth = {name: EVEN + sum(_growth(task, name) for task in tasks) / len(tasks) for name in names}
    mean = sum(growth.values()) / len(names)
    return {name: own / mean for name, own in growth.items()}


def _growth(task: dict, name: str) -> float:
    """Of one task's loss without an upstream."""
    return max(log(max(task["without"][name]["all"], TINY) / max(task["loss"], TINY)), 0.0)


def without(teacher: FusedTeacher, stacks: Sequence[Features], name: str, layer: int) -> list[Features]:
    """The stacks with one layer of one upstream at its mean, all of its layers for layer -1, none for no name."""
    changed = []
    upstreams = zip(teacher.upstreams, teacher.fusion.standardisers(), stacks, strict=True)
    for upstream, standardise, features in upstreams:
        if upstream == name:
            chosen = slice(None) if layer < 0 else slice(layer, layer + 1)
            hidden_BLTD = features.hidden.clone()
            hidden_BLTD[:, chosen] = standardise.mean[chosen, None]
            features = replace(features, hidden=hidden_BLTD)
        changed.append(features)
    return changed


def weights(teacher: FusedTeacher) -> list[float] | None:
    """What a weighted sum gives each fused layer; None for another interface."""
    if not isinstance(teacher.interface, WeightedSum):
        return None
    return teacher.interface.scores.softmax(0).tolist()


def _depths(teacher: FusedTeacher) -> dict[str, int]:
    return {name: shape.layers for name, shape in zip(teacher.upstreams, teacher.fusion.shapes, strict=True)}


def _named(cases: Sequence[tuple[str, int]], losses: Sequence[float]) -> dict:
    """Losses by upstream: `all` of its layers at their mean, and each of `layers`."""
    upstreams: dict[str, dict] = {}
    for (name, layer), loss in list(zip(cases, losses, strict=True))[1:]:
        if layer < 0:
            upstreams[name] = {"all": loss, "layers": []}
        else:
            upstreams[name]["layers"].append(loss)
    return {"loss": losses[0], "without": upstreams}
