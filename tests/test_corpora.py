"""A user's own recordings become clips: labels from metadata of any kind, and errors that say what is wanted."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sounds import load, metadata, settings, sound, talkers

from distill.data.columns import of_files
from distill.data.corpora import load_splits
from distill.data.folder import read_folder
from distill.data.settings import Data, Folder
from distill.data.splits import SPLITS
from distill.recipe import RecipeError
from distill.tasks import demand_labels

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_labels_come_from_metadata_of_each_kind_as_text(kind, tmp_path):
    rows = [
        {"file_name": f"x/{i}.wav", "speaker": f"00{i}", "split": split, "transcript": 'Ça, "va"?'}
        for i, split in enumerate(("train", "dev", "test"))
    ]
    for row in rows:
        sound(tmp_path / row["file_name"])
    metadata(tmp_path, rows)
    if kind != "csv":
        (tmp_path / "metadata.csv").unlink()
    if kind == "jsonl":
        (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    splits, _ = load(tmp_path)
    for number, part in enumerate(SPLITS):
        clips = splits[part]
        assert clips.ids == [f"x/{number}.wav"]
        assert (clips.column("speaker"), clips.column("transcript")) == ([f"00{number}"], ['Ça, "va"?'])
        assert len(clips.audio(0)) == clips.samples[0] == 8000


def test_folders_named_as_splits_are_splits_each_with_its_own_metadata(tmp_path):
    for part in ("train", "validation", "test"):
        sound(tmp_path / part / "a.flac")
        metadata(tmp_path / part, [{"file_name": "a.flac", "speaker": part}])
    splits, _ = load(tmp_path)
    assert {part: clips.ids for part, clips in splits.items()} == {part: [f"{part}/a.flac"] for part in SPLITS}


def test_columns_have_the_names_the_recipe_gives(tmp_path):
    rows = [{"file_name": f"{i}.wav", "text": str(i), "who": str(i), "language": "en"} for i in range(4)]
    for row in rows:
        sound(tmp_path / row["file_name"])
    splits, _ = load(metadata(tmp_path, rows), columns={"transcript": "text", "speaker": "who", "language": ""})
    train = splits["train"]
    assert train.column("transcript") == train.column("speaker") == [Path(name).stem for name in train.ids]
    assert "language" not in train.dataset.column_names
    with pytest.raises(ValueError, match=r"no column 'words' for transcript; .*\n.*data\.columns\.transcript=<column>"):
        load(tmp_path, columns={"transcript": "words"})
    with pytest.raises(RecipeError, match=r"data\.columns: there is no 'text'"):
        settings(tmp_path, columns={"text": "words"})


def test_only_the_languages_asked_for_are_recognised(tmp_path):
    rows = [{"file_name": f"{i}.wav", "transcript": "a", "language": ["de", "fr"][i % 2]} for i in range(8)]
    for row in rows:
        sound(tmp_path / row["file_name"])
    train = load(metadata(tmp_path, rows), languages=["de"])[0]["train"]
    assert [bool(text) for text in train.column("transcript")] == [name == "de" for name in train.column("language")]


def test_short_and_long_clips_are_left_out_and_counted(tmp_path):
    splits, said = load(talkers(tmp_path, 10), shortest=0.35, longest=0.45)
    seconds = np.concatenate([clips.samples for clips in splits.values()]) / 16_000
    assert len(seconds) == 11 and seconds.min() >= 0.35 and seconds.max() <= 0.45
    assert "5 of 20 clips, shorter than data.shortest=0.35" in said


def test_a_folder_that_is_no_corpus_says_what_is_wanted(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in (
        ("", r"data\.corpus=folder wants data\.folder\.path="),
        (tmp_path / "gone", "gone is no folder on this machine"),
        (tmp_path / "empty", r"has no metadata\.csv, metadata\.jsonl, metadata\.parquet"),
        (metadata(tmp_path / "named", [{"name": "a.wav"}]), "a line has no file_name"),
    ):
        with pytest.raises(ValueError, match=message):
            load_splits(Data(corpus="folder", folder=Folder(str(folder))))


def test_metadata_may_have_empty_lines_and_names_no_file_elsewhere(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.wav"}\n\n{"file_name": "b.wav"}\n\n')
    assert [row["id"] for row in read_folder(tmp_path)] == ["a.wav", "b.wav"]
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "/elsewhere/a.wav"}\n')
    with pytest.raises(ValueError, match=r"metadata.jsonl: /elsewhere/a.wav is not in .*; file_name is relative"):
        read_folder(tmp_path)


def test_a_task_the_corpus_cannot_serve_is_refused_with_the_column(tmp_path):
    splits, _ = load(talkers(tmp_path, 20, language=""))
    demand_labels(["asr", "sv"], splits)
    with pytest.raises(ValueError, match=r"er needs the column 'style'; .*\n.*data\.columns\.style=.*fit\.tasks="):
        demand_labels(["asr", "er"], splits)
    with pytest.raises(ValueError, match="lid: no clip of the train split has a label in the column 'language'"):
        demand_labels(["lid"], splits)


def test_a_speaker_in_two_splits_is_refused_for_verification(tmp_path):
    rows = [{"file_name": f"{i}.wav", "speaker": str(i // 2), "split": SPLITS[i % 3]} for i in range(6)]
    for row in rows:
        sound(tmp_path / row["file_name"])
    splits, _ = load(metadata(tmp_path, rows))
    with pytest.raises(ValueError, match=r"sv: 1 speakers are in train and in validation, such as '0'"):
        demand_labels(["sv"], splits)


def test_a_split_that_verification_cannot_be_scored_on_is_refused_by_its_name(tmp_path):
    """Before anything is trained: the shares cannot be changed afterwards."""
    splits, _ = load(talkers(tmp_path, 10))
    wanted = (
        r"sv: the validation split has 1 speakers, of none more than 2 clips; 2 .*\n.*data\.validation_share=.*tasks="
    )
    with pytest.raises(ValueError, match=wanted):
        demand_labels(["sv"], splits)
    demand_labels(["sv"], {"train": splits["train"]})
    demand_labels(["sv"], load(tmp_path, validation_share=0.2, test_share=0.2)[0])
    with pytest.raises(ValueError, match=r"test split has 1 speakers.*\n.*data\.test_share="):
        demand_labels(["sv"], load(tmp_path, validation_share=0.2)[0])
    with pytest.raises(ValueError, match=r"train split has 1 speakers.*\n.*data\.validation_share=, data\.test_share="):
        demand_labels(["sv"], load(tmp_path, validation_share=0.2, test_share=0.7)[0])
    single = load(talkers(tmp_path / "single", 10, clips=1), validation_share=0.2, test_share=0.2)[0]
    with pytest.raises(ValueError, match=r"2 speakers, of none more than 1 clips; .* and 2 clips of one of them"):
        demand_labels(["sv"], single)


def test_languages_are_demanded_where_they_are_to_be_named_or_told_apart(tmp_path):
    splits, _ = load(talkers(tmp_path, 10))
    demand_labels(["ml-mono"], splits, "superb")
    with pytest.raises(ValueError, match=r"ml-multi needs the column 'language'; .*\n.*data\.columns\.language="):
        demand_labels(["ml-multi"], splits, "superb")
    with pytest.raises(ValueError, match="lid: 'language' has 1 class in training, 2 are needed"):
        demand_labels(["lid"], load(talkers(tmp_path / "one", 10, language="en"))[0])


def test_decoders_are_none_for_the_embedded_corpus_and_few_for_others(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert Data().decoders(1) == 0
    assert [settings(Path("x")).decoders(count) for count in (1, 8, 32)] == [4, 2, 0]
    assert [replace(settings(Path("x")), workers=count).decoders(8) for count in (0, 7)] == [0, 7]


def test_rows_that_lack_a_label_have_an_empty_one():
    rows = [{"audio": "a.wav", "id": "a", "style": "calm"}, {"audio": "b.wav", "id": "b", "speaker": "x"}]
    dataset = of_files(rows, {}, "corpus").dataset()
    assert (list(dataset["style"]), list(dataset["speaker"])) == (["calm", ""], ["", "x"])
