"""Corpora by name: from a recipe's `data` to the clips of each split, with what was left out said."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np

from distill.data import embedded
from distill.data.clips import Clips
from distill.data.columns import ours, replaced
from distill.data.folder import read_folder
from distill.data.hub import open_hub
from distill.data.iemocap import read_iemocap
from distill.data.manifest import Manifest, demand_few_bad, read_manifest
from distill.data.ml_superb import read_ml_superb
from distill.data.published import ON_THE_HUB, read_common_voice, read_voxceleb1
from distill.data.splits import SPLITS, complete, named, set_apart
from distill.data.trials import Trials, demand_clips, read_trials
from distill.features import SAMPLE_RATE
from distill.recipe import Data

Say = Callable[[str], None]


def load_splits(data: Data, say: Say = print) -> dict[str, Clips]:
    """`train`, `validation` and `test` of a corpus; ValueError or OSError that says what is wrong with it."""
    if data.corpus == "embedded":
        clips = Clips(recognised(embedded.build(data.embedded), data.languages or ["en"]))
        return {split: clips.split(split) for split in SPLITS}
    corpus, given = open_corpus(data, say)
    corpus = recognised(corpus, data.languages)
    manifest = read_manifest(corpus, corpus["id"], mono=data.mono, check=data.check)
    demand_few_bad(manifest, data.bad_share, say)
    corpus = replaced(corpus, "samples", manifest.samples)
    reasons = unusable(manifest, data, say)
    return divide(corpus, given, reasons, data, say)


def open_corpus(data: Data, say: Say) -> tuple[datasets.Dataset, list[str]]:
    """A corpus with our columns, its lengths not yet known, and the split of each clip, "" where it is in none."""
    if data.corpus in ("hub", *ON_THE_HUB):
        return from_hub(data, say)
    corpus = ours(local_copy(data), data.columns, data.folder.path)
    splits = list(corpus["split"]) if "split" in corpus.column_names else [""] * len(corpus)
    return corpus, named(splits, data.splits)


def from_hub(data: Data, say: Say) -> tuple[datasets.Dataset, list[str]]:
    """A dataset of the Hub, with what is published about it unless the recipe says otherwise."""
    hub, splits, columns = data.hub, dict(data.splits), dict(data.columns)
    if data.corpus in ON_THE_HUB:
        published = ON_THE_HUB[data.corpus]
        hub = replace(published.hub, **{key: value for key, value in vars(hub).items() if value})
        splits, columns = dict(published.splits) | splits, dict(published.columns) | columns
    corpus = ours(open_hub(hub, splits, say), columns, hub.name)
    return corpus, list(corpus["split"])


def local_copy(data: Data) -> datasets.Dataset:
    """What lies in the user's folder, read as its corpus is laid out."""
    if not data.folder.path:
        raise ValueError(f"data.corpus={data.corpus} wants data.folder.path=<your copy of it>")
    folder = Path(data.folder.path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.folder.path={folder} is no folder on this machine")
    if data.corpus == "iemocap":
        return read_iemocap(folder, data.fold)
    if data.corpus == "ml-superb":
        return read_ml_superb(folder, data.hours, data.set)
    read = {"folder": read_folder, "voxceleb1": read_voxceleb1, "common-voice": read_common_voice}
    return read[data.corpus](folder)


def recognised(corpus: datasets.Dataset, languages: Sequence[str]) -> datasets.Dataset:
    """The corpus without the transcripts of other languages; none named: with all of them."""
    if not languages or "transcript" not in corpus.column_names:
        return corpus
    if "language" not in corpus.column_names:
        raise ValueError(
            f"data.languages={','.join(languages)} needs a column language, which the corpus does not have"
        )
    rows = zip(corpus["transcript"], corpus["language"], strict=True)
    return replaced(corpus, "transcript", [text if language in languages else "" for text, language in rows])


def unusable(manifest: Manifest, data: Data, say: Say) -> list[str]:
    """Why each clip cannot be used, "" where it can: its file is bad, or it is too short or too long."""
    seconds = np.asarray(manifest.samples) / SAMPLE_RATE
    good = np.asarray([not problem for problem in manifest.problems])
    short, long = good & (seconds < data.shortest), good & (seconds > (data.longest or np.inf))
    for rows, words in (
        (short, f"shorter than data.shortest={data.shortest:g}"),
        (long, f"longer than {data.longest:g}"),
    ):
        if rows.any():
            say(f"left out {rows.sum()} of {len(rows)} clips, {words} s: {seconds[rows].sum() / 3600:.2f} h")
    limits = f"is left out: it is not between data.shortest={data.shortest:g} s and data.longest={data.longest:g} s"
    return [
        problem or (limits if outside else "") for problem, outside in zip(manifest.problems, short | long, strict=True)
    ]


def divide(
    corpus: datasets.Dataset, given: Sequence[str], reasons: Sequence[str], data: Data, say: Say
) -> dict[str, Clips]:
    """The usable clips of a corpus as three splits, the test split with the trial list."""
    ids, speakers = list(corpus["id"]), list(corpus["speaker"]) if "speaker" in corpus.column_names else None
    splits, trials = list(given), None
    if data.trials:
        trials = trial_list(Path(data.trials), ids, splits, reasons)
        if "test" not in splits:
            splits = set_apart(splits, ids, speakers, trials.ids(), say)
    shares = {"validation": data.validation_share, "test": data.test_share}
    splits = complete(splits, speakers, shares, data.split_seed, say)
    splits = ["" if reason else split for split, reason in zip(splits, reasons, strict=True)]
    clips = Clips(replaced(corpus, "split", splits), mono=data.mono)
    parts = {split: clips.split(split) for split in SPLITS}
    parts["test"].trials = trials
    for name, part in parts.items():
        voices = f" of {len(set(part.column('speaker')))} speakers" if speakers else ""
        say(f"{name}: {len(part)} clips{voices}, {part.seconds() / 3600:.2f} h")
    return parts


def trial_list(path: Path, ids: Sequence[str], splits: Sequence[str], reasons: Sequence[str]) -> Trials:
    """The trials of a file, each of its clips in the test split where the corpus has one."""
    trials = read_trials(path)
    wanted = ("test",) if "test" in splits else SPLITS
    others = list(zip(ids, splits, reasons, strict=True))
    among = [name for name, split, reason in others if split in wanted and not reason]
    demand_clips(
        path, trials, among, {name: reason or f"it is in {split or 'no'} split" for name, split, reason in others}
    )
    return trials
