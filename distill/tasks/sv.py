"""Speaker verification: AM-softmax over the training speakers, scored on speakers never heard."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.data.clips import Clips
from distill.features import frame_mask
from distill.metrics import compute
from distill.tasks.task import WITHOUT, Task, draw

SCALE, MARGIN = 30.0, 0.4  # of AM-softmax
HIDDEN, EMBEDDING = 256, 128
PAIRS = 20_000  # at most so many of each kind, same and different


class Voices(NamedTuple):
    embedding_BE: Tensor  # of length one
    cosines_BS: Tensor  # to the training speakers


@dataclass(frozen=True)
class SpeakerVerification(Task):
    """Equal error rate and smallest detection cost of the pairs in a trial list, or else of all pairs, or many."""

    make: Callable[[int, int], nn.Module] | None = None  # width, speakers -> head; None: a Recogniser
    crop_seconds: float | None = 1.0
    vocabulary: tuple[str, ...] = ()
    name = "sv"
    column = "speaker"
    metric = "eer"
    lower_is_better = True

    def references(self, clips: Clips) -> list[str]:
        return clips.column("speaker")

    def demand(self, splits: Mapping[str, Clips]) -> None:
        """As any task; no speaker may be in two splits, and each has the speakers and clips that it needs."""
        super().demand(splits)
        speakers = {split: set(clips.column("speaker")) - {""} for split, clips in splits.items()}
        for one, other in combinations(speakers, 2):
            shared = sorted(speakers[one] & speakers[other])
            if shared:
                raise ValueError(
                    f"sv: {len(shared)} speakers are in {one} and in {other}, such as {shared[0]!r}; verification is "
                    "of speakers never heard\nlet the splits be made by speaker, data.columns.split= , or do without sv"
                )
        for split, clips in splits.items():
            if clips.trials is None:
                demand_pairs(split, clips.column("speaker"))

    def choose(self, clips: Clips, most: int) -> np.ndarray:
        """All clips of a trial list, where there is one."""
        if clips.trials is None:
            return super().choose(clips, most)
        wanted = clips.trials.ids()
        return np.flatnonzero([name in wanted for name in clips.ids])

    def select(self, clips: Clips) -> np.ndarray:
        return np.flatnonzero([bool(speaker) for speaker in clips.column("speaker")])

    def prepare(self, train: Clips) -> "SpeakerVerification":
        speakers = tuple(sorted(set(train.column("speaker"))))
        if len(speakers) < 2:
            raise ValueError(f"sv: {len(speakers)} speaker in training, 2 are needed")
        return replace(self, vocabulary=speakers)

    def targets(self, train: Clips) -> list[Tensor]:
        number = {name: torch.tensor(i) for i, name in enumerate(self.vocabulary)}
        return [number[speaker] for speaker in train.column("speaker")]

    def head(self, width: int) -> nn.Module:
        return (self.make or Recogniser)(width, len(self.vocabulary))

    def loss(
        self, outputs: Voices, lengths_B: Tensor, targets: Sequence[Tensor], progress: float
    ) -> tuple[Tensor, int]:
        """AM-softmax: the right speaker's cosine must lead by a margin (arXiv 1801.05599)."""
        wanted_B = torch.stack(list(targets)).to(outputs.cosines_BS.device)
        lead_BS = MARGIN * F.one_hot(wanted_B, len(self.vocabulary))
        logits_BS = SCALE * (outputs.cosines_BS.float() - lead_BS)
        return F.cross_entropy(logits_BS, wanted_B, reduction="sum"), len(targets)

    def logits(self, outputs: Voices, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Of the training speakers, without the margin."""
        return SCALE * outputs.cosines_BS[:, None], torch.ones_like(lengths_B)

    def predictions(self, outputs: Voices, lengths_B: Tensor) -> list[np.ndarray]:
        return list(outputs.embedding_BE.detach().float().cpu().numpy())

    def score(self, predictions: Sequence[np.ndarray], clips: Clips) -> dict[str, float]:
        left, right, same = clips.trials.rows(clips.ids) if clips.trials else pairs(self.references(clips))
        embeddings = np.stack(predictions)
        cosines = (embeddings[left] * embeddings[right]).sum(1)
        return {name: compute(name, cosines.tolist(), same.tolist()) for name in ("eer", "mindcf")}


def pairs(speakers: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of clips, always the same ones: left rows, right rows, and 1 where one speaker says both."""
    numbers = np.unique(np.asarray(speakers), return_inverse=True)[1]
    left, right = np.triu_indices(len(speakers), k=1)
    same = numbers[left] == numbers[right]
    if same.all() or not same.any():
        raise ValueError("sv needs two clips of one speaker and clips of two speakers; the split has not both")
    kept = np.concatenate([draw(np.flatnonzero(same), PAIRS), draw(np.flatnonzero(~same), PAIRS)])
    return left[kept], right[kept], same[kept].astype(np.int64)


def demand_pairs(split: str, speakers: Sequence[str]) -> None:
    """ValueError when a split has too few speakers, or too few clips of them to make both kinds of pairs."""
    counts = Counter(speaker for speaker in speakers if speaker)
    most, needed = max(counts.values(), default=0), 1 if split == "train" else 2
    if len(counts) >= 2 and most >= needed:
        return
    shares = "data.validation_share=, data.test_share=" if split == "train" else f"data.{split}_share="
    raise ValueError(
        f"sv: the {split} split has {len(counts)} speakers, of none more than {most} clips; 2 speakers are needed"
        f"{', and 2 clips of one of them' if needed > 1 else ''}\n"
        f"share the speakers out otherwise, {shares} (where the corpus names no splits), "
        f"or do without sv: {WITHOUT}"
    )


class Recogniser(nn.Module):
    """Linear and ReLU at every frame, mean and deviation over valid frames, Linear to an embedding."""

    def __init__(self, width: int, speakers: int):
        super().__init__()
        self.enter = nn.Linear(width, HIDDEN)
        self.leave = nn.Linear(2 * HIDDEN, EMBEDDING)
        self.speakers_SE = nn.Parameter(torch.randn(speakers, EMBEDDING))

    def forward(self, frames_BTD: Tensor, lengths_B: Tensor) -> Voices:
        mask_BT1 = frame_mask(lengths_B, frames_BTD.shape[1])[..., None]
        hidden_BTH = self.enter(frames_BTD).relu()
        mean_BH = (hidden_BTH * mask_BT1).sum(1) / lengths_B[:, None]
        variance_BH = ((hidden_BTH - mean_BH[:, None]).square() * mask_BT1).sum(1) / lengths_B[:, None]
        deviation_BH = variance_BH.clamp(min=1e-5).sqrt()
        embedding_BE = F.normalize(self.leave(torch.cat([mean_BH, deviation_BH], dim=1)), dim=1)
        return Voices(embedding_BE, embedding_BE @ F.normalize(self.speakers_SE, dim=1).T)
