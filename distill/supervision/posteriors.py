"""The teacher's task posteriors as one more supervision, told by the heads that were fitted with it."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.data.clips import Clips
from distill.features import Features, frame_mask
from distill.fusion import align_time
from distill.tasks.task import Task
from distill.teacher import FusedTeacher


class Posteriors(nn.Module):
    """The fitted task heads: what they say of the student's prediction of the interface's output, and of the teacher's.

    Teacher weights: frozen, in eval mode, and no part of the Distiller, so in no optimizer and no checkpoint.
    """

    def __init__(self, teacher: FusedTeacher, tasks: Sequence[Task], heads: Mapping[str, Tensor], weight: float):
        """tasks: prepared; heads: their weights by name; weight: of the mean of the tasks' divergences."""
        super().__init__()
        self.tasks, self.weight = list(tasks), weight
        self.heads = nn.ModuleDict({task.name: task.head(teacher.interface.width) for task in tasks})
        self.heads.load_state_dict(dict(heads))
        self.scale = deepcopy(teacher.summarise)  # the teacher may leave for another device
        self.requires_grad_(False).eval()

    def counts(self, frames: int, clips: int) -> Tensor:
        """What each task's sum is divided by: (J,)."""
        return torch.tensor([float(frames if task.framewise else clips) for task in self.tasks])

    def forward(self, told: Features, wanted: Features) -> Tensor:
        """Kullback-Leibler divergences in nats of each task, to be divided by `counts`: (J,).

        told, wanted: the standardised interface output as one layer, of the student on its own frames and of
        the teacher on those that the heads know, where both are heard. A clip counts once, or by the student's
        frames where a task scores each frame.
        """
        there = align_time(told, wanted.grid, wanted.lengths, frames=wanted.hidden.shape[2])
        ours_BTD, theirs_BTD = (self.scale.undo(output).hidden[:, 0] for output in (there, wanted))
        sums = []
        for task, head in zip(self.tasks, self.heads.values(), strict=True):
            logits, own_B = task.logits(head(ours_BTD, wanted.lengths), wanted.lengths)
            with torch.no_grad():
                expected, _ = task.logits(head(theirs_BTD, wanted.lengths), wanted.lengths)
            apart_B = divergence(logits, expected, own_B)
            sums.append((apart_B * told.lengths).sum() if task.framewise else apart_B.sum())
        return torch.stack(sums)


def divergence(logits_BTC: Tensor, expected_BTC: Tensor, lengths_B: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the expected posteriors in nats, mean over each clip's own outputs: (B,)."""
    told_BTC, expected_BTC = (logits.float().log_softmax(-1) for logits in (logits_BTC, expected_BTC))
    apart_BT = F.kl_div(told_BTC, expected_BTC, reduction="none", log_target=True).sum(-1)
    return apart_BT.masked_fill(~frame_mask(lengths_B, apart_BT.shape[1]), 0.0).sum(1) / lengths_B


def posteriors(
    teacher: FusedTeacher, tasks: Sequence[Task], clips: Clips, heads: Mapping[str, Tensor], weight: float
) -> Posteriors | None:
    """The heads of these tasks as they were fitted on these clips; None where they weigh nothing."""
    if not weight:
        return None
    return Posteriors(teacher, [task.prepare(clips.select(task.select(clips))) for task in tasks], heads, weight)
