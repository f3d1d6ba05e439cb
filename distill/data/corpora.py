"""Corpora by name: from a recipe's `data` to the clips of each split, with what was left out said."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from distill.data import embedded
from distill.data.clips import Clips
from distill.data.columns import COLUMNS, Corpus, Row, of_datasets, of_files
from distill.data.folder import read_folder
from distill.data.hub import open_hub
from distill.data.iemocap import read_iemocap
from distill.data.lists import pronounced, split_by
from distill.data.manifest import Manifest, demand_few_bad, read_manifest
from distill.data.ml_superb import read_ml_superb
from distill.data.published import ON_THE_HUB, read_common_voice, read_voxceleb1
from distill.data.settings import Data
from distill.data.splits import SPLITS, complete, named, set_apart
from distill.data.trials import Trials, demand_clips, demand_speakers, read_trials
from distill.features import SAMPLE_RATE
from distill.limits import RecipeError
from distill.protocol import DATA
from distill.recipe import Recipe

Say = Callable[[str], None]


@contextmanager
def speaking_of(corpus: str) -> Iterator[None]:
    """What goes wrong within, told of a corpus by its name: of a further one's keys where it names those of data.

    Raises RecipeError instead of ValueError and OSError, unless the corpus is data itself.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if corpus == DATA:
            raise
        keys = "|".join(one.name for one in fields(Data))
        words = re.sub(rf"\bdata\.(?=(?:{keys})\b)", f"corpora.{corpus}.", str(error))
        raise RecipeError(f"corpora.{corpus}: {words}") from error


def load_corpora(recipe: Recipe, tasks: Sequence[str], say: Say = print) -> dict[str, dict[str, Clips]]:
    """The splits of `data`, and of the further corpora that these tasks hear, by the names in the recipe.

    Raises what `load_splits` does.
    """
    found = {}
    for name in dict.fromkeys([DATA, *recipe.evaluate.by_corpus(tasks)]):
        prefix = "" if name == DATA else f"{name}: "
        with speaking_of(name):
            corpus = recipe.corpora.get(name, recipe.data)
            found[name] = load_splits(corpus, lambda words, prefix=prefix: say(f"{prefix}{words}"))
    return found


def load_splits(data: Data, say: Say = print) -> dict[str, Clips]:
    """`train`, `validation` and `test` of a corpus; ValueError or OSError that says what is wrong with it."""
    if data.corpus == "embedded":
        clips = Clips(recognised(spoken(data), data.languages or ["en"]).dataset())
        return {split: clips.split(split) for split in SPLITS}
    corpus = from_hub(data, say) if data.corpus in ("hub", *ON_THE_HUB) else local_copy(data)
    corpus = listed(recognised(corpus, data.languages), data, say)
    manifest = read_manifest(corpus, mono=data.mono, check=data.check)
    demand_few_bad(manifest, data.bad_share, say)
    reasons = unusable(manifest, data, say)
    return divide(corpus.labelled("samples", manifest.samples), reasons, data, say)


def spoken(data: Data) -> Corpus:
    """The embedded corpus."""
    dataset = embedded.build(data.embedded)
    known = [name for name in (*COLUMNS, "samples") if name != "audio" and name in dataset.column_names]
    return Corpus(dataset.select_columns(["audio"]), {name: list(dataset[name]) for name in known})


def from_hub(data: Data, say: Say) -> Corpus:
    """A dataset of the Hub, with what is published about it unless the recipe says otherwise."""
    hub, splits, columns = data.hub, data.splits, data.columns
    if data.corpus in ON_THE_HUB:
        published = ON_THE_HUB[data.corpus]
        hub = replace(published.hub, **{key: value for key, value in vars(hub).items() if value})
        splits, columns = {**published.splits, **splits}, {**published.columns, **columns}
    return of_datasets(open_hub(hub, splits, say), columns, hub.name)


def local_copy(data: Data) -> Corpus:
    """What lies in the user's folder, each clip in one of our splits or in none."""
    if not data.folder.path:
        raise ValueError(f"data.corpus={data.corpus} wants data.folder.path=<your copy of it>")
    folder = Path(data.folder.path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.folder.path={folder} is no folder on this machine")
    corpus = of_files(rows_of(folder, data), data.columns, data.folder.path)
    return corpus.labelled("split", named(corpus.column("split"), data.splits))


def rows_of(folder: Path, data: Data) -> list[Row]:
    """What a folder holds, read as its corpus is laid out."""
    if data.corpus == "iemocap":
        return read_iemocap(folder, data.fold)
    if data.corpus == "ml-superb":
        return read_ml_superb(folder, data.hours, data.set)
    read = {"folder": read_folder, "voxceleb1": read_voxceleb1, "common-voice": read_common_voice}
    return read[data.corpus](folder)


def listed(corpus: Corpus, data: Data, say: Say) -> Corpus:
    """The corpus with what lists say of it: splits, pronunciations."""
    if data.split_list:
        corpus = split_by(corpus, Path(data.split_list).expanduser(), say)
    return pronounced(corpus, Path(data.lexicon).expanduser(), say) if data.lexicon else corpus


def recognised(corpus: Corpus, languages: Sequence[str]) -> Corpus:
    """The corpus without the transcripts of other languages; none named: with all of them."""
    if not languages or "transcript" not in corpus.labels:
        return corpus
    if "language" not in corpus.labels:
        raise ValueError(f"data.languages={languages} needs a column language, which the corpus does not have")
    rows = zip(corpus.labels["transcript"], corpus.labels["language"], strict=True)
    return corpus.labelled("transcript", [text if language in languages else "" for text, language in rows])


def unusable(manifest: Manifest, data: Data, say: Say) -> list[str]:
    """Why each clip cannot be used, "" where it can: its file is bad, or it is too short or too long."""
    seconds = np.asarray(manifest.samples) / SAMPLE_RATE
    good = np.asarray([not problem for problem in manifest.problems])
    short, long = good & (seconds < data.shortest), good & (seconds > (data.longest or np.inf))
    for rows, words in (
        (short, f"shorter than data.shortest={data.shortest:g}"),
        (long, f"longer than data.longest={data.longest:g}"),
    ):
        if rows.any():
            say(f"left out {rows.sum()} of {len(rows)} clips, {words} s: {seconds[rows].sum() / 3600:.2f} h")
    reasons = list(manifest.problems)
    for row in np.flatnonzero(short | long):
        limits = f"data.shortest={data.shortest:g} and data.longest={data.longest:g}"
        reasons[row] = f"it is left out, its {seconds[row]:.2f} s are not within {limits}"
    return reasons


def divide(corpus: Corpus, reasons: Sequence[str], data: Data, say: Say) -> dict[str, Clips]:
    """The usable clips of a corpus as three splits, the test split with the trial list."""
    splits, speakers = corpus.labels["split"], corpus.labels.get("speaker")
    trials = trial_list(Path(data.trials).expanduser(), corpus, reasons) if data.trials else None
    if trials and "test" not in splits:
        splits = set_apart(splits, corpus.labels["id"], corpus.column("speaker"), trials.ids(), say)
    shares = {"validation": data.validation_share, "test": data.test_share}
    splits = complete(splits, speakers, shares, data.split_seed, say)
    usable = ["" if reason else split for split, reason in zip(splits, reasons, strict=True)]
    clips = Clips(corpus.labelled("split", usable).dataset(), mono=data.mono)
    parts = {split: clips.split(split) for split in SPLITS}
    parts["test"].trials = trials
    for name, part in parts.items():
        if not len(part):
            raise ValueError(f"no clip is left in the {name} split; widen data.shortest and data.longest")
        voices = f" of {len(set(part.column('speaker')))} speakers" if speakers else ""
        say(f"{name}: {len(part)} clips{voices}, {part.seconds() / 3600:.2f} h")
    return parts


def trial_list(path: Path, corpus: Corpus, reasons: Sequence[str]) -> Trials:
    """The trials of a file, true of the corpus, whose clips are usable, and in the test split where there is one."""
    trials, splits = read_trials(path), corpus.labels["split"]
    wanted = ("test",) if "test" in splits else SPLITS
    problems = [
        reason or ("" if split in wanted else f"it is in the split {split!r}")
        for split, reason in zip(splits, reasons, strict=True)
    ]
    demand_clips(path, trials, dict(zip(corpus.labels["id"], problems, strict=True)))
    demand_speakers(path, trials, dict(zip(corpus.labels["id"], corpus.column("speaker"), strict=True)))
    return trials
