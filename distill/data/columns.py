"""From a corpus's own columns to ours, and from rows of files and labels to a dataset."""

from collections.abc import Mapping, Sequence

import datasets

LABELS = ("transcript", "speaker", "style", "language")
COLUMNS = ("audio", "id", "split", *LABELS)  # `samples` is measured


def of_files(rows: Sequence[Mapping[str, str]]) -> datasets.Dataset:
    """A dataset of rows of text whose `audio` is the path of a sound file; a label that a row lacks is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name, "") for row in rows] for name in names}
    return datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))


def ours(dataset: datasets.Dataset, columns: Mapping[str, str], corpus: str) -> datasets.Dataset:
    """The dataset with our columns alone, labels as text; audio stays where it is.

    columns: ours -> the corpus's own, "" for one it shall not have; one that is not named keeps its name.
    Raises ValueError for a column that is not there.
    """
    there = dataset.column_names
    chosen = {name: columns.get(name, name if name in there else "") for name in COLUMNS}
    for name, theirs in chosen.items():
        if (theirs or name == "audio") and theirs not in there:
            raise ValueError(
                f"{corpus} has no column {theirs or name!r} for {name}; it has {', '.join(there)}\n"
                f"say which one it is: data.columns.{name}=<column>"
            )
    audio = dataset.select_columns([chosen.pop("audio")])
    audio = audio.rename_columns(dict(zip(audio.column_names, ["audio"], strict=True)))
    audio = audio.cast_column("audio", datasets.Audio(decode=False))
    texts = {name: _texts(dataset, theirs) for name, theirs in chosen.items() if theirs}
    texts.setdefault("id", [f"clip-{row:07d}" for row in range(len(dataset))])
    return datasets.concatenate_datasets([audio, datasets.Dataset.from_dict(texts)], axis=1)


def replaced(dataset: datasets.Dataset, name: str, values: list) -> datasets.Dataset:
    """The dataset with other values in one column, or with one more; there must be no selection on it."""
    rest = dataset.remove_columns([name]) if name in dataset.column_names else dataset
    return datasets.concatenate_datasets([rest, datasets.Dataset.from_dict({name: values})], axis=1)


def _texts(dataset: datasets.Dataset, name: str) -> list[str]:
    feature, values = dataset.features[name], list(dataset[name])
    if isinstance(feature, datasets.ClassLabel):
        return ["" if value is None or value < 0 else feature.int2str(value) for value in values]
    return ["" if value is None else str(value) for value in values]
