"""The one module that trains in distillation: a student, its heads, the loss against a teacher's layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill.features import Encoder, Features
from distill.fusion import align_time
from distill.losses import LOSSES, Agreement


def pairs(student_layers: int, teacher_layers: int, count: int) -> list[tuple[int, int]]:
    """`count` evenly spaced (student layer, teacher layer); layer 0 of both is the embedding output."""
    student, teacher = student_layers - 1, teacher_layers - 1
    if not 1 <= count <= student:
        raise ValueError(f"{count} layer pairs asked of a student with {student} layers above its embedding")
    return [(k * student // count, k * teacher // count) for k in range(1, count + 1)]


@dataclass(frozen=True)
class Outcome:
    """What one batch says: divide sums by counts only after adding up all batches of a step."""

    loss_sum: Tensor  # () sum over valid frames of the loss, with gradient
    count: Tensor  # () valid frames
    agreement: Agreement  # of the K layer pairs
    interface: Agreement | None  # of the interface output, K = 1, where it is a target


class Distiller(nn.Module):
    """A student and one head per target; the heads stay behind when the student is published.

    loss_sum / count = mean of the layers' losses by `weights` + interface_weight * the interface's loss.
    """

    def __init__(
        self,
        student: Encoder,
        layers: Sequence[tuple[int, int]],
        target_width: int,
        interface_width: int | None,
        loss: str,
        weights: Sequence[float],
        interface_weight: float,
    ):
        super().__init__()
        _check(student, layers, loss, weights)
        self.student = student
        self.layers = tuple(layers)
        self.heads = nn.ModuleList(_head(student.width, target_width) for _ in layers)
        self.interface_head = None if interface_width is None else _head(student.width, interface_width)
        self.loss = LOSSES[loss]
        self.weights = tuple(weight / sum(weights) for weight in weights)  # no buffer: bf16 would round it
        self.interface_weight = interface_weight

    def forward(self, audio_BN: Tensor, lengths_B: Tensor, targets: Features, interface_BTD: Tensor | None) -> Outcome:
        """targets: the K teacher layers named by `layers`; interface_BTD: on the same frames as they are."""
        if (interface_BTD is None) != (self.interface_head is None):
            raise ValueError("an interface target and interface_width belong together: give both or neither")
        heard = self.student(audio_BN, lengths_B)
        picked = [heard.hidden[:, layer] for layer, _ in self.layers]
        pred_BKTD = torch.stack([head(x) for head, x in zip(self.heads, picked, strict=True)], dim=1)
        sums_K, count, agreement = self._compare(pred_BKTD, targets, heard)
        weighted = [weight * layer_sum for weight, layer_sum in zip(self.weights, sums_K, strict=True)]
        loss_sum = torch.stack(weighted).sum()
        if self.interface_head is None or interface_BTD is None:
            return Outcome(loss_sum, count, agreement, None)
        pred_B1TD = self.interface_head(heard.hidden[:, -1:])
        stack = Features(interface_BTD[:, None], targets.lengths, targets.grid)
        sums_1, _, interface = self._compare(pred_B1TD, stack, heard)
        return Outcome(loss_sum + self.interface_weight * sums_1.sum(), count, agreement, interface)

    def _compare(self, pred_BKTD: Tensor, targets: Features, heard: Features) -> tuple[Tensor, Tensor, Agreement]:
        """Per-layer loss sums, valid frames and agreement, on the student's frames."""
        target_BKTD = align_time(targets, heard.grid, heard.lengths, frames=heard.hidden.shape[2]).hidden
        mask_BT = heard.mask()
        sums_K, count = self.loss(pred_BKTD, target_BKTD, mask_BT)
        return sums_K, count, Agreement.of(pred_BKTD, target_BKTD, mask_BT)


def _head(width: int, target_width: int) -> nn.Linear:
    """The identity between equal widths (DPHuBERT), else orthogonal: a start that does not scale."""
    head = nn.Linear(width, target_width)
    nn.init.zeros_(head.bias)
    init = nn.init.eye_ if width == target_width else nn.init.orthogonal_
    init(head.weight)
    return head


def _check(student: Encoder, layers: Sequence[tuple[int, int]], loss: str, weights: Sequence[float]) -> None:
    if loss not in LOSSES:
        raise ValueError(f"unknown loss={loss!r}; there are {', '.join(LOSSES)}")
    if not layers or not all(0 <= layer < student.layers for layer, _ in layers):
        raise ValueError(f"the student has layers 0 to {student.layers - 1}, got the pairs {list(layers)}")
    if len(weights) != len(layers):
        raise ValueError(f"one weight per layer pair: {len(layers)} pairs, {len(weights)} weights")
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"layer weights must not be negative nor all zero, got {list(weights)}")
