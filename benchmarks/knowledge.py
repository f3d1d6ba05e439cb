"""What each layer of teachers and students knows of phones, speakers, styles and languages, by linear probes.

python -m benchmarks.knowledge runs/<run> [runs/<other run> ...]

The first run's upstreams, fused teacher, student and untrained student, and the other runs' students. A ridge
classifier reads one layer: of phones at single frames, of the rest the mean and deviation over a clip. Phones, styles
and languages are learned from the training split and told of the test split; its speakers are in no other split, so
half of each one's clips learn and the other half is scored. In percent; a table of the best layers, and knowledge.json
beside the first run with all of them. Of recordings the phones are those of espeak-ng's reading, warped onto them, and
styles and languages are asked where the training split has several. The corpus needs a column speaker with two speakers
or more in the test split; runs are called by their folders' names, which must differ.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from distill.data.clips import Clips
from distill.data.corpora import load_splits
from distill.data.embedded import build
from distill.data.settings import Data
from distill.encoders.frames import hear
from distill.features import SAMPLE_RATE, Encoder, Features
from distill.files import write_json
from distill.loading import read_saved
from distill.run import Run
from distill.tasks.task import draw
from students import make_student
from students.export import open_student
from teachers import build_teacher
from teachers.pretrain.lessons import Said, said_in

TRAIN, TEST = 900, 600  # clips at most
FRAMES = 12  # of each clip, for phones
SECONDS = 40.0  # of audio in a pass
PHONES = 40  # the most common ones of the training clips
STRENGTH = 100.0  # of the ridge
CLIP_LABELS = ("style", "language")


@dataclass(frozen=True)
class Heard:
    """Some clips as an encoder hears them, every layer for itself: L layers, C clips, F frames."""

    clips_LCD: np.ndarray  # mean and deviation over frames
    frames_LFD: np.ndarray
    phones: list[str]  # of the frames


@dataclass(frozen=True)
class Asked:
    """Some clips, and which phone is spoken when."""

    clips: Clips
    said: list[Said]

    @classmethod
    def of(cls, clips: Clips, most: int) -> "Asked":
        """At most so many of the clips."""
        some = clips.select(draw(np.arange(len(clips)), most).tolist())
        return cls(some, said_in(some))

    def labels(self) -> list[str]:
        """What tells these clips apart."""
        there = [name for name in CLIP_LABELS if name in self.clips.dataset.column_names]
        return [name for name in there if len(set(self.clips.column(name))) > 1]


def listen(encoder: Encoder, asked: Asked) -> Heard:
    """Hear the clips; which frames are kept depends on nothing but the clip."""
    pooled, frames, phones, clips, said = {}, {}, {}, asked.clips, asked.said
    for rows, features in hear(encoder.eval(), clips, SECONDS, torch.device("cpu")):
        for row, own_LTD in zip(rows.tolist(), own(features), strict=True):
            centres = features.grid.first + np.arange(own_LTD.shape[1]) / features.grid.rate
            seconds = drawn_seconds(clips, row)
            nearest = np.abs(centres[:, None] - seconds).argmin(0)
            frames[row], phones[row] = own_LTD[:, nearest], said[row].at(seconds)
            pooled[row] = np.concatenate([own_LTD.mean(1), own_LTD.std(1)], axis=1)
    order = range(len(clips))
    told = [phone for row in order for phone in phones[row]]
    return Heard(
        np.stack([pooled[row] for row in order], 1), np.concatenate([frames[row] for row in order], axis=1), told
    )


def own(features: Features) -> Iterator[np.ndarray]:
    """Each clip's valid frames: (L, T, D)."""
    for hidden_LTD, length in zip(features.hidden, features.lengths.tolist(), strict=True):
        yield hidden_LTD[:, :length].numpy()


def drawn_seconds(clips: Clips, row: int) -> np.ndarray:
    """Times within a clip, the same for every encoder: (FRAMES,)."""
    return np.random.default_rng(row).uniform(0, clips.samples[row] / SAMPLE_RATE, FRAMES)


def told(train_ND: np.ndarray, labels: np.ndarray, test_ND: np.ndarray, wanted: np.ndarray) -> float:
    """Percent of the test rows that a ridge classifier of the training rows tells right."""
    probe = make_pipeline(StandardScaler(), RidgeClassifier(STRENGTH))
    return 100 * float((probe.fit(train_ND, labels).predict(test_ND) == wanted).mean())


def know(encoder: Encoder, train: Asked, test: Asked) -> dict[str, list[float]]:
    """What is told of the test clips by each layer."""
    learned, asked = listen(encoder, train), listen(encoder, test)
    found = {"phone": phone(learned, asked), "speaker": speaker(asked, np.asarray(test.clips.column("speaker")))}
    for label in train.labels():
        labels, wanted = np.asarray(train.clips.column(label)), np.asarray(test.clips.column(label))
        layers = zip(learned.clips_LCD, asked.clips_LCD, strict=True)
        found[label] = [told(train_CD, labels, test_CD, wanted) for train_CD, test_CD in layers]
    return found


def phone(learned: Heard, asked: Heard) -> list[float]:
    """Of the frames that say one of the most common phones."""
    names, counts = np.unique([name for name in learned.phones if name], return_counts=True)
    common = names[np.argsort(-counts)][:PHONES]
    labels, wanted = np.asarray(learned.phones), np.asarray(asked.phones)
    some, scored = np.isin(labels, common), np.isin(wanted, common)
    layers = zip(learned.frames_LFD, asked.frames_LFD, strict=True)
    return [told(train_FD[some], labels[some], test_FD[scored], wanted[scored]) for train_FD, test_FD in layers]


def speaker(asked: Heard, speakers: np.ndarray) -> list[float]:
    """Every other clip of each speaker learns, the rest is scored."""
    order = np.argsort(speakers, kind="stable")
    one, other = order[::2], order[1::2]
    return [told(test_CD[one], speakers[one], test_CD[other], speakers[other]) for test_CD in asked.clips_LCD]


def encoders(runs: Sequence[Path]) -> dict[str, Encoder]:
    """Whom to ask, by name."""
    recipe = read_saved(runs[0] / "recipe.yaml")
    teacher = build_teacher(recipe.teacher, recipe.seed)
    teacher.load(Run(recipe, runs[0]).teacher)
    rows: dict[str, Encoder] = dict(zip(recipe.teacher.upstreams, teacher.encoders(), strict=True))
    rows["teacher"] = teacher
    rows |= {f"student {folder.resolve().name}": open_student(folder / "student") for folder in runs}
    return rows | {"untrained": make_student(recipe.student, recipe.student_seed())}


def demand(runs: Sequence[Path], test: Clips) -> None:
    """ValueError for what would come out only after an encoder has heard all, or not at all."""
    names = [folder.resolve().name for folder in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"two runs of one name in {', '.join(map(str, runs))}; rename a folder")
    if len(test.values("speaker")) < 2:
        raise ValueError(
            f"the test split names {len(test.values('speaker'))} speakers and 2 are needed; say where the corpus has "
            "them, data.columns.speaker=<column>, or ask about a run of another corpus"
        )


def whole(data: Data) -> dict[str, Clips]:
    """The splits, of the embedded corpus with what the synthesizer said when."""
    if data.corpus != "embedded":
        return load_splits(data)
    clips = Clips(build(data.embedded))
    return {name: clips.split(name) for name in ("train", "test")}


def main(argv: list[str]) -> None:
    """Ask, and tell in a table."""
    if not argv or {"--help", "-h"} & set(argv):
        raise SystemExit(__doc__)
    runs = [Path(word) for word in argv]
    splits = whole(read_saved(runs[0] / "recipe.yaml").data)
    demand(runs, splits["test"])
    train, test = Asked.of(splits["train"], TRAIN), Asked.of(splits["test"], TEST)
    found = {}
    titles = ["", "phone", "speaker", *train.labels()]
    print("| " + " | ".join(titles) + " |\n|" + "---|" * len(titles))
    for name, encoder in encoders(runs).items():
        found[name] = know(encoder, train, test)
        best = [f"{max(layers):.1f} ({int(np.argmax(layers))})" for layers in found[name].values()]
        print("| " + " | ".join([name, *best]) + " |", flush=True)
    write_json(runs[0] / "knowledge.json", found)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"knowledge: {error}")
