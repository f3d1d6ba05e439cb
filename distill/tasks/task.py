"""What a downstream task tells about itself: which clips it uses, their labels, its head, loss and score."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Self

import numpy as np
from torch import Tensor, nn

from distill.data.clips import Clips

WITHOUT = "evaluate.tasks=[...] fit.tasks=[...] finetune.tasks=[...]"  # where a task can be left out


class Task(ABC):
    """One downstream task. It is plain data; what it learns is in its head.

    `prepare` gives the task with its vocabulary; everything below it needs the prepared task.
    """

    name: str
    column: str  # of the corpus, with the labels
    metric: str  # of distill.metrics, one in percent
    lower_is_better: bool
    crop_seconds: float | None  # a clip is cropped to this in training; None: the label needs all of it
    vocabulary: tuple[str, ...]  # characters, speakers or classes, of the training clips alone
    framewise = False  # its head scores every frame, and not a clip as a whole

    @property
    def worst(self) -> float:
        """The value of a training that diverged."""
        return 100.0 if self.lower_is_better else 0.0

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the corpus that it reads."""
        return (self.column,)

    def demand(self, splits: Mapping[str, Clips]) -> None:
        """ValueError when a split cannot serve this task: it lacks a column, or labels in it."""
        for (split, clips), column in product(splits.items(), self.columns):
            there = clips.dataset.column_names
            if column not in there:
                raise ValueError(
                    f"{self.name} needs the column {column!r}; the corpus has {', '.join(there)}\n"
                    f"say which one it is, data.columns.{column}=<column>; score {self.name} on another corpus, "
                    f"evaluate.corpora.{self.name}=<one of corpora>; or do without it: {WITHOUT} "
                    "(fit.tasks hear data alone)"
                )
            if not any(text.strip() for text in clips.column(column)):
                raise ValueError(f"{self.name}: no clip of the {split} split has a label in the column {column!r}")

    def choose(self, clips: Clips, most: int) -> np.ndarray:
        """Rows of a split to be used for scoring or training a probe: at most so many, always the same ones."""
        return draw(self.select(clips), most)

    @abstractmethod
    def select(self, clips: Clips) -> np.ndarray:
        """Rows of a split that this task uses: int64, ascending."""

    @abstractmethod
    def prepare(self, train: Clips) -> Self:
        """The same task, knowing the labels of its training clips: those that `select` chose."""

    @abstractmethod
    def targets(self, train: Clips) -> list[Tensor]:
        """What the loss wants of each training clip: int64, (characters,) or ()."""

    @abstractmethod
    def head(self, width: int) -> nn.Module:
        """A module (frames_BTD, lengths_B) -> outputs, in which padding means nothing."""

    @abstractmethod
    def loss(self, outputs: Any, lengths_B: Tensor, targets: Sequence[Tensor], progress: float) -> tuple[Tensor, int]:
        """Sum over labels, and their number; `progress` is the share of the training done, in [0, 1)."""

    @abstractmethod
    def logits(self, outputs: Any, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """What its loss takes the softmax of: (B, T, C), and how many T are a clip's own (B,); 1 if not framewise."""

    @abstractmethod
    def predictions(self, outputs: Any, lengths_B: Tensor) -> list:
        """One prediction for each clip: a text, a class or an embedding."""

    @abstractmethod
    def references(self, clips: Clips) -> list[str]:
        """What a prediction is compared with: the text, class or speaker of each clip."""

    def comparable(self, predictions: Sequence) -> list:
        """Predictions without what `references` do not hold."""
        return list(predictions)

    @abstractmethod
    def score(self, predictions: Sequence, clips: Clips) -> dict[str, float]:
        """Metrics of predictions for all clips, `self.metric` among them."""


def draw(indices: np.ndarray, count: int) -> np.ndarray:
    """At most so many of the rows, always the same ones, in ascending order."""
    if len(indices) <= count:
        return indices
    return np.sort(np.random.default_rng(0).permutation(indices)[:count])
