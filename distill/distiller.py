"""The one module that trains in distillation: a student, its heads, the loss against a teacher's layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from distill.balance import GradientNorms, doubted
from distill.features import Encoder, Features
from distill.fusion import align_time
from distill.losses import LOSSES, Agreement

BALANCE = ("equal", "uncertainty", "gradient", "listening")  # the last by weights of the groups


def pairs(student_layers: int, teacher_layers: int, count: int) -> list[tuple[int, int]]:
    """`count` evenly spaced (student layer, teacher layer); layer 0 of both is the embedding output."""
    student, teacher = student_layers - 1, teacher_layers - 1
    if not 1 <= count <= student:
        raise ValueError(f"{count} layer pairs asked of a student with {student} layers above its embedding")
    return [(k * student // count, k * teacher // count) for k in range(1, count + 1)]


@dataclass(frozen=True)
class Group:
    """What one source teaches: the fused stack, or one upstream by its own layers."""

    name: str  # of the upstream; empty: the fused stack
    pairs: tuple[tuple[int, int], ...]  # student layer, layer of the source
    width: int  # features of the source's frames
    weight: float = 1.0  # of its loss, beside those of the other sources

    def names(self) -> list[str]:
        """Its targets in the log."""
        return [f"{self.name}_{number}".lstrip("_") for number in range(1, len(self.pairs) + 1)]


def shares(groups: Sequence[Group]) -> tuple[float, ...]:
    """What part of the loss each group's is; they sum to 1. Raises ValueError for weights that cannot be."""
    weights = [group.weight for group in groups]
    if min(weights) <= 0:
        raise ValueError(f"weights of sources must be above 0, got {weights}; leave a source out instead")
    return tuple(weight / sum(weights) for weight in weights)


@dataclass(frozen=True)
class Outcome:
    """What one batch says: divide sums by counts only after adding up all batches of a step."""

    loss_sum: Tensor  # () sum over valid frames of the loss, with gradient
    count: Tensor  # () valid frames
    agreement: Agreement  # of the K targets, group after group
    interface: Agreement | None  # of the interface output, K = 1, where it is a target
    told: Features | None  # the interface output as the student tells it, one layer on its own frames


class Distiller(nn.Module):
    """A student and one head per target; the heads stay behind when the student is published.

    loss_sum / count = mean over groups, by their own weights, of the mean of their layers' losses by `weights`
    + interface_weight * the interface's loss. drop, balance: see `_balanced`; passes: of a process in a step.
    times: frames that the heads tell of each of the student's, for a teacher of a higher rate; the loss is over those.
    """

    def __init__(
        self,
        student: Encoder,
        groups: Sequence[Group],
        interface_width: int | None,
        loss: str,
        weights: Sequence[float],
        interface_weight: float,
        *,
        drop: float = 0.0,
        balance: str = "equal",
        passes: int = 1,
        times: int = 1,
    ):
        super().__init__()
        _check(student, groups, loss, weights)
        self.student, self.groups = student, tuple(groups)
        self.layers = tuple(layer for group in groups for layer, _ in group.pairs)
        self.widths = tuple(group.width for group in groups for _ in group.pairs)
        self.interface_width, self.times = interface_width, times
        self.heads = nn.ModuleList(_head(student.width, width, times) for width in self.widths)
        self.interface_head = None if interface_width is None else _head(student.width, interface_width, times)
        self.loss = LOSSES[loss]
        self.weights = tuple(weight / sum(weights) for weight in weights)  # no buffer: bf16 would round it
        self.shares = shares(groups)
        self.interface_weight, self.drop = interface_weight, drop
        several = len(groups) > 1  # one has nothing to be balanced with
        self.doubts = nn.Parameter(torch.zeros(len(groups))) if balance == "uncertainty" and several else None
        self.norms = GradientNorms(len(groups), passes) if balance == "gradient" and several else None

    def forward(
        self,
        audio_BN: Tensor,
        lengths_B: Tensor,
        targets: Features,
        interface_BTD: Tensor | None,
        weight: float = 1.0,
    ) -> Outcome:
        """targets: the layers named by `groups`, narrow ones with zeros to the width of the widest; interface_BTD: on
        the same frames as they are; weight: of this pass in what the balance sees (see Batch).
        """
        if (interface_BTD is None) != (self.interface_head is None):
            raise ValueError("an interface target and interface_width belong together: give both or neither")
        heard = self.student(audio_BN, lengths_B)
        told = [self._told(head, heard, layer) for head, layer in zip(self.heads, self.layers, strict=True)]
        pred_BKTD = torch.stack([pad(part, (0, max(self.widths) - part.shape[2])) for part in told], dim=1)
        sums_K, count, agreement = self._compare(self._finer(heard, pred_BKTD), targets, self.widths)
        balanced_G = self._balanced(self._by_group(sums_K), count, heard.hidden, weight)
        loss_sum = torch.stack([share * own for share, own in zip(self.shares, balanced_G, strict=True)]).sum()
        if self.interface_head is None or self.interface_width is None or interface_BTD is None:
            return Outcome(loss_sum, count, agreement, None, None)
        pred = self._finer(heard, self._told(self.interface_head, heard, -1)[:, None])
        stack = Features(interface_BTD[:, None], targets.lengths, targets.grid)
        sums_1, _, interface = self._compare(pred, stack, [self.interface_width])
        return Outcome(loss_sum + self.interface_weight * sums_1.sum(), count, agreement, interface, pred)

    def _told(self, head: nn.Module, heard: Features, layer: int) -> Tensor:
        """What a head says of a layer: (B, T * times, D)."""
        return head(heard.hidden[:, layer]).unflatten(2, (self.times, -1)).flatten(1, 2)

    def _finer(self, heard: Features, pred_BKTD: Tensor) -> Features:
        """Predictions with the frames they stand for."""
        return Features(pred_BKTD, heard.lengths * self.times, heard.grid.finer(self.times))

    def _by_group(self, sums_K: Tensor) -> Tensor:
        """The loss sum of each group, its layers by their weights: (G,)."""
        weights = self.weights * len(self.groups)
        weighted = [weight * layer_sum for weight, layer_sum in zip(weights, sums_K, strict=True)]
        return torch.stack(weighted).view(len(self.groups), -1).sum(1)

    def _balanced(self, sums_G: Tensor, count: Tensor, hidden_BLTD: Tensor, weight: float = 1.0) -> Tensor:
        """The groups' loss sums as they count in this pass.

        In training a group is dropped with the probability `drop`, but never the one with the highest loss (UNIC,
        arXiv 2408.05088). By uncertainty see `doubted`, by gradient GradientNorms.
        """
        kept_G = torch.ones_like(sums_G)
        if self.drop and self.training:
            drawn_G = torch.rand(len(sums_G), device=sums_G.device) >= self.drop
            kept_G = (drawn_G | (sums_G == sums_G.max())).to(sums_G.dtype)
        if self.doubts is not None:
            sums_G = doubted(sums_G, self.doubts, count)
        if self.norms is not None:
            sums_G = self.norms(sums_G, count, hidden_BLTD, weight) * sums_G
        return kept_G * sums_G

    def _compare(self, pred: Features, targets: Features, widths: Sequence[int]) -> tuple[Tensor, Tensor, Agreement]:
        """Loss sums of each target, valid frames and agreement, on the predictions' frames."""
        target_BKTD = align_time(targets, pred.grid, pred.lengths, frames=pred.hidden.shape[2]).hidden
        mask_BT = pred.mask()
        sums_K, count = self._each(pred.hidden, target_BKTD, mask_BT, widths)
        return sums_K, count, Agreement.of(pred.hidden, target_BKTD, mask_BT)

    def _each(
        self, pred_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor, widths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """The loss of targets of one width at a time: a mean over features must not count zeros."""
        if len(set(widths)) == 1:
            return self.loss(pred_BKTD, target_BKTD, mask_BT)
        parts, count = {}, mask_BT.sum()
        for width in sorted(set(widths)):
            chosen = [number for number, own in enumerate(widths) if own == width]
            sums = self.loss(pred_BKTD[:, chosen, :, :width], target_BKTD[:, chosen, :, :width], mask_BT)[0]
            parts |= dict(zip(chosen, sums, strict=True))
        return torch.stack([parts[number] for number in range(len(widths))]), count


def _head(width: int, target_width: int, times: int) -> nn.Linear:
    """For each of its frames the identity between equal widths (DPHuBERT), else orthogonal: a start without scaling."""
    head = nn.Linear(width, times * target_width)
    nn.init.zeros_(head.bias)
    init = nn.init.eye_ if width == target_width else nn.init.orthogonal_
    for part in head.weight.detach().chunk(times):
        init(part)
    return head


def _check(student: Encoder, groups: Sequence[Group], loss: str, weights: Sequence[float]) -> None:
    if loss not in LOSSES:
        raise ValueError(f"unknown loss={loss!r}; there are {', '.join(LOSSES)}")
    for group in groups:
        if not group.pairs or not all(0 <= layer < student.layers for layer, _ in group.pairs):
            raise ValueError(f"the student has layers 0 to {student.layers - 1}, got the pairs {list(group.pairs)}")
        if len(weights) != len(group.pairs):
            raise ValueError(f"one weight per layer pair: {len(group.pairs)} pairs, {len(weights)} weights")
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"layer weights must not be negative nor all zero, got {list(weights)}")
