"""Which clip is in which split: as the corpus says, and by speaker where it does not say."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence

SPLITS = ("train", "validation", "test")
NAMES = {  # what corpora call them
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def named(values: Sequence[str], splits: Mapping[str, str]) -> list[str]:
    """The split of each clip by our name, "" where it is in none, from the corpus's own names.

    splits: ours -> theirs, several joined by +; empty: the usual names. Where there are no names, all train.
    Raises ValueError for names not there.
    """
    there = sorted(set(values) - {""})
    if not there and not splits:
        return ["train"] * len(values)
    known = {theirs: name for name, joined in splits.items() for theirs in joined.split("+")} or {
        value: NAMES[value.lower()] for value in there if value.lower() in NAMES
    }
    absent = sorted(set(known) - set(there))
    if absent or not known:
        wrong = f"no split {absent[0]!r}" if absent else "no split of a usual name"
        raise ValueError(
            f"the corpus has {wrong}; it has {', '.join(there) or 'none'}\n"
            "say which is which: data.splits.train=<split>, several joined by +"
        )
    return [known.get(value, "") for value in values]


def set_apart(
    given: Sequence[str],
    ids: Sequence[str],
    speakers: Sequence[str],
    chosen: Collection[str],
    say: Callable[[str], None],
) -> list[str]:
    """The splits with the chosen clips as test, and with no other clip of their speakers."""
    test = set(chosen)
    taken = {voice for voice, name in zip(speakers, ids, strict=True) if name in test} - {""}
    rows = list(zip(given, ids, speakers, strict=True))
    splits = ["test" if name in test else "" if voice in taken else split for split, name, voice in rows]
    lost = sum(bool(before) and not after for before, after in zip(given, splits, strict=True))
    say(f"the test split is the {len(test)} clips of the trial list; {lost} more clips of its speakers are left out")
    return splits


def complete(
    given: Sequence[str],
    speakers: Sequence[str] | None,
    shares: Mapping[str, float],
    seed: int,
    say: Callable[[str], None],
) -> list[str]:
    """The split of each clip, with the splits nobody gave taken from train: whole speakers, the same for a seed.

    Without speakers, clips are drawn. Raises ValueError when there are too few.
    """
    splits = list(given)
    missing = [name for name in SPLITS if name not in splits]
    if "train" in missing:
        raise ValueError(f"the corpus has no clip to train on, only {', '.join(sorted(set(splits) - {''})) or 'none'}")
    kind = "clips" if speakers is None else "speakers"
    voices = [str(row) for row in range(len(splits))] if speakers is None else list(speakers)
    pool = sorted({voice for voice, split in zip(voices, splits, strict=True) if split == "train"} - {""})
    pool.sort(key=lambda voice: hashlib.sha256(f"{seed}:{voice}".encode()).digest())
    whole = len(pool)
    for name in missing:
        count = max(round(shares[name] * whole), 1)
        if len(pool) - count < 1:
            raise ValueError(f"{whole} {kind} in train are too few to make {' and '.join(missing)} of some of them")
        taken, pool = set(pool[:count]), pool[count:]
        splits = [
            name if split == "train" and voice in taken else split for voice, split in zip(voices, splits, strict=True)
        ]
        say(f"the corpus has no {name} split: {count} of {whole} training {kind} become it")
    return splits
