"""From a corpus's own columns to ours: sound files or datasets become a Corpus."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import datasets

LABELS = ("transcript", "phones", "speaker", "style", "language")
Row = dict[str, str]  # what is known about a clip, by column; `audio` is the path of its file
COLUMNS = ("audio", "id", "split", *LABELS)  # `samples` is measured


@dataclass(frozen=True)
class Corpus:
    """The sound of every clip, undecoded, and what is known about it; the two are joined once, in `dataset`."""

    audio: datasets.Dataset  # the one column `audio`, with no selection on it
    labels: dict[str, list]  # by our names, `id` among them

    def dataset(self) -> datasets.Dataset:
        """All columns as one dataset; what is mapped from the disk stays there."""
        return datasets.concatenate_datasets([self.audio, datasets.Dataset.from_dict(self.labels)], axis=1)

    def column(self, name: str, default: str = "") -> list:
        return self.labels.get(name, [default] * len(self.audio))

    def labelled(self, name: str, values: Sequence) -> "Corpus":
        """The same with a label more, or with other values in one."""
        return replace(self, labels=self.labels | {name: list(values)})


def of_files(rows: Sequence[Row], columns: Mapping[str, str], corpus: str) -> Corpus:
    """A corpus of rows of text whose column `audio` is the path of a sound file; a label that a row lacks is empty."""
    there = list(dict.fromkeys(name for row in rows for name in row))
    texts = {ours: [row.get(name, "") for row in rows] for ours, name in chosen(there, columns, corpus).items()}
    audio = datasets.Dataset.from_dict({"audio": texts.pop("audio")}).cast_column("audio", datasets.Audio(decode=False))
    return Corpus(audio, texts)


def of_datasets(parts: Sequence[tuple[str, datasets.Dataset]], columns: Mapping[str, str], corpus: str) -> Corpus:
    """A corpus of datasets end to end, each of one of our splits."""
    names = chosen(parts[0][1].column_names, columns, corpus)
    names.pop("split", "")
    sound, texts = [], {name: [] for name in names if name != "audio"}
    for _, part in parts:
        audio = part.select_columns([names["audio"]]).rename_columns({names["audio"]: "audio"})
        sound.append(audio.cast_column("audio", datasets.Audio(decode=False)))
        for name, values in texts.items():
            values += _texts(part, names[name])
    texts.setdefault("id", [f"{split}-{row:07d}" for split, part in parts for row in range(len(part))])
    texts["split"] = [split for split, part in parts for _ in range(len(part))]
    return Corpus(datasets.concatenate_datasets(sound), texts)


def chosen(there: Collection[str], columns: Mapping[str, str], corpus: str) -> dict[str, str]:
    """Our columns that the corpus has -> its own; ValueError for one that is not there.

    columns: ours -> the corpus's own, "" for one it shall not have; one that is not named keeps its name.
    """
    names = {name: columns.get(name, name if name in there else "") for name in COLUMNS}
    for name, theirs in names.items():
        if (theirs or name == "audio") and theirs not in there:
            raise ValueError(
                f"{corpus} has no column {theirs or name!r} for {name}; it has {', '.join(there)}\n"
                f"say which one it is: data.columns.{name}=<column>"
            )
    return {name: theirs for name, theirs in names.items() if theirs}


def _texts(dataset: datasets.Dataset, name: str) -> list[str]:
    feature, values = dataset.features[name], list(dataset[name])
    if isinstance(feature, datasets.ClassLabel):
        return ["" if value is None or value < 0 else str(feature.int2str(value)) for value in values]
    return ["" if value is None else str(value) for value in values]
