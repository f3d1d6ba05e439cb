"""What a waveform model is asked: the class of every frame, and of whole clips where those are known."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill.data.clips import Clips
from distill.features import SAMPLE_RATE
from teachers.pretrain.alignment import phones_of
from teachers.pretrain.clusters import CODEBOOKS, HOP, clean_mel, clusters
from teachers.pretrain.material import Material

CENTRE = 195  # samples to the first frame's
PHONES = 120  # classes, by frequency
NONE = -100  # no class


@dataclass(frozen=True)
class Said:
    """The phones of a clip."""

    phones: list[str]
    starts: np.ndarray  # seconds

    def at(self, seconds: np.ndarray) -> list[str]:
        """The phone at each of these times, "" before the first."""
        index = np.searchsorted(self.starts, seconds, side="right") - 1
        return [self.phones[i] if i >= 0 else "" for i in index]


@dataclass(frozen=True)
class Lessons:
    """The classes by name, and the spectrum that the start is made with."""

    frames: Mapping[str, list[np.ndarray]]  # one (T,) array for each clip, NONE where there is no class
    clips: Mapping[str, np.ndarray]  # (clips,)
    sizes: Mapping[str, int]  # how many classes there are at most
    mel: list[np.ndarray]  # of the clean speech, (T, 80)


def found(data: Material, frames: Sequence[int], books: Sequence[str], seed: int) -> Lessons:
    """Clusters of the clean speech, as self-supervised learning finds them."""
    labels = clusters(data.clean, list(frames), seed)
    return Lessons({name: labels[name] for name in books}, {}, CODEBOOKS, labels["mel"])


def known(data: Material, said: Sequence[Said], frames: Sequence[int]) -> Lessons:
    """Phones, and voices and styles where every clip has one.

    A voice with another vocal tract is another voice, as it is in the embedded corpus.
    """
    told = {}
    if labelled(data.clips, "speaker"):
        speakers = zip(data.clips.column("speaker"), data.tracts, strict=True)
        told["voice"] = numbers([f"{speaker}*{tract}" for speaker, tract in speakers])
    if labelled(data.clips, "style"):
        told["style"] = numbers(data.clips.column("style"))
    mel = [clean_mel(clip, count).numpy() for clip, count in zip(data.clean, frames, strict=True)]
    sizes = {"phone": PHONES} | {name: int(classes.max()) + 1 for name, classes in told.items()}
    return Lessons({"phone": phones(said, data.tracts, frames)}, told, sizes, mel)


def labelled(clips: Clips, column: str) -> bool:
    """Whether every clip has this label."""
    return column in clips.dataset.column_names and all(clips.column(column))


def spoken(clips: Clips) -> list[Said]:
    """The phones of the embedded corpus."""
    rows = zip(clips.dataset["phones"], clips.dataset["phone_starts"], strict=True)
    return [Said([phone.strip("',") for phone in names], np.asarray(starts)) for names, starts in rows]


def said_in(clips: Clips) -> list[Said]:
    """As the synthesizer knows them, or as they are found in recordings with transcripts."""
    if "phone_starts" in clips.dataset.column_names:
        return spoken(clips)
    aligned = phones_of(clips, [clips.audio(row) for row in range(len(clips))])
    return [Said(phones, np.arange(len(phones)) / 50 - 0.01) for phones in aligned]


def phones(said: Sequence[Said], tracts: np.ndarray, frames: Sequence[int]) -> list[np.ndarray]:
    """The phone at every frame of clips played faster by `tracts`, by how common it is: one (T,) array for each."""
    heard = [
        one.at((CENTRE + HOP * np.arange(count)) / SAMPLE_RATE * tract)
        for one, tract, count in zip(said, tracts, frames, strict=True)
    ]
    return ranked(heard, PHONES)


def ranked(labels: Sequence[Sequence[str]], most: int) -> list[np.ndarray]:
    """Labels by how common they are, NONE for those beyond `most`: one (T,) array for each clip."""
    common = Counter(label for clip in labels for label in clip).most_common(most)
    number = {label: index for index, (label, _) in enumerate(common)}
    return [np.asarray([number.get(label, NONE) for label in clip], dtype=np.int64) for clip in labels]


def numbers(labels: Sequence[str]) -> np.ndarray:
    """Labels by their place in the alphabet."""
    return np.unique(np.asarray(labels), return_inverse=True)[1]
