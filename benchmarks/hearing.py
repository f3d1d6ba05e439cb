"""How fast encoders hear and probes learn."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from benchmarks.clock import rate
from distill.data.clips import Clips
from distill.encoders.frames import FrameCache, by_length
from distill.features import SAMPLE_RATE, Encoder
from distill.fusion import Standardiser
from distill.probe import Split, train
from distill.protocol import Evaluate
from distill.tasks import TASKS
from distill.tasks.task import draw

POOL = 160  # clips that probes are trained on


def hearing(encoder: Encoder, clips: Clips, seconds: float, device: torch.device) -> float:
    """Audio seconds per second into a FrameCache, by the batch of the middling clips."""
    identity = Standardiser(encoder.layers, encoder.width).to(device)
    batches = list(by_length(clips.samples, seconds))
    few = clips.select(batches[len(batches) // 2].tolist())
    return rate(few.seconds(), lambda: FrameCache.extract(encoder, few, identity, seconds, device))


def probing(name: str, clips: Clips, cache: FrameCache, settings: Evaluate, device: torch.device) -> float:
    """Audio seconds per second, as cropped by the task, in a training that hears every clip once."""
    rows = TASKS[name].select(clips)
    steps = max(len(rows) // settings.batch, 1)
    rows = draw(rows, steps * settings.batch)
    split = Split(clips.select(rows.tolist()), cache, rows)
    task, budget = TASKS[name].prepare(split.clips), replace(settings.budget(name), steps=steps)
    audio = np.minimum(split.clips.samples / SAMPLE_RATE, task.crop_seconds or np.inf).sum()
    return rate(float(audio), lambda: train(task, split, budget, min(settings.learning_rates), 0, device))


def some(clips: Clips, count: float) -> Clips:
    """About so many of the clips, always the same ones."""
    return clips.select(draw(np.arange(len(clips)), round(count)).tolist())


def real_time(encoder: Encoder, clips: Clips, seconds: float, device: torch.device) -> dict[str, float]:
    """Seconds of computing per second of audio: one middling clip alone, and a full batch."""
    middling = clips.select([int(np.argsort(clips.samples)[len(clips) // 2])])
    return {
        "one clip": 1 / hearing(encoder, middling, middling.seconds(), device),
        "full batch": 1 / hearing(encoder, clips, seconds, device),
    }


def evaluate_all(rows: Mapping[str, Encoder], clips: Clips, settings: Evaluate, device: torch.device) -> dict:
    """Rates of hearing by every row, and of training probes on the teacher."""
    seconds, teacher, pool = settings.forward_seconds, rows["teacher"], some(clips, POOL)
    rates = {f"hear, {name}": hearing(encoder, clips, seconds, device) for name, encoder in rows.items()}
    identity = Standardiser(teacher.layers, teacher.width).to(device)
    cache = FrameCache.extract(teacher, pool, identity, seconds, device)
    return rates | {f"probe, {name}": probing(name, pool, cache, settings, device) for name in settings.tasks}
