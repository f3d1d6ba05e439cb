"""A user's own recordings become clips: any format and rate, splits by speaker, bad files named, nothing read twice."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr
from sounds import metadata, noise, sound, talkers

from distill.data import manifest
from distill.data.clips import decode, length, resampled
from distill.data.columns import of_files
from distill.data.corpora import load_splits
from distill.data.splits import SPLITS, complete, named
from distill.data.trials import read_trials
from distill.recipe import Data, Folder, RecipeError
from distill.tasks import TASKS, demand_labels


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fusedistill" / "manifests"


def settings(folder: Path, **changed) -> Data:
    return Data(corpus="folder", folder=Folder(str(folder)), **changed)


def load(folder: Path, **changed) -> tuple[dict, str]:
    """The splits, and all that was said."""
    said = []
    return load_splits(settings(folder, **changed), said.append), "\n".join(said)


def speakers(clips) -> set[str]:
    return set(clips.column("speaker"))


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("samples", [400, 401, 12_345])
def test_a_header_tells_the_length_after_resampling(rate, samples, tmp_path):
    path = str(sound(tmp_path / "a.wav", samples / rate, rate))
    audio = decode(path, "a")
    assert len(audio) == length(path, "a") == resampled(samples, rate)
    assert len(audio) == len(soxr.resample(np.zeros(samples), rate, 16_000))


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_formats_are_decoded_to_the_announced_length(kind, tmp_path):
    path = str(sound(tmp_path / f"a.{kind}", 1.23, 44_100))
    assert len(decode(path, "a")) == length(path, "a") == round(1.23 * 16_000)


def test_a_tone_keeps_its_pitch_and_level_through_resampling(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * np.arange(48_000) / 48_000), 48_000, "FLOAT")
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(decode(str(tmp_path / "a.wav"), "a")[500:-500], expected[500:-500], atol=1e-3)


def test_channels_are_refused_mixed_or_the_first_taken(tmp_path):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, noise(1000, 2), 16_000, "FLOAT")
    for read in (decode, length):
        with pytest.raises(ValueError, match=r"2 channels where 1 is wanted; .*data\.mono=mix or first"):
            read(path, "a")
    np.testing.assert_allclose(decode(path, "a", "mix"), noise(1000, 2).mean(1), atol=1e-7)
    np.testing.assert_allclose(decode(path, "a", "first"), noise(1000, 2)[:, 0], atol=1e-7)


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


def test_a_corpus_without_splits_is_split_by_speaker_and_says_so(tmp_path):
    splits, said = load(talkers(tmp_path, 10), test_share=0.3)
    assert [len(speakers(splits[part])) for part in SPLITS] == [6, 1, 3]
    assert len(set.union(*map(speakers, splits.values()))) == 10
    assert "no test split: 3 of 10 training speakers" in said
    again, _ = load(tmp_path, test_share=0.3)
    other, _ = load(tmp_path, test_share=0.3, split_seed=1)
    assert speakers(again["test"]) == speakers(splits["test"]) != speakers(other["test"])


def test_who_is_in_which_split_depends_neither_on_limits_nor_on_the_order_of_files(tmp_path):
    splits, _ = load(talkers(tmp_path, 10))
    shorter, said = load(tmp_path, longest=0.42)
    assert speakers(shorter["test"]) <= speakers(splits["test"])
    assert speakers(shorter["train"]) <= speakers(splits["train"])
    assert "left out 7 of 20 clips, longer than data.longest=0.42 s" in said
    voices = ["a", "b", "c", "d"]
    shares = {"validation": 0.25, "test": 0.25}
    there = dict(zip(voices, complete(["train"] * 4, voices, shares, 0, print), strict=True))
    back = dict(zip(voices[::-1], complete(["train"] * 4, voices[::-1], shares, 0, print), strict=True))
    assert there == back


def test_only_the_missing_split_is_made_and_from_training_speakers():
    given = ["train"] * 8 + ["validation"] * 2
    made = complete(given, [str(i) for i in range(10)], {"validation": 0.5, "test": 0.25}, 0, print)
    assert made[8:] == ["validation", "validation"]
    assert sorted(made[:8]) == ["test"] * 2 + ["train"] * 6


def test_without_speakers_clips_are_drawn():
    made = complete(["train"] * 20, None, {"validation": 0.1, "test": 0.2}, 0, print)
    assert [made.count(part) for part in SPLITS] == [14, 2, 4]


def test_splits_may_be_named_and_joined():
    values = ["clean", "other", "heldout", "spare"]
    assert named(values, {"train": "clean+other", "test": "heldout"}) == ["train", "train", "test", ""]
    assert named(["Dev", "", "Training"], {}) == ["validation", "", "train"]
    with pytest.raises(ValueError, match=r"no split 'dirty'; it has clean, .*\n.*data\.splits\.train="):
        named(values, {"train": "dirty"})
    with pytest.raises(ValueError, match="no split of a usual name; it has fold1"):
        named(["fold1"], {})


def test_too_few_speakers_and_no_training_clips_are_refused():
    shares = {"validation": 0.1, "test": 0.1}
    with pytest.raises(ValueError, match="2 speakers in train are too few"):
        complete(["train"] * 2, ["a", "b"], shares, 0, print)
    with pytest.raises(ValueError, match="no clip to train on, only test"):
        complete(["test"], ["a"], shares, 0, print)


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


def test_bad_files_are_left_out_counted_and_named(tmp_path):
    talkers(tmp_path, 10)
    (tmp_path / "audio" / "0003.wav").write_bytes(b"no sound")
    (tmp_path / "audio" / "0004.wav").unlink()
    soundfile.write(tmp_path / "audio" / "0005.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "audio" / "0006.wav", noise(8000, 2), 16_000)
    splits, said = load(tmp_path, bad_share=0.2)
    assert sum(map(len, splits.values())) == 16
    assert "left out 4 of 20 files (20.00%)" in said
    for name, reason in (
        ("0003", "cannot be read"),
        ("0004", "cannot be read"),
        ("0005", "0 samples"),
        ("0006", "2 ch"),
    ):
        assert f"audio/{name}.wav: " in said and reason in said
    with pytest.raises(ValueError, match=r"4 of 20 files .* above data\.bad_share=0\.1"):
        load(tmp_path, bad_share=0.1)


def test_damage_behind_a_good_header_is_found_by_decoding(tmp_path):
    talkers(tmp_path, 10)
    damaged = sound(tmp_path / "audio" / "0003.flac", 2.0)
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    damaged.rename(tmp_path / "audio" / "0003.wav")
    splits, _ = load(tmp_path)
    assert sum(map(len, splits.values())) == 20
    (clips, row) = next((part, part.ids.index(name)) for part in splits.values() for name in part.ids if "0003" in name)
    with pytest.raises(ValueError, match=r"0003.wav: .*(data\.check=decode|cannot be read)"):
        clips.audio(row)
    assert sum(map(len, load(tmp_path, check="decode", bad_share=0.1)[0].values())) == 19


def test_files_are_looked_at_once_until_they_change(tmp_path, cache, monkeypatch):
    before, _ = load(talkers(tmp_path, 10))
    assert len(list(cache.glob("*.arrow"))) == 1
    measure = manifest.length
    monkeypatch.setattr(manifest, "length", lambda *_: pytest.fail("looked again"))
    after, _ = load(tmp_path)
    assert {part: list(clips.samples) for part, clips in after.items()} == {
        part: list(clips.samples) for part, clips in before.items()
    }
    monkeypatch.setattr(manifest, "length", measure)
    names = set()
    for change in (
        lambda: sound(tmp_path / "audio" / "0000.wav", 0.7),
        lambda: os.utime(tmp_path / "audio" / "0001.wav", ns=(1, 1)),
        lambda: monkeypatch.setattr(manifest, "VERSION", 2),
    ):
        change()
        load(tmp_path)
        names.add(len(list(cache.glob("*.arrow"))))
    load(tmp_path, mono="mix")
    assert names | {len(list(cache.glob("*.arrow")))} == {2, 3, 4, 5}


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


def test_a_task_the_corpus_cannot_serve_is_refused_with_the_column(tmp_path):
    splits, _ = load(talkers(tmp_path, 10, language=""))
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


def trials(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_verification_is_scored_on_the_pairs_of_the_trial_list(tmp_path):
    talkers(tmp_path, 10)
    listed = trials(tmp_path / "t.txt", "1 audio/0003.wav audio/0013.wav\n\n0 audio/0003.wav audio/0004.wav\n")
    splits, said = load(tmp_path, trials=listed)
    test = splits["test"]
    assert test.ids == ["audio/0003.wav", "audio/0004.wav", "audio/0013.wav"]
    assert "1 more clips of its speakers are left out" in said
    demand_labels(["sv"], splits)
    sv = TASKS["sv"]
    assert sv.choose(test, 1).tolist() == [0, 1, 2] and len(sv.choose(splits["train"], 3)) == 3
    embeddings = [np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.8, 0.6])]
    assert sv.score(embeddings, test)["eer"] == 0
    assert sv.score(embeddings[::-1], test)["eer"] == 0 < sv.score([embeddings[i] for i in (0, 2, 1)], test)["eer"]


def test_a_trial_list_may_end_its_lines_with_the_label(tmp_path):
    read = read_trials(Path(trials(tmp_path / "t", "a b target\nc d nontarget\n")))
    assert (read.left, read.right, read.same) == (["a", "c"], ["b", "d"], [1, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 a b\n0 a\n", r"t\.txt:2: 2 fields where 3 are wanted"),
        ("1 a b\nyes a b\n", r"t\.txt:2: no label"),
        ("1 a b\n", "1 pairs of one speaker and 0 of two"),
        ("", "0 pairs of one speaker"),
        (
            "1 audio/0000.wav audio/0010.wav\n0 audio/0001.wav audio/0011.wav\n",
            r"t\.txt:2: says two speakers, but 'audio/0001\.wav' is of '001' and 'audio/0011\.wav' of '001'",
        ),
        ("1 audio/0000.wav audio/0010.wav\n\n0 audio/0000.wav gone.wav\n", r"t\.txt:3: 'gone\.wav': .*no such clip"),
        (
            "1 audio/0000.wav audio/0010.wav\n0 audio/0000.wav audio/0019.wav\n",
            r"t\.txt:2: 'audio/0019.wav': .*longest=0\.45",
        ),
    ],
)
def test_a_wrong_trial_list_is_refused_with_its_line_and_the_reason(text, message, tmp_path):
    talkers(tmp_path, 10)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, trials=trials(tmp_path / "t.txt", text), longest=0.45)


def test_decoders_are_none_for_the_embedded_corpus_and_few_for_others(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert Data().decoders(1) == 0
    assert [settings(Path("x")).decoders(count) for count in (1, 8, 32)] == [4, 2, 0]
    assert [replace(settings(Path("x")), workers=count).decoders(8) for count in (0, 7)] == [0, 7]


def test_rows_that_lack_a_label_have_an_empty_one():
    rows = [{"audio": "a.wav", "id": "a", "style": "calm"}, {"audio": "b.wav", "id": "b", "speaker": "x"}]
    dataset = of_files(rows, {}, "corpus").dataset()
    assert (list(dataset["style"]), list(dataset["speaker"])) == (["calm", ""], ["", "x"])
