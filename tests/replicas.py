"""Corpora of a few clips of noise, laid out as the published ones."""

from pathlib import Path

from sounds import sound


def voxceleb1(folder: Path) -> Path:
    """Six speakers, two clips each."""
    for number in range(12):
        sound(folder / "wav" / f"id1000{number // 2}" / f"video{number}" / "00001.wav", 0.4)
    return folder


def trials(path: Path) -> Path:
    """A trial list of three clips of two of these speakers."""
    path.write_text(
        "1 id10000/video0/00001.wav id10000/video1/00001.wav\n0 id10000/video0/00001.wav id10001/video2/00001.wav\n"
    )
    return path


def iemocap(folder: Path) -> Path:
    """Five sessions of one dialogue, a clip of each class and of one that is left out."""
    for session in range(1, 6):
        dialogue, place = f"Ses0{session}F_impro01", folder / f"Session{session}"
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for number, style in enumerate(("neu", "hap", "exc", "sad", "ang", "fru", "xxx")):
            turn = f"{dialogue}_{'FM'[number % 2]}{number:03d}"
            lines += [f"[{number}.2901 - {number}.9]\t{turn}\t{style}\t[2.5000, 2.5000, 2.5000]", "C-E2:\tNeutral;\t()"]
            sound(place / "sentences" / "wav" / dialogue / f"{turn}.wav", 0.4)
        labels = place / "dialog" / "EmoEvaluation"
        labels.mkdir(parents=True)
        (labels / f"{dialogue}.txt").write_text("\n".join(lines))
        (labels / f"._{dialogue}.txt").write_bytes(b"\xff\x00")  # as macOS leaves them
    return folder
