"""Which phone is spoken when, in recordings that only have transcripts: espeak-ng says the same, and time is warped.

Dynamic time warping of synthetic speech onto a recording is an old way to align a text; the phones of the synthetic
speech are known to the millisecond.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from distill.data.clips import Clips
from distill.data.espeak import Espeak
from distill.data.synthesis import speak
from teachers.pretrain.clusters import HOP, clean_mel, phonetic

VOICES = (("m3", 0.95), ("f4", 1.0), ("f4", 1.2))  # espeak's variant, factor on formants; the nearest is taken
PAUSE = 4  # frames
RATE, PITCH, RANGE = 150, 50, 50  # words per minute, then espeak's 0..99


@dataclass(frozen=True)
class Reading:
    """A sentence as espeak-ng says it."""

    features_UD: Tensor  # U frames
    phones: list[str]
    starts: np.ndarray  # seconds

    def at(self, frame: np.ndarray) -> list[str]:
        """The phones of these frames."""
        spoken = np.searchsorted(self.starts, frame / 50 + 0.01, side="right") - 1
        return [self.phones[i] if i >= 0 else "_" for i in spoken]


def phones_of(clips: Clips, audio: Sequence[np.ndarray]) -> list[list[str]]:
    """The phone of every frame of 20 ms of clips with transcript and language, "" where nobody speaks."""
    espeak = Espeak()
    return [
        align(clip, [say(espeak, text, language, *voice) for voice in VOICES])
        for clip, text, language in zip(audio, clips.column("transcript"), clips.column("language"), strict=True)
    ]


def say(espeak: Espeak, text: str, language: str, variant: str, tract: float) -> Reading:
    row = {"transcript": text, "language": language, "variant": variant, "tract": tract}
    audio, speech = speak(espeak, row | {"rate": RATE, "pitch": PITCH, "range": RANGE})
    return Reading(phonetic(mel_of(audio)), [phone.strip("',") for phone in speech.phones], np.asarray(speech.starts))


def mel_of(audio: np.ndarray) -> Tensor:
    """Log-mel of every frame of 20 ms, the last one begun: (N,) -> (T, 80)."""
    return clean_mel(audio, -(-len(audio) // HOP))


def align(audio: np.ndarray, readings: Sequence[Reading]) -> list[str]:
    """By the reading that is nearest; pauses are left out, or a phone would last as long."""
    mel_TD = mel_of(audio)
    rows = voiced(mel_TD).nonzero()[:, 0]
    features_TD = phonetic(mel_TD[rows])
    ways = [warp(torch.cdist(features_TD, reading.features_UD).numpy()) for reading in readings]
    best = min(range(len(readings)), key=lambda number: ways[number][1])
    phones = [""] * len(mel_TD)
    for row, phone in zip(rows.tolist(), readings[best].at(ways[best][0]), strict=True):
        phones[row] = phone
    return phones


def voiced(mel_TD: Tensor) -> Tensor:
    """Frames that are loud for their clip, and PAUSE frames at either side of them: (T,) bool."""
    loudness_T = mel_TD.mean(1)
    low, high = loudness_T.quantile(0.05), loudness_T.quantile(0.95)
    loud_T = loudness_T > low + 0.4 * (high - low)
    return max_pool1d(loud_T.float()[None], 2 * PAUSE + 1, 1, PAUSE)[0] > 0


def warp(cost_TU: np.ndarray) -> tuple[np.ndarray, float]:
    """The frame of the second sequence that goes with each of the first, and the mean cost on the way."""
    total_TU = np.empty_like(cost_TU)
    before = np.append(0.0, np.full(cost_TU.shape[1], np.inf))  # of the row above, and left of it
    for row, cost in zip(total_TU, cost_TU, strict=True):
        summed = cost.cumsum()
        row[:] = summed + np.minimum.accumulate(np.minimum(before[1:], before[:-1]) - summed + cost)
        before = np.append(np.inf, row)
    return follow(total_TU), float(total_TU[-1, -1] / sum(cost_TU.shape))


def follow(total_TU: np.ndarray) -> np.ndarray:
    """Back along the cheapest way: (T,)."""
    t, u = total_TU.shape[0] - 1, total_TU.shape[1] - 1
    way = np.zeros(len(total_TU), dtype=np.int64)
    way[t] = u
    while t or u:
        steps = [(t - 1, u - 1), (t - 1, u), (t, u - 1)]
        t, u = min((step for step in steps if min(step) >= 0), key=lambda step: total_TU[step])
        way[t] = u
    return way
