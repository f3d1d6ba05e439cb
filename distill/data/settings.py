"""What a recipe says of a corpus: where it is, how it is read and divided."""

import os
from dataclasses import dataclass, field

from distill.data.batches import BLUR
from distill.data.clips import MONO
from distill.data.columns import COLUMNS
from distill.data.embedded import EmbeddedCorpus
from distill.data.hub import Hub
from distill.data.manifest import CHECKS
from distill.data.ml_superb import HOURS, MONOLINGUAL
from distill.data.published import ON_THE_HUB
from distill.data.splits import SPLITS
from distill.limits import RecipeError, check, listed, within

COPIES = ("folder", "voxceleb1", "iemocap", "ml-superb", "common-voice")  # of which the user has a local folder
CORPORA = ("embedded", "hub", *ON_THE_HUB, *COPIES)
DECODERS = 4  # processes at most that decode ahead, unless the recipe says how many


@dataclass(frozen=True)
class Folder:
    path: str = ""  # where the user's copy of the corpus lies


@dataclass(frozen=True)
class Data:
    corpus: str = within("embedded", menu=CORPORA)
    embedded: EmbeddedCorpus = field(default_factory=EmbeddedCorpus)
    folder: Folder = field(default_factory=Folder)
    hub: Hub = field(default_factory=Hub)
    columns: dict[str, str] = field(default_factory=dict)  # ours -> the corpus's own; "" for one it shall not have
    splits: dict[str, str] = field(default_factory=dict)  # ours -> the corpus's own, several joined by +
    validation_share: float = within(0.1, above=0, below=1)  # of the training speakers, where there is no such split
    test_share: float = within(0.1, above=0, below=1)
    split_seed: int = within(0, least=0)  # draws these speakers
    languages: list[str] = field(default_factory=list)  # that are to be recognised; empty: all, of embedded en
    trials: str = ""  # a file of lines `1 clip clip`, which verification is scored on
    split_list: str = ""  # a file of lines `1 clip`, 2 for validation, 3 for test, such as VoxCeleb1's iden_split.txt
    lexicon: str = ""  # a file of lines `WORD PHONE PHONE ...`, for phone recognition where the corpus has no phones
    fold: int = within(1, least=1, below=6)  # iemocap: the session that is tested
    hours: str = within("10min", menu=HOURS)  # ml-superb: training audio of each language
    set: str = within("", menu=("", *MONOLINGUAL))  # ml-superb: one monolingual set; empty: all languages
    mono: str = within("", menu=MONO)  # of several channels: refuse the file, mix them, take the first
    check: str = within("header", menu=CHECKS)  # believe lengths in headers, or decode every file once
    shortest: float = within(0.1, least=0)  # seconds; clips below are left out
    longest: float = within(0.0, least=0)  # seconds; clips above are left out; 0: none is
    bad_share: float = within(0.01, least=0, below=1)  # most files that may be unusable
    workers: int = within(-1, least=-1)  # processes that decode ahead; -1: as many as help. Changes no result
    blur: float = within(BLUR, least=0)  # seconds by which clips in a batch may differ in length beyond need

    def __post_init__(self):
        check("data.", self)
        if self.corpus == "embedded":
            self.demand_embedded()
        for key in self.columns:
            listed("data.columns", key, COLUMNS)
        for key in self.splits:
            listed("data.splits", key, SPLITS)

    def demand_embedded(self) -> None:
        """RecipeError for what says something of another corpus, which would be trained on without being heard."""
        given = {"folder.path": self.folder.path, "hub.name": self.hub.name} | {
            key: vars(self)[key] for key in ("columns", "splits", "trials", "split_list", "lexicon")
        }
        for key, value in given.items():
            if value:
                raise RecipeError(
                    f"data.{key}={value} is for corpora from elsewhere, not the embedded one; say which, "
                    f"data.corpus={'hub' if key == 'hub.name' else 'folder'} or another of {', '.join(CORPORA[1:])}"
                )

    def decoders(self, processes: int) -> int:
        """Processes that decode ahead for each of these, which share the machine's cores."""
        if self.workers >= 0 or self.corpus == "embedded":
            return max(self.workers, 0)
        return min(len(os.sched_getaffinity(0)) // processes, DECODERS)
