"""Frozen features in memory or in a file: an encoder hears each clip once, however often heads are trained on it."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from distill.data.clips import Clips
from distill.data.workers import ahead
from distill.encoders.frozen import once
from distill.features import SAMPLE_RATE, Encoder, Features
from distill.fusion import Standardiser
from distill.tasks.task import draw

CALIBRATION_CLIPS = 256  # of the training split, to standardise every layer and channel


def by_length(samples: np.ndarray, seconds: float) -> Iterator[np.ndarray]:
    """Rows in batches of at most so many padded seconds, longest first: hardly any padding."""
    order = np.argsort(-samples, kind="stable")
    start = 0
    while start < len(order):
        clips = max(1, int(seconds * SAMPLE_RATE // samples[order[start]]))
        yield order[start : start + clips]
        start += clips


def hear(encoder: Encoder, clips: Clips, seconds: float, device: torch.device) -> Iterator[tuple[np.ndarray, Features]]:
    """Rows of a batch and their features, until every clip has been heard."""
    for rows, _, features in hear_together([encoder], clips, seconds, device):
        yield rows, features


@torch.no_grad()
def hear_together(
    encoders: Sequence[Encoder], clips: Clips, seconds: float, device: torch.device
) -> Iterator[tuple[np.ndarray, int, Features]]:
    """Rows of a batch, the number of an encoder and its features of them; each batch by all before the next one.

    An upstream that is in several of these encoders hears every batch once, and says what it says alone.
    """
    for encoder in encoders:
        encoder.eval()
    for rows, audio_BN, lengths_B in ahead(clips, by_length(clips.samples, seconds)):
        heard = audio_BN.to(device), lengths_B.to(device)
        with once(encoders):
            for number, encoder in enumerate(encoders):
                yield rows, number, encoder(*heard)


def standardiser(encoder: Encoder, train: Clips, seconds: float, device: torch.device) -> Standardiser:
    """Brings every layer and channel to mean 0 and deviation 1 over some of the training clips."""
    return standardisers([encoder], train, seconds, device)[0]


def standardisers(
    encoders: Sequence[Encoder], train: Clips, seconds: float, device: torch.device
) -> list[Standardiser]:
    """`standardiser` of each, heard together."""
    found = [Standardiser(encoder.layers, encoder.width).to(device) for encoder in encoders]
    moments = [standardise.moments(device) for standardise in found]
    some = train.select(draw(np.arange(len(train)), CALIBRATION_CLIPS).tolist())
    for _, number, features in hear_together(encoders, some, seconds, device):
        moments[number].update(features)
    for standardise, moment in zip(found, moments, strict=True):
        standardise.calibrate(moment)
    return found


def in_file(place: Path, shape: tuple[int, ...]) -> Tensor:
    """A float16 tensor that lives in a new file; OSError where the disk has no room for it."""
    wanted, free = 2 * prod(shape), shutil.disk_usage(place.parent).free
    if wanted > free:
        raise OSError(
            f"{place.parent} has {free / 1e9:.1f} GB free, the features need {wanted / 1e9:.1f} GB; free the place, "
            "name another (runs=<folder>), or lower evaluate.train_clips"
        )
    place.unlink(missing_ok=True)
    return torch.from_file(str(place), shared=True, size=prod(shape), dtype=torch.float16).view(shape)


def in_memory(shape: tuple[int, ...]) -> Tensor:
    """A float16 tensor; ValueError where the memory has no room for it."""
    demand_memory(2 * prod(shape))
    return torch.empty(shape, dtype=torch.float16)


def demand_memory(wanted: int, processes: int = 1) -> None:
    """ValueError where there is no room for so many bytes in each process, which the system would say by killing us."""
    free = psutil.virtual_memory().available
    if wanted * processes > free:
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise ValueError(
            f"the features need {wanted / 1e9:.1f} GB of memory{each}, {free / 1e9:.1f} GB are free; for targets take "
            "distill.targets=online, cached or codes, for evaluation evaluate.cache=disk or fewer evaluate.train_clips"
        )


@dataclass(frozen=True)
class FrameCache:
    """Standardised features of clips in float16, end to end without padding; 1 h of 5 x 160 takes 290 MB."""

    hidden_FLD: Tensor  # F frames of all clips
    starts: Tensor  # (clips,) first frame of each
    lengths: Tensor  # (clips,) frames of each
    rate: float  # frames per second

    @classmethod
    def extract(
        cls,
        encoder: Encoder,
        clips: Clips,
        standardise: Standardiser,
        seconds: float,
        device: torch.device,
        place: Path | None = None,
    ) -> "FrameCache":
        """Hear all clips. They are standardised before rounding, which a large mean would not survive.

        place: a file to keep them in, which the system reads and forgets as it needs; None: in memory.
        """
        return extract_together([encoder], clips, [standardise], seconds, device, [place])[0]

    @classmethod
    def empty(cls, encoder: Encoder, clips: Clips, place: Path | None) -> "FrameCache":
        """With room for an encoder's features of these clips, none of which is there yet."""
        lengths = encoder.frames(torch.from_numpy(clips.samples)).cpu()
        shape = (int(lengths.sum()), encoder.layers, encoder.width)
        hidden_FLD = in_memory(shape) if place is None else in_file(place, shape)
        return cls(hidden_FLD, lengths.cumsum(0) - lengths, lengths, encoder.grid.rate)

    def keep(self, rows: np.ndarray, features: Features, whose: str) -> None:
        """Put the standardised features of some clips where they belong; ValueError beyond float16."""
        hidden_BTLD = features.hidden.transpose(1, 2).to("cpu", torch.float16)
        if not bool(hidden_BTLD.isfinite().all()):
            raise ValueError(f"{whose} gives features that are not finite numbers within float16")
        for row, hidden_TLD in zip(rows, hidden_BTLD, strict=True):
            start, length = int(self.starts[row]), int(self.lengths[row])
            self.hidden_FLD[start : start + length] = hidden_TLD[:length]

    def batch(
        self, rows: Sequence[int] | np.ndarray, crop: int | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Clips side by side, (B, L, T, D) float32 with zeros after each, and their frames (B,).

        crop: a clip of more frames than this is cut to it, at a place drawn from the generator.
        """
        chosen = torch.as_tensor(np.asarray(rows))
        starts_B, lengths_B = self.starts[chosen], self.lengths[chosen]
        if crop is not None:
            spare_B = (lengths_B - crop).clamp(min=0)
            draw_B = torch.rand(len(chosen), generator=generator, dtype=torch.float64)
            starts_B = starts_B + (draw_B * (spare_B + 1)).long()
            lengths_B = lengths_B - spare_B
        shape = (len(chosen), *self.hidden_FLD.shape[1:2], int(lengths_B.max()), self.hidden_FLD.shape[2])
        hidden_BLTD = torch.zeros(shape)
        # A slice a clip: gathering all frames by index takes seven times as long.
        for place_LTD, start, length in zip(hidden_BLTD, starts_B.tolist(), lengths_B.tolist(), strict=True):
            place_LTD[:, :length] = self.hidden_FLD[start : start + length].transpose(0, 1)
        return hidden_BLTD, lengths_B


def extract_together(
    encoders: Sequence[Encoder],
    clips: Clips,
    standardise: Sequence[Standardiser],
    seconds: float,
    device: torch.device,
    places: Sequence[Path | None],
) -> list[FrameCache]:
    """`FrameCache.extract` of each encoder, with its own standardiser and place; heard together, and kept together."""
    caches = [FrameCache.empty(encoder, clips, place) for encoder, place in zip(encoders, places, strict=True)]
    for rows, number, features in hear_together(encoders, clips, seconds, device):
        caches[number].keep(rows, standardise[number](features), type(encoders[number]).__name__)
    return caches


def bytes_of(encoder: Encoder, clips: Clips) -> int:
    """What an encoder's features of these clips take in float16."""
    return 2 * int(encoder.frames(torch.from_numpy(clips.samples)).sum()) * encoder.layers * encoder.width
