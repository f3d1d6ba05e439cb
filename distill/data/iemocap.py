"""IEMOCAP as SUPERB uses it: four classes of emotion, five folds by session, from the user's licensed copy."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distill.data.columns import Row

SESSIONS = range(1, 6)
CLASSES = {"neu": "neutral", "hap": "happy", "exc": "happy", "sad": "sad", "ang": "angry"}  # the others are left out
VALIDATION = 0.2  # share of the training sessions' clips, whoever speaks
TURN = re.compile(r"^\[[\d.]+ - [\d.]+\]\t(\S+)\t(\w+)\t\[")  # a turn in EmoEvaluation/<dialogue>.txt


def read_iemocap(folder: Path, fold: int) -> list[Row]:
    """All clips of the four classes, with `style` and `speaker`; session `fold` is the test split.

    Raises ValueError when the folder is not IEMOCAP_full_release.
    """
    rows = [row for session in SESSIONS for row in _session(folder, session, fold)]
    rest = [row for row in rows if row["split"] == "train"]
    for number in np.random.default_rng(0).permutation(len(rest))[: round(VALIDATION * len(rest))]:
        rest[number]["split"] = "validation"
    return rows


def _session(folder: Path, session: int, fold: int) -> Iterator[Row]:
    place = folder / f"Session{session}"
    dialogues = sorted((place / "dialog" / "EmoEvaluation").glob("Ses*.txt"))
    if not dialogues:
        raise ValueError(
            f"{place}/dialog/EmoEvaluation has no Ses*.txt; data.folder.path is IEMOCAP_full_release with its five "
            "sessions, which the University of Southern California gives on request"
        )
    for dialogue in dialogues:
        for line in dialogue.read_text(encoding="utf-8", errors="replace").splitlines():
            turn = TURN.match(line)
            if turn and turn[2] in CLASSES:
                yield {
                    "audio": str((place / "sentences" / "wav" / dialogue.stem / f"{turn[1]}.wav").resolve()),
                    "id": turn[1],
                    "split": "test" if session == fold else "train",
                    "speaker": f"Ses{session:02d}{turn[1].rpartition('_')[2][0]}",
                    "style": CLASSES[turn[2]],
                }
