"""What a small upstream learns from: training clips in memory, noisy and clean."""

from dataclasses import dataclass, replace

import numpy as np
import soxr

from distill.data import effects
from distill.data.clips import Clips
from distill.data.corpora import load_splits
from distill.data.embedded import EmbeddedCorpus, build
from distill.features import SAMPLE_RATE
from teachers.pretrain.settings import Pretrain

DECIBELS = (5.0, 25.0)  # signal-to-noise ratio of noise over recordings
TRACTS = (0.86, 0.93, 1.0, 1.08, 1.16)  # that a voice may be heard with


@dataclass(frozen=True)
class Material:
    """The pretraining corpus in memory, every clip twice."""

    noisy: list[np.ndarray]
    clean: list[np.ndarray]
    clips: Clips
    tracts: np.ndarray  # (clips,) factor on formants and pitch, and tempo with them, at which each is heard

    @property
    def samples(self) -> np.ndarray:
        """Lengths of the clips as they are heard: (clips,)."""
        return np.array([len(audio) for audio in self.noisy])

    def heard(self, rows: np.ndarray, noisy: float, rng: np.random.Generator) -> list[np.ndarray]:
        """These clips, so large a share of them with noise."""
        return [self.noisy[row] if rng.random() < noisy else self.clean[row] for row in rows]

    def select(self, rows: np.ndarray) -> "Material":
        noisy, clean = ([audio[row] for row in rows] for audio in (self.noisy, self.clean))
        return Material(noisy, clean, self.clips.select(rows), self.tracts[rows])

    def varied(self, seed: int) -> "Material":
        """Every clip with a vocal tract drawn for it: more voices than speakers."""
        tracts = np.random.default_rng(seed).choice(TRACTS, len(self.clean))
        noisy, clean = (
            [spoken_by(audio, tract) for audio, tract in zip(part, tracts, strict=True)]
            for part in (self.noisy, self.clean)
        )
        return Material(noisy, clean, self.clips, tracts)


def spoken_by(audio: np.ndarray, tract: float) -> np.ndarray:
    """A shorter vocal tract (above 1) or a longer one: played faster or slower."""
    return soxr.resample(audio, SAMPLE_RATE * tract, SAMPLE_RATE).astype(np.float32)


def material(settings: Pretrain) -> Material:
    """Training voices and training sentences only."""
    return spoken(settings) if settings.data.corpus == "embedded" else recorded(settings)


def corpus(settings: Pretrain) -> EmbeddedCorpus:
    """Training voices and sentences alone."""
    return EmbeddedCorpus(
        seed=settings.seed + 1000,
        train_english=settings.english,
        train_other=settings.other,
        validation_english=0,
        validation_other=0,
        test_english=0,
        test_other=0,
    )


def spoken(settings: Pretrain) -> Material:
    """The embedded corpus; noisy with room, channel and noise, clean without."""
    far = Clips(build(corpus(settings)))
    near = Clips(build(replace(corpus(settings), effects=False)))
    assert far.ids == near.ids
    noisy = [far.audio(i) for i in range(len(far))]
    clean = [near.audio(i) for i in range(len(near))]
    return Material(
        noisy, [np.resize(one, len(other)) for one, other in zip(clean, noisy, strict=True)], far, np.ones(len(far))
    )


def recorded(settings: Pretrain) -> Material:
    """The training split alone that a recipe with the same `data` has; clean as recorded, noisy with noise over it."""
    clips = load_splits(settings.data)["train"]
    clean = [clips.audio(i) for i in range(len(clips))]
    rng = np.random.default_rng(settings.seed)
    noisy = [effects.noise(clip, rng, *DECIBELS).astype(np.float32) for clip in clean]
    return Material(noisy, clean, clips, np.ones(len(clips)))
