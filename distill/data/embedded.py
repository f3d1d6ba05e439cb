"""The embedded corpus: speech of many voices, styles and languages, spoken by espeak-ng in seconds, from a seed.

It is no substitute for human speech. It is there so that everything can be tried, tested and compared at once,
with no network: sentences for ASR, voices never heard in training for SV, speaking styles as a stand-in for
emotion, and ten languages for LID.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp

import datasets
import numpy as np

from distill.data.espeak import UNSTEADY, VARIANTS
from distill.data.sentences import LANGUAGES, draw

VERSION = 1  # raise it when the same settings give another corpus
SHARDS = 8  # fixed, so that the corpus does not depend on the number of cores
TEST_VOICES, VALIDATION_VOICES = 25, 9  # with an unsteady one among the former; the rest trains

# style -> factors on the voice's own rate (words per minute) and range, and steps added to its pitch
STYLES = {
    "neutral": (1.0, 1.0, 0),
    "excited": (1.25, 1.8, 10),
    "calm": (0.8, 0.7, -6),
    "flat": (1.0, 0.15, -2),
}


@dataclass(frozen=True)
class EmbeddedCorpus:
    """What is spoken; equal settings give equal bytes."""

    seed: int = 0
    train_english: int = 2700  # clips
    train_other: int = 190  # clips of each other language
    validation_english: int = 300
    validation_other: int = 30
    test_english: int = 480
    test_other: int = 48
    longest: float = 4.0  # seconds; longer clips are left out
    noise_low: float = 3.0  # dB signal-to-noise ratio
    noise_high: float = 20.0
    effects: bool = True  # room, channel and noise


@dataclass(frozen=True)
class Voice:
    """One speaker: a variant of espeak-ng, a habitual pitch, rate and range, a length of the vocal tract."""

    variant: str
    pitch: int  # espeak's 0..99
    rate: int  # words per minute
    range: int  # espeak's 0..99
    tract: float  # factor on formants and pitch
    split: str


def voices() -> list[Voice]:
    """All speakers; who is in which split never depends on a seed, so that upstreams can be trained apart."""
    rng = np.random.default_rng(88)
    splits = ["test"] * TEST_VOICES + ["validation"] * VALIDATION_VOICES
    splits += ["train"] * (len(VARIANTS) - len(splits))
    everyone = [
        Voice(
            variant=str(variant),
            pitch=int(rng.integers(40, 61)),
            rate=int(rng.integers(160, 191)),
            range=int(rng.integers(40, 56)),
            tract=float(rng.uniform(0.9, 1.12)),
            split=split,
        )
        for variant, split in zip(rng.permutation(VARIANTS), splits, strict=True)
    ]
    return [voice for voice in everyone if voice.variant not in UNSTEADY]


def plan(settings: EmbeddedCorpus) -> list[dict]:
    """Every clip to be spoken, as plain rows for `distill.data.synthesis`."""
    rng = np.random.default_rng(settings.seed)
    counts = {
        "train": (settings.train_english, settings.train_other),
        "validation": (settings.validation_english, settings.validation_other),
        "test": (settings.test_english, settings.test_other),
    }
    rows = []
    for split, (english, other) in counts.items():
        speakers = [voice for voice in voices() if voice.split == split]
        for language in LANGUAGES:
            for index in range(english if language == "en" else other):
                voice = speakers[index % len(speakers)]
                rows.append(_row(settings, rng, split, language, voice, len(rows)))
    return rows


def _row(
    settings: EmbeddedCorpus, rng: np.random.Generator, split: str, language: str, voice: Voice, number: int
) -> dict:
    style = str(rng.choice(list(STYLES)))
    rate, pitch_range, pitch = STYLES[style]
    return {
        "id": f"{split}-{number:05d}",
        "split": split,
        "language": language,
        "transcript": draw(language, split, rng),
        "speaker": voice.variant,
        "style": style,
        "variant": voice.variant,
        "tract": voice.tract,
        "rate": int(voice.rate * rate * rng.uniform(0.94, 1.06)),
        "pitch": int(np.clip(voice.pitch + pitch + rng.integers(-2, 3), 0, 99)),
        "range": int(np.clip(voice.range * pitch_range * rng.uniform(0.85, 1.15), 0, 99)),
        "seed": int(rng.integers(2**31)),
        "effects": settings.effects,
        "noise": [settings.noise_low, settings.noise_high],
        "longest": settings.longest,
    }


def fingerprint(settings: EmbeddedCorpus) -> str:
    """Names the corpus: its settings, this module's version, and espeak-ng's."""
    what = {"settings": asdict(settings), "version": VERSION, "espeakng-loader": version("espeakng-loader")}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Where corpora are kept: `$XDG_CACHE_HOME/fusedistill`, by default `~/.cache/fusedistill`."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fusedistill"


def build(settings: EmbeddedCorpus) -> datasets.Dataset:
    """The corpus as a dataset with the columns of `distill.data.clips`; spoken once, then read from the cache."""
    folder = cache_folder() / f"embedded-{fingerprint(settings)}"
    if not folder.exists():
        _speak(settings, folder)
    features = datasets.Features.from_arrow_schema(_schema()) | {"audio": datasets.Audio(decode=False)}
    info = datasets.DatasetInfo(features=datasets.Features(features))
    shards = [datasets.Dataset.from_file(str(folder / f"{i}.arrow"), info=info) for i in range(SHARDS)]
    return datasets.concatenate_datasets(shards)


def _schema():
    from distill.data.synthesis import SCHEMA

    return SCHEMA


def _speak(settings: EmbeddedCorpus, folder: Path) -> None:
    """All shards into a temporary folder, two at a time and more, renamed when whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))  # in containers, process numbers repeat
    rows = plan(settings)
    waiting, running = list(range(SHARDS)), []
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                running.append(_start_shard(unfinished, waiting.pop(0), rows))
            if running.pop(0).wait() != 0:
                raise OSError(f"speaking the embedded corpus failed; see the message above. Folder: {unfinished}")
        try:
            os.replace(unfinished, folder)
        except OSError:
            if not folder.exists():  # another process was faster: its corpus is the same
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _start_shard(folder: Path, shard: int, rows: list[dict]) -> subprocess.Popen:
    plan_file = folder / f"{shard}.json"
    plan_file.write_text(json.dumps(rows[shard::SHARDS]))
    out = folder / f"{shard}.arrow"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "distill.data.synthesis", str(plan_file), str(out)]
    return subprocess.Popen(command, cwd=root)
