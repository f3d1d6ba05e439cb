"""A toy for the training loop: clips of noise with labels, and an objective whose weight is noted before every pass."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from distill.data.batches import Batch
from distill.data.clips import Clips
from distill.features import SAMPLE_RATE
from distill.loop import Plan

PLAN = Plan("toy", 0, 8, 4.0, 2, 0.1, 0.25, 2, 1)


def speak(count: int) -> Clips:
    """Noise with labels for every task; clips of half a second to a whole one."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        file, samples = io.BytesIO(), int(rng.integers(8000, 16000))
        soundfile.write(file, rng.uniform(-0.3, 0.3, samples), SAMPLE_RATE, format="WAV")
        rows.append(
            {
                "id": f"clip-{i}",
                "audio": {"bytes": file.getvalue(), "path": None},
                "samples": samples,
                "transcript": ["so it is", "it was", "as it is"][i % 3],
                "language": "de" if i % 4 == 3 else "en",
                "style": ["calm", "flat"][i % 2],
                "speaker": f"speaker-{i % 3}",
            }
        )
    return Clips(datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False)))


@dataclass
class Toy:
    """Wants the mean power of clips to be told from their length; notes the weight before every pass."""

    clips: Clips
    spoil: Callable[[int], bool] = lambda call: False
    before: list[float] = field(default_factory=list)

    def counts(self, rows: np.ndarray) -> Tensor:
        return torch.tensor([float(len(rows))])

    def outcome(self, model: nn.Module, batch: Batch, progress: float) -> tuple[Tensor, Tensor]:
        [weight] = [value for value in model.parameters() if value.ndim == 2]
        self.before.append(float(weight.detach()))
        power_B = batch.audio.square().sum(1) / batch.lengths
        told_B = model(torch.rand(len(power_B), 1) + batch.lengths[:, None] / SAMPLE_RATE)[:, 0]
        loss = (told_B - power_B).square().sum()
        if self.spoil(len(self.before) - 1):
            loss = loss * math.nan
        return loss / batch.counts[0], torch.stack([loss.detach(), torch.tensor(float(len(batch.rows)))]).double()

    def read(self, tally: Tensor) -> dict[str, float]:
        return {"loss": float(tally[0] / tally[1])}


def lines(folder: Path) -> list[tuple[str, int]]:
    text = (folder / "metrics.jsonl").read_text()
    return [(line["stage"], line["step"]) for line in map(json.loads, text.splitlines())]
