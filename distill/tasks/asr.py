"""Recognition by CTC: characters of normalised transcripts (asr, several languages too), phones (pr)."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from distill.data.clips import Clips
from distill.features import frame_mask
from distill.metrics import compute
from distill.tasks.task import Task

BLANK = 0  # character i of the vocabulary is output i + 1
FLAT = 0.25  # share of the training with characters spread evenly over the clip; CTC alone sits on a plateau
HIDDEN, KERNEL, DILATIONS = 128, 5, (1, 2, 2)
APOSTROPHES = dict.fromkeys(map(ord, "\u2019\u02bc\u2018\uff07`"), "'")
PAIR = 2  # frames the head takes in one step, giving as many outputs: 50 a second are needed for fast speech


class Spelled(NamedTuple):
    """Scores of a head that has its own frames, fewer than the encoder's."""

    scores_BTC: Tensor
    lengths_B: Tensor


@dataclass(frozen=True)
class Asr(Task):
    """Greedy decoding, no language model; word and character error rate, or the phone error rate.

    A symbol that training never had cannot be said, so in a reference it counts as an error.
    """

    name: str = "asr"
    column: str = "transcript"
    names: bool = False  # the language is to be named before the transcript, and that is scored too
    phones: bool = False  # the column holds phones with spaces between them
    metric: str = "wer"
    make: Callable[[int, int], nn.Module] | None = None  # width, outputs -> head; None: a Speller
    flat: float = FLAT
    vocabulary: tuple[str, ...] = ()
    lower_is_better = True
    crop_seconds = None
    framewise = True

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column, "language") if self.names else (self.column,)

    def select(self, clips: Clips) -> np.ndarray:
        return np.flatnonzero([bool(text) for text in self.references(clips)])

    def prepare(self, train: Clips) -> "Asr":
        symbols = sorted({symbol for text in self._symbols(train) for symbol in text})
        if not symbols:
            raise ValueError(f"{self.name}: no training clip has a {self.column} (of data.languages, if given)")
        return replace(self, vocabulary=tuple(symbols))

    def targets(self, train: Clips) -> list[Tensor]:
        number = {symbol: i + 1 for i, symbol in enumerate(self.vocabulary)}
        return [torch.tensor([number[symbol] for symbol in text]) for text in self._symbols(train)]

    def _symbols(self, clips: Clips) -> list[list[str]]:
        """Those of each clip, its language's name first where that is wanted."""
        texts = [text.split() if self.phones else list(text) for text in self.references(clips)]
        if not self.names:
            return texts
        return [[f"[{name}]", *text] for name, text in zip(clips.column("language"), texts, strict=True)]

    def head(self, width: int) -> nn.Module:
        return (self.make or Speller)(width, len(self.vocabulary) + 1)

    def loss(
        self, outputs: Tensor | Spelled, lengths_B: Tensor, targets: Sequence[Tensor], progress: float
    ) -> tuple[Tensor, int]:
        """Counted in symbols. A clip with fewer frames than CTC needs adds nothing."""
        outputs, lengths_B = self.logits(outputs, lengths_B)
        sizes_B = torch.tensor([len(target) for target in targets], device=outputs.device)
        targets_BS = pad_sequence(list(targets), batch_first=True).to(outputs.device)
        if progress < self.flat:
            return flat_loss(outputs, lengths_B, targets_BS, sizes_B), int(sizes_B.sum())
        scores_TBC = outputs.float().log_softmax(-1).transpose(0, 1)
        total = F.ctc_loss(scores_TBC, targets_BS, lengths_B, sizes_B, BLANK, reduction="sum", zero_infinity=True)
        return total, int(sizes_B.sum())

    def logits(self, outputs: Tensor | Spelled, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        return outputs if isinstance(outputs, Spelled) else (outputs, lengths_B)

    def predictions(self, outputs: Tensor | Spelled, lengths_B: Tensor) -> list[str]:
        outputs, lengths_B = self.logits(outputs, lengths_B)
        best = outputs.argmax(-1).cpu()
        return [self._spell(row[:length]) for row, length in zip(best, lengths_B.tolist(), strict=True)]

    def _spell(self, best_T: Tensor) -> str:
        runs = torch.unique_consecutive(best_T).tolist()
        return (" " if self.phones else "").join(self.vocabulary[i - 1] for i in runs if i != BLANK)

    def references(self, clips: Clips) -> list[str]:
        texts = clips.column(self.column)
        return [" ".join(text.split()) for text in texts] if self.phones else [normal(text) for text in texts]

    def comparable(self, predictions: Sequence[str]) -> list[str]:
        return [split_name(text)[1] for text in predictions] if self.names else list(predictions)

    def score(self, predictions: Sequence[str], clips: Clips) -> dict[str, float]:
        references, texts = self.references(clips), self.comparable(predictions)
        if self.phones:
            return {"per": compute("wer", texts, references)}
        scores = {name: compute(name, texts, references) for name in ("wer", "cer")}
        if not self.names:
            return scores
        named = [split_name(text)[0] for text in predictions]
        return scores | {"lid": compute("accuracy", named, clips.column("language"))}


def split_name(text: str) -> tuple[str, str]:
    """`[eng]hello` -> `eng`, `hello`; a text that names no language comes back whole."""
    if not text.startswith("["):
        return "", text
    name, _, rest = text[1:].partition("]")
    return name, re.sub(r"\[[^]]*\]", "", rest)


def normal(text: str) -> str:
    """A transcript in lower case without punctuation: letters with their marks, digits, apostrophes within words."""
    text = unicodedata.normalize("NFKC", text).lower().translate(APOSTROPHES)
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return " ".join(re.sub(r"(?<!\w)'+|'+(?!\w)", " ", kept).split())


def flat_loss(outputs_BTC: Tensor, lengths_B: Tensor, targets_BS: Tensor, sizes_B: Tensor) -> Tensor:
    """Cross-entropy of characters spread evenly over their clip, which weighs as many as it has."""
    frames = outputs_BTC.shape[1]
    at_BT = torch.arange(frames, device=lengths_B.device) * sizes_B[:, None] // lengths_B[:, None]
    wanted_BT = targets_BS.gather(1, at_BT.clamp(max=targets_BS.shape[1] - 1))
    loss_BT = F.cross_entropy(outputs_BTC.transpose(1, 2).float(), wanted_BT, reduction="none")
    weight_BT = frame_mask(lengths_B, frames) * (sizes_B / lengths_B)[:, None]
    return (loss_BT * weight_BT).sum()


class Speller(nn.Module):
    """Convolutions over pairs of frames, with residuals, then scores of blank and characters for every frame.

    Pairs halve the cost and help CTC: on log-mel of the embedded corpus, at an equal rate and equal steps, two
    convolutions reach a WER of 90 over pairs and of 96 over single frames. A BiLSTM took four times as long.
    """

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.enter = nn.Linear(PAIR * width, HIDDEN)
        self.before, self.after = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(HIDDEN, HIDDEN, KERNEL, padding=KERNEL // 2 * dilation, dilation=dilation)
            for dilation in DILATIONS
        )
        self.leave = nn.Linear(HIDDEN, PAIR * outputs)

    def forward(self, frames_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        clips, frames, _ = frames_BTD.shape
        frames_BTD = frames_BTD * frame_mask(lengths_B, frames)[..., None]
        pairs_BPD = F.pad(frames_BTD, (0, 0, 0, -frames % PAIR)).reshape(clips, -1, self.enter.in_features)
        mask_B1P = frame_mask((lengths_B + PAIR - 1) // PAIR, pairs_BPD.shape[1])[:, None]
        hidden_BHP = self.before(F.gelu(self.enter(pairs_BPD))).transpose(1, 2)
        for convolution in self.convolutions:
            hidden_BHP = hidden_BHP + F.gelu(convolution(hidden_BHP * mask_B1P))
        outputs_BPC = self.leave(self.after(hidden_BHP.transpose(1, 2)))
        return outputs_BPC.reshape(clips, -1, outputs_BPC.shape[-1] // PAIR)[:, :frames]
