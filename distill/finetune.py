"""Fine-tuning: a stock transformers model with its own head, started from the student, learns one task whole."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    HubertForCTC,
    HubertForSequenceClassification,
    PreTrainedModel,
    WavLMForCTC,
    WavLMForSequenceClassification,
    WavLMForXVector,
)

from distill import runtime
from distill.data.batches import Batch, epoch
from distill.data.clips import Clips, pad
from distill.encoders.waveform import Waveform
from distill.features import Features, frame_mask
from distill.fit import Labels
from distill.loop import Plan, optimizer, train
from distill.tasks import Task
from distill.tasks.sv import Voices

CLASSIFIERS: dict[str, type[PreTrainedModel]] = {
    "hubert": HubertForSequenceClassification,
    "wavlm": WavLMForSequenceClassification,
}
STOCK: dict[str, dict[str, type[PreTrainedModel]]] = {  # task -> architecture of the student -> stock model
    "asr": {"hubert": HubertForCTC, "wavlm": WavLMForCTC},
    "sv": {"wavlm": WavLMForXVector},  # transformers has no x-vectors on HuBERT
    "er": CLASSIFIERS,
    "lid": CLASSIFIERS,
}


def stock_tasks(tasks: Sequence[str], architecture: str) -> list[str]:
    """Those tasks that transformers has a stock model of this architecture for."""
    return [task for task in tasks if architecture in STOCK[task]]


class Downstream(nn.Module):
    """A stock model that hears as a Waveform, so that padding means nothing, and says what its task wants.

    What it says of a clip is what the stock model's own `forward` says of that clip alone.
    """

    def __init__(self, stock: PreTrainedModel, *, normalize: bool):
        super().__init__()
        self.stock = stock
        heard: Any = stock.base_model  # a StockModel
        self.encoder = Waveform(heard, normalize=normalize)
        self.say = HEADS[type(stock)]

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> tuple[Tensor | Voices, Tensor]:
        """The head's outputs and the valid frames of each clip, (B,)."""
        heard = self.encoder(audio_BN, lengths_B)
        return self.say(self.stock, heard), heard.lengths


def spell(stock: Any, heard: Features) -> Tensor:
    """HubertForCTC, WavLMForCTC: scores of blank and characters, (B, T, C)."""
    last_BTD = heard.hidden[:, -1]
    if stock.config.do_stable_layer_norm:  # the stack of these ends before the norm, `last_hidden_state` after it
        last_BTD = stock.base_model.encoder.layer_norm(last_BTD)
    return stock.lm_head(stock.dropout(last_BTD))


def classify(stock: Any, heard: Features) -> Tensor:
    """HubertForSequenceClassification, WavLMForSequenceClassification: scores of classes, (B, C)."""
    frames_BTD = stock.projector(weighted(stock, heard)) * heard.mask()[..., None]
    return stock.classifier(frames_BTD.sum(1) / heard.lengths[:, None])


def recognise(stock: Any, heard: Features) -> Voices:
    """WavLMForXVector: embeddings and cosines to the training speakers.

    In a padded batch the stock model pools frames of the padding too: its dilations do not shorten its lengths.
    """
    frames_BTD = stock.projector(weighted(stock, heard))
    for layer in stock.tdnn:
        frames_BTD = layer(frames_BTD)
    lengths_B = heard.lengths - (heard.hidden.shape[2] - frames_BTD.shape[1])
    mask_BT1 = frame_mask(lengths_B, frames_BTD.shape[1])[..., None]
    mean_BD = (frames_BTD * mask_BT1).sum(1) / lengths_B[:, None]
    square_BD = ((frames_BTD - mean_BD[:, None]).square() * mask_BT1).sum(1) / (lengths_B[:, None] - 1)
    pooled_BD = torch.cat([mean_BD, square_BD.clamp(min=1e-10).sqrt()], dim=1)
    embedding_BE = stock.feature_extractor(pooled_BD)
    cosines_BS = F.normalize(stock.classifier(embedding_BE), dim=1) @ F.normalize(stock.objective.weight, dim=0)
    return Voices(F.normalize(embedding_BE, dim=1), cosines_BS)


def weighted(stock: Any, heard: Features) -> Tensor:
    """The stock models' own weighted sum of layers: (B, T, D)."""
    return torch.einsum("bltd,l->btd", heard.hidden, stock.layer_weights.softmax(-1))


HEADS = {
    HubertForCTC: spell,
    WavLMForCTC: spell,
    HubertForSequenceClassification: classify,
    WavLMForSequenceClassification: classify,
    WavLMForXVector: recognise,
}


def start(student: Waveform, task: Task, seed: int) -> Downstream:
    """The student's weights under a random stock head for a prepared task; the front end is frozen."""
    stock_class: Any = STOCK[task.name][student.model.config.model_type]  # pyright knows no heads of these classes
    config = deepcopy(student.model.config)
    config.update(settings(task, student.width))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stock = stock_class(config)
    stock.base_model.load_state_dict(student.model.state_dict())
    stock.base_model.feature_extractor._freeze_parameters()
    return Downstream(stock, normalize=student.normalize)


def settings(task: Task, width: int) -> dict[str, Any]:
    """What a stock head's configuration says of a task."""
    if task.name == "asr":
        return {"vocab_size": len(task.vocabulary) + 1, "pad_token_id": 0, "final_dropout": 0.0}
    names = dict(enumerate(task.vocabulary))
    labels = {"id2label": names, "label2id": {name: i for i, name in names.items()}, "use_weighted_layer_sum": True}
    thin = {"tdnn_dim": [2 * width] * 4 + [4 * width], "xvector_output_dim": width}  # published: 512 and 1500, 512
    return labels | (thin if task.name == "sv" else {})


@dataclass(frozen=True)
class Finetuning:
    """The objective: the task's own loss, averaged over its labels."""

    clips: Clips
    labels: Labels

    def counts(self, rows: np.ndarray) -> Tensor:
        """Labels in a step: (1,)."""
        return torch.tensor([float(max(self.labels.count(rows), 1))])

    def outcome(self, model: nn.Module, batch: Batch, progress: float) -> tuple[Tensor, Tensor]:
        outputs, frames_B = model(batch.audio, batch.lengths)
        wanted = [target for row in batch.rows if (target := self.labels.targets[row]) is not None]
        total, count = self.labels.task.loss(outputs, frames_B, wanted, progress)
        return total / batch.counts[0], torch.tensor([float(total.detach()), count], device=total.device).double()

    def read(self, tally: Tensor) -> dict[str, float]:
        return {"loss": float(tally[0] / tally[1])}


def labelled(task: Task, clips: Clips) -> tuple[Clips, Labels]:
    """The clips that a task uses, and the label of every one; to ask it twice could balance its classes twice."""
    clips = clips.select(task.select(clips))
    ready = task.prepare(clips)
    return clips, Labels(ready, list(ready.targets(clips)))


def finetune(
    accelerator: Accelerator, student: Waveform, task: Task, clips: Clips, weight_decay: float, plan: Plan, folder: Path
) -> tuple[Downstream, Task]:
    """Train a stock model for the task on `clips`; the model on the CPU, and the task with its vocabulary."""
    clips, labels = labelled(task, clips)
    downstream = start(student, labels.task, plan.seed)
    blank = deepcopy(downstream)
    model, trainer = accelerator.prepare(downstream, optimizer(downstream, weight_decay))
    train(accelerator, model, trainer, Finetuning(clips, labels), plan, folder)
    blank.load_state_dict(runtime.weights(accelerator, model))
    return blank.eval(), labels.task


@torch.no_grad()
def score(downstream: Downstream, task: Task, clips: Clips, seconds: float, device: torch.device) -> dict[str, float]:
    """The task's metrics on these clips, in percent; `seconds` of audio in one pass."""
    predictions: list[Any] = [None] * len(clips)
    downstream.to(device).eval()
    for rows in epoch(clips.samples, seconds, 0, 0):
        audio_BN, lengths_B = (part.to(device) for part in pad([clips.audio(row) for row in rows]))
        outputs, frames_B = downstream(audio_BN, lengths_B)
        for row, prediction in zip(rows, task.predictions(outputs, frames_B), strict=True):
            predictions[row] = prediction
    return task.score(predictions, clips)
