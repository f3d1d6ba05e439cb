"""What kept features save: CPU time of a probe's step from the cache, and with the encoder hearing its batch.

python -m benchmarks.cache runs/<name>
"""

import sys
from dataclasses import replace
from pathlib import Path
from time import process_time

import numpy as np
import torch
from torch import Tensor

from distill.data.clips import Clips, pad
from distill.data.corpora import load_splits
from distill.encoders.frames import FrameCache, standardiser
from distill.encoders.frozen import Frozen
from distill.features import Encoder
from distill.fusion import Standardiser
from distill.loading import read_saved
from distill.probe import Split, train
from distill.tasks import TASKS
from distill.tasks.task import draw
from students.export import open_student
from teachers import build_teacher

CLIPS, STEPS = 160, 12
CPU = torch.device("cpu")


class Live:
    """Answers as a FrameCache does, hearing whole clips anew every time."""

    def __init__(self, encoder: Encoder, clips: Clips, standardise: Standardiser):
        self.encoder, self.clips, self.standardise = encoder, clips, standardise
        self.lengths, self.rate = encoder.frames(torch.from_numpy(clips.samples)), encoder.grid.rate
        self.hidden_FLD = torch.empty(0, encoder.layers, encoder.width)  # a probe reads its size from it

    @torch.no_grad()
    def batch(self, rows, crop, generator) -> tuple[Tensor, Tensor]:
        audio_BN, lengths_B = pad([self.clips.audio(int(row)) for row in rows])
        features = self.standardise(self.encoder(audio_BN, lengths_B))
        heard = FrameCache(*_joined(features.hidden, features.lengths), self.rate)
        return heard.batch(np.arange(len(rows)), crop, generator)


def _joined(hidden_BLTD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Frames end to end, where each clip starts, how long it is."""
    parts = [hidden_LTD[:, :length].transpose(0, 1) for hidden_LTD, length in zip(hidden_BLTD, lengths_B, strict=True)]
    return torch.cat(parts), lengths_B.cumsum(0) - lengths_B, lengths_B


def step(task: str, clips: Clips, cache, settings) -> float:
    """Milliseconds of CPU time in one step of a probe."""
    rows = TASKS[task].select(clips)
    split, ready = Split(clips.select(rows), cache, rows), TASKS[task].prepare(clips.select(rows))
    budget = replace(settings.budget(task), steps=STEPS)
    train(ready, split, replace(budget, steps=2), 1e-3, 0, CPU)  # warm
    started = process_time()
    train(ready, split, budget, 1e-3, 0, CPU)
    return (process_time() - started) / STEPS * 1000


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    recipe = read_saved(folder / "recipe.yaml")
    whole = load_splits(recipe.data)["train"]
    clips = whole.select(draw(np.arange(len(whole)), CLIPS).tolist())
    teacher = build_teacher(recipe.teacher, recipe.seed)
    teacher.load(folder / "teacher")
    for name, encoder in {"student": open_student(folder / "student"), "teacher": teacher}.items():
        encoder = Frozen(encoder)
        standardise = standardiser(encoder, clips, recipe.evaluate.forward_seconds, CPU)
        started = process_time()
        cache = FrameCache.extract(encoder, clips, standardise, recipe.evaluate.forward_seconds, CPU)
        print(f"{name}: {clips.seconds():.0f} s of audio heard once in {process_time() - started:.2f} s")
        for task in recipe.evaluate.tasks:
            live = step(task, clips, Live(encoder, clips, standardise), recipe.evaluate)
            print(
                f"  {task}: {step(task, clips, cache, recipe.evaluate):.0f} ms a step, {live:.0f} ms without the cache"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
