"""Classification of clips by one label: speaking style (er), language (lid)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.data.clips import Clips
from distill.features import frame_mask
from distill.metrics import compute
from distill.tasks.task import Task, draw

HIDDEN = 256


@dataclass(frozen=True)
class Classification(Task):
    """Of balanced classes chance is one over their number; clips are cropped in training."""

    name: str
    column: str
    balanced: bool = True  # of no class more clips than the median class has
    make: Callable[[int, int], nn.Module] | None = None  # width, classes -> head; None: a Classifier
    crop_seconds: float | None = 1.0
    vocabulary: tuple[str, ...] = ()
    metric = "accuracy"
    lower_is_better = False

    def select(self, clips: Clips) -> np.ndarray:
        """Labelled clips, balanced where that is wanted."""
        labels = np.asarray(clips.column(self.column))
        classes, counts = np.unique(labels[labels != ""], return_counts=True)
        if not len(classes):
            raise ValueError(f"{self.name}: no clip of the split has a label in the column {self.column!r}")
        most = int(np.median(counts)) if self.balanced else len(labels)
        return np.sort(np.concatenate([draw(np.flatnonzero(labels == name), most) for name in classes]))

    def demand(self, splits: Mapping[str, Clips]) -> None:
        """As any task; and there are two classes to learn."""
        super().demand(splits)
        if "train" in splits:
            self.prepare(splits["train"].select(self.select(splits["train"])))

    def prepare(self, train: Clips) -> "Classification":
        classes = tuple(sorted(set(train.column(self.column))))
        if len(classes) < 2:
            raise ValueError(f"{self.name}: {self.column!r} has {len(classes)} class in training, 2 are needed")
        return replace(self, vocabulary=classes)

    def targets(self, train: Clips) -> list[Tensor]:
        number = {name: torch.tensor(i) for i, name in enumerate(self.vocabulary)}
        return [number[label] for label in train.column(self.column)]

    def head(self, width: int) -> nn.Module:
        return (self.make or Classifier)(width, len(self.vocabulary))

    def loss(
        self, outputs: Tensor, lengths_B: Tensor, targets: Sequence[Tensor], progress: float
    ) -> tuple[Tensor, int]:
        wanted_B = torch.stack(list(targets)).to(outputs.device)
        return F.cross_entropy(outputs.float(), wanted_B, reduction="sum"), len(targets)

    def logits(self, outputs: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        return outputs[:, None], torch.ones_like(lengths_B)

    def predictions(self, outputs: Tensor, lengths_B: Tensor) -> list[str]:
        return [self.vocabulary[i] for i in outputs.argmax(-1).tolist()]

    def references(self, clips: Clips) -> list[str]:
        return clips.column(self.column)

    def score(self, predictions: Sequence[str], clips: Clips) -> dict[str, float]:
        labels = self.references(clips)
        if not set(labels) & set(self.vocabulary):
            raise ValueError(
                f"{self.name}: none of the {len(set(labels))} classes in {self.column!r} is in a training clip, "
                f"{min(labels)!r} for one; split the corpus so that classes are in training and test"
            )
        return {"accuracy": compute("accuracy", predictions, labels)}


class Classifier(nn.Module):
    """Linear and ReLU at every frame, the mean over valid frames, Linear to classes."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.enter = nn.Linear(width, HIDDEN)
        self.leave = nn.Linear(HIDDEN, classes)

    def forward(self, frames_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        mask_BT1 = frame_mask(lengths_B, frames_BTD.shape[1])[..., None]
        hidden_BTH = self.enter(frames_BTD).relu() * mask_BT1
        return self.leave(hidden_BTH.sum(1) / lengths_B[:, None])
