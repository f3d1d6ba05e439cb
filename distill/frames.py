"""Frozen features in memory or in a file: an encoder hears each clip once, however often heads are trained on it."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.data.clips import Clips
from distill.data.workers import ahead
from distill.features import SAMPLE_RATE, Encoder, Features
from distill.fusion import Moments, Standardiser
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


@torch.no_grad()
def hear(encoder: Encoder, clips: Clips, seconds: float, device: torch.device) -> Iterator[tuple[np.ndarray, Features]]:
    """Rows of a batch and their features, until every clip has been heard."""
    encoder.eval()
    for rows, audio_BN, lengths_B in ahead(clips, by_length(clips.samples, seconds)):
        yield rows, encoder(audio_BN.to(device), lengths_B.to(device))


def standardiser(encoder: Encoder, train: Clips, seconds: float, device: torch.device) -> Standardiser:
    """Brings every layer and channel to mean 0 and deviation 1 over some of the training clips."""
    moments = Moments.empty(encoder.layers, encoder.width, device)
    some = train.select(draw(np.arange(len(train)), CALIBRATION_CLIPS).tolist())
    for _, features in hear(encoder, some, seconds, device):
        moments.update(features)
    standardise = Standardiser(encoder.layers, encoder.width).to(device)
    standardise.calibrate(moments)
    return standardise


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
        lengths = encoder.frames(torch.from_numpy(clips.samples)).cpu()
        starts = lengths.cumsum(0) - lengths
        shape = (int(lengths.sum()), encoder.layers, encoder.width)
        hidden_FLD = torch.empty(shape, dtype=torch.float16) if place is None else in_file(place, shape)
        for rows, features in hear(encoder, clips, seconds, device):
            hidden_BTLD = standardise(features).hidden.transpose(1, 2).to("cpu", torch.float16)
            if not bool(hidden_BTLD.isfinite().all()):
                raise ValueError(f"{type(encoder).__name__} gives features that are not finite numbers within float16")
            for row, hidden_TLD in zip(rows, hidden_BTLD, strict=True):
                start, length = int(starts[row]), int(lengths[row])
                hidden_FLD[start : start + length] = hidden_TLD[:length]
        return cls(hidden_FLD, starts, lengths, encoder.grid.rate)

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
