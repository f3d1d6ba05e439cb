"""What corpora publish beside their sound: which clip is in which split, and how words are pronounced."""

from collections.abc import Callable, Mapping
from pathlib import Path

from distill.data.columns import Corpus
from distill.data.splits import SPLITS

NUMBERS = dict(zip(("1", "2", "3"), SPLITS, strict=True))  # as in VoxCeleb1's iden_split.txt
MARKS = '.,;:!?"()[]'  # that are no part of a word
SHOWN = 5  # words without a pronunciation that are named


def read_lines(key: str, path: Path, form: str) -> list[tuple[int, list[str]]]:
    """The fields of every line that has some, and its number; ValueError where the file cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{key}={path}: cannot be read ({error}); give a file of lines `{form}`") from None
    return [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]


def read_split_list(path: Path) -> dict[str, str]:
    """Clip -> split, of lines `1 clip`: 1 is train, 2 validation, 3 test. Raises ValueError that names the line."""
    found: dict[str, str] = {}
    for number, fields in read_lines("data.split_list", path, "1 clip"):
        if len(fields) != 2 or fields[0] not in NUMBERS:
            raise ValueError(f"{path}:{number}: `1 clip`, `2 clip` or `3 clip` is wanted: {' '.join(fields)[:80]!r}")
        if fields[1] in found:
            raise ValueError(f"{path}:{number}: {fields[1]} stands there twice")
        found[fields[1]] = NUMBERS[fields[0]]
    return found


def split_by(corpus: Corpus, path: Path, say: Callable[[str], None]) -> Corpus:
    """The corpus in the splits of a list; clips that it does not name are in none.

    Raises ValueError where it names clips that are not there.
    """
    wanted = read_split_list(path)
    absent = sorted(wanted.keys() - set(corpus.labels["id"]))
    if absent:
        raise ValueError(
            f"{path}: {len(absent)} of {len(wanted)} clips are not in the corpus, {absent[0]!r} for one, "
            f"which calls its clips like {corpus.labels['id'][0]!r}"
        )
    splits = [wanted.get(name, "") for name in corpus.labels["id"]]
    if without := splits.count(""):
        say(f"{without} of {len(splits)} clips are not in {path.name} and are left out")
    return corpus.labelled("split", splits)


def read_lexicon(path: Path) -> dict[str, str]:
    """Word in lower case -> phones with spaces between them, of lines `WORD PHONE PHONE ...`; of several the first."""
    found: dict[str, str] = {}
    for number, (word, *phones) in read_lines("data.lexicon", path, "WORD PHONE PHONE ..."):
        if not phones:
            raise ValueError(f"{path}:{number}: {word} has no phones; `WORD PHONE PHONE ...` is wanted")
        found.setdefault(word.lower(), " ".join(phones))
    return found


def pronounced(corpus: Corpus, path: Path, say: Callable[[str], None]) -> Corpus:
    """The corpus with phones of its transcripts; a clip with a word that the lexicon lacks has none.

    Raises ValueError where the corpus has phones already, or no transcripts, or none that the lexicon knows.
    """
    for column, there in (("phones", False), ("transcript", True)):
        if (column in corpus.labels) is not there:
            wrong = "has no transcripts to pronounce" if there else "has phones; say data.columns.phones= to leave them"
            raise ValueError(f"data.lexicon={path}: the corpus {wrong}")
    lexicon, unknown = read_lexicon(path), dict[str, int]()
    phones = [pronounce(text, lexicon, unknown) for text in corpus.labels["transcript"]]
    told = sum(map(bool, phones))
    if not told:
        raise ValueError(f"data.lexicon={path}: no transcript is of its {len(lexicon)} words alone")
    if unknown:
        most = ", ".join(sorted(unknown, key=lambda word: -unknown[word])[:SHOWN])
        say(f"{len(unknown)} words are not in {path.name} ({most}, ...); {told} of {len(phones)} clips have phones")
    return corpus.labelled("phones", phones)


def pronounce(text: str, lexicon: Mapping[str, str], unknown: dict[str, int]) -> str:
    """The phones of a text, "" where a word is unknown, which is counted in `unknown`."""
    words = [word for part in text.lower().split() if (word := part.strip(MARKS))]
    lost = [word for word in words if word not in lexicon]
    for word in lost:
        unknown[word] = unknown.get(word, 0) + 1
    return "" if lost else " ".join(lexicon[word] for word in words)
