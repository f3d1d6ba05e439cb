"""The loop that all small upstreams are trained by, and how they are saved."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from distill.features import SAMPLE_RATE
from teachers.pretrain.settings import Pretrain


def batches(lengths: np.ndarray, settings: Pretrain) -> Iterator[np.ndarray]:
    """Clips of like length, about `batch_seconds` of them, for ever."""
    rng = np.random.default_rng(settings.seed)
    while True:
        order = np.argsort(lengths + rng.uniform(0, 0.4 * SAMPLE_RATE, len(lengths)))
        ends = np.cumsum(lengths[order]) / SAMPLE_RATE // settings.batch_seconds
        groups = np.split(order, np.flatnonzero(np.diff(ends)) + 1)
        for group in rng.permutation(len(groups)):
            yield groups[group]


def train(settings: Pretrain, modules: nn.Module, lengths: np.ndarray, loss: Callable) -> None:
    """AdamW, linear warm-up over 8 % of the steps, then linear decay; prints what `loss(clips)` reports."""
    optimizer = torch.optim.AdamW(modules.parameters(), settings.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    start, heard = time.time(), 0.0
    for step, chosen in zip(range(settings.steps), batches(lengths, settings), strict=False):
        done = step / settings.steps
        rate = min((done + 1e-3) / 0.08, (1 - done) / 0.92)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        value, report = loss(chosen, done)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        heard += lengths[chosen].sum() / SAMPLE_RATE
        if step % 50 == 0 or step == settings.steps - 1:
            values = " ".join(f"{name} {number.item():.3f}" for name, number in report.items())
            print(
                f"{step:5d} {time.time() - start:6.0f} s {heard / (time.time() - start):5.0f} x  {values}",
                flush=True,
            )


def save(settings: Pretrain, model: PreTrainedModel, extractor) -> None:
    """float16 safetensors and the feature extractor, as `from_pretrained` wants them."""
    folder = settings.folder()
    model.half().save_pretrained(folder)
    extractor.save_pretrained(folder)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2**20
    print(f"{folder}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {size:.2f} MiB")
