"""Distillation onto codes: a student whose heads say which centre each codebook chose, and its objective."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.balance import doubted
from distill.data.batches import Batch
from distill.data.clips import Clips
from distill.features import Encoder, Grid
from distill.fusion import positions
from distill.harder import QUIET, Surroundings
from distill.supervision.codes import CODES, Codes

NONE = -100  # a target that counts for nothing


@dataclass(frozen=True)
class CodeOutcome:
    """What one batch says; divide sums by counts only after adding up all batches of a step."""

    loss_sum: Tensor  # () sum over valid frames of the loss, with gradient
    count: Tensor  # () valid frames
    losses_K: Tensor  # sum over frames of the mean cross-entropy of the codebooks, in nats
    right_K: Tensor  # sum over frames of the share of codebooks that are told right


class CodeDistiller(nn.Module):
    """A student and one head per coded layer, which tells all of its codebooks at once.

    layers: the student's layer for each; weights: of their losses; times: frames told of each of the student's.
    sources: how many of the first layers each source has, where uncertainty balances them (see `doubted`).
    """

    def __init__(
        self,
        student: Encoder,
        layers: Sequence[int],
        books: int,
        weights: Sequence[float],
        times: int = 1,
        sources: Sequence[int] = (),
    ):
        super().__init__()
        self.student, self.layers, self.books, self.sources = student, tuple(layers), books, tuple(sources)
        self.weights, self.times = tuple(weights), times
        self.heads = nn.ModuleList(nn.Linear(student.width, times * books * CODES) for _ in layers)
        self.doubts = nn.Parameter(torch.zeros(len(sources))) if len(sources) > 1 else None

    def forward(self, audio_BN: Tensor, lengths_B: Tensor, codes: Codes) -> CodeOutcome:
        heard = self.student(audio_BN, lengths_B)
        lengths_B, frames = heard.lengths * self.times, heard.hidden.shape[2] * self.times
        wanted_BKTC = at_frames(codes, heard.grid.finer(self.times), lengths_B, frames)
        told = [
            self._layer(head, heard.hidden[:, layer], wanted_BKTC[:, number])
            for number, (head, layer) in enumerate(zip(self.heads, self.layers, strict=True))
        ]
        losses_K, right_K = (torch.stack(part) for part in zip(*told, strict=True))
        counted_K, count = losses_K, lengths_B.sum()
        if self.doubts is not None:
            doubts = self.doubts.repeat_interleave(torch.tensor(self.sources, device=losses_K.device))
            counted_K = doubted(losses_K, F.pad(doubts, (0, len(losses_K) - len(doubts))), count)
        loss_sum = torch.stack([weight * loss for weight, loss in zip(self.weights, counted_K, strict=True)]).sum()
        return CodeOutcome(loss_sum, count, losses_K.detach(), right_K)

    def _layer(self, head: nn.Module, hidden_BTD: Tensor, wanted_BTC: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(hidden_BTD).float().unflatten(2, (-1, CODES)).flatten(0, 2)
        wanted = wanted_BTC.flatten()
        loss = F.cross_entropy(logits, wanted, ignore_index=NONE, reduction="sum")
        return loss / self.books, (logits.detach().argmax(1) == wanted).sum() / self.books


def at_frames(codes: Codes, grid: Grid, frames_B: Tensor, frames: int) -> Tensor:
    """Codes of the nearest frame of each of another grid's: (B, L, T, C) int64, NONE past a clip's frames."""
    nearest_BT = positions(codes.grid, codes.lengths, grid, frames).round().long()
    index = nearest_BT[:, None, :, None].expand(-1, codes.index.shape[1], -1, codes.index.shape[3])
    padding_BT = torch.arange(frames, device=frames_B.device) >= frames_B[:, None]
    return codes.index.gather(2, index).long().masked_fill(padding_BT[:, None, :, None], NONE)


@dataclass(frozen=True)
class CodeDistillation:
    """The objective: cross-entropy over the codes of every layer, over valid frames."""

    clips: Clips
    student: Encoder
    targets: Callable[[Batch], Codes]
    names: Sequence[str]  # of the coded layers, in the log
    around: Surroundings = QUIET  # over what the student hears
    times: int = 1  # frames told of each of the student's

    def counts(self, rows: np.ndarray) -> Tensor:
        """Frames the student tells of these clips: (1,)."""
        return self.counted(torch.from_numpy(self.clips.samples[rows]))

    def counted(self, samples_B: Tensor) -> Tensor:
        """The same for clips of so many samples; counts of parts add up."""
        return self.times * self.student.frames(samples_B).sum().double()[None]

    def outcome(self, model: nn.Module, batch: Batch, progress: float) -> tuple[Tensor, Tensor]:
        audio_BN = self.around.over(batch.audio, batch.lengths)
        out: CodeOutcome = model(audio_BN, batch.lengths, self.targets(batch))
        totals = torch.stack([out.loss_sum.detach().double(), out.count.double()])
        return out.loss_sum / batch.counts[0], torch.cat([totals, out.losses_K.double(), out.right_K.double()])

    def read(self, tally: Tensor) -> dict[str, float]:
        """The share of codes told right and the cross-entropy of every layer, their means first."""
        loss, frames = tally[:2].tolist()
        losses_K, right_K = (tally[2:] / frames).view(2, -1).tolist()
        values = {"code_accuracy": sum(right_K) / len(right_K), "loss": loss / frames}
        for name, cross_entropy, right in zip(self.names, losses_K, right_K, strict=True):
            values |= {f"code_accuracy_{name}": right, f"cross_entropy_{name}": cross_entropy}
        return values
