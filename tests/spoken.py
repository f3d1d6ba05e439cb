"""Clips whose labels can be heard, or cannot, and an encoder that hears, for tests of what comes after encoders."""

import io

import datasets
import numpy as np
import soundfile
import torch

from distill.data.clips import Clips
from distill.features import Encoder, Features, Grid, zero_padding


class Levels(Encoder):
    """Hears the mean and the deviation of every 20 ms, in three layers; counts the clips it hears."""

    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.grid, self.layers, self.width = Grid(50.0, 0.01), 3, 4
        self.mix = torch.nn.Linear(2, 12)
        torch.manual_seed(0)
        torch.nn.init.normal_(self.mix.weight, std=gain)
        self.heard = 0

    def frames(self, samples_B):
        return samples_B // 320

    def forward(self, audio_BN, lengths_B):
        self.heard += len(audio_BN)
        frames = audio_BN.shape[1] // 320
        blocks_BTN = audio_BN[:, : frames * 320].reshape(len(audio_BN), frames, 320)
        mixed_BTX = self.mix(torch.stack([blocks_BTN.mean(-1), blocks_BTN.std(-1)], -1))
        hidden_BLTD = mixed_BTX.unflatten(-1, (3, 4)).transpose(1, 2)
        return Features(zero_padding(hidden_BLTD, self.frames(lengths_B)), self.frames(lengths_B), self.grid)


def make_clips(**columns: list) -> Clips:
    """Labels without any sound, for tests that decode none."""
    count = len(next(iter(columns.values())))
    rows = {"id": [str(i) for i in range(count)], "samples": [16_000] * count, "audio": [None] * count} | columns
    return Clips(datasets.Dataset.from_dict(rows))


def speak(count: int, seed: int, speakers: int = 4) -> Clips:
    """Clips whose level tells the language and whose noise tells the style; half a second and more."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        language, style = i % 3, (i // 3) % 2
        noise = (0.05 + 0.1 * style) * rng.standard_normal(int(rng.integers(8000, 24000)))
        file = io.BytesIO()
        soundfile.write(file, np.clip(0.2 * language + noise, -1, 1), 16_000, format="WAV", subtype="FLOAT")
        rows.append(
            {
                "id": f"{seed}-{i}",
                "audio": {"bytes": file.getvalue(), "path": None},
                "samples": len(noise),
                "language": ["de", "en", "sv"][language],
                "style": ["calm", "flat"][style],
                "speaker": f"{seed}-{i % speakers}",
            }
        )
    return Clips(datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False)))
