"""Lists published beside a corpus: splits of its clips, pronunciations of its words."""

from pathlib import Path

import pytest
from replicas import voxceleb1
from sounds import metadata, sound

from benchmarks.lexicon import main
from distill.data.corpora import load_splits
from distill.data.lists import read_lexicon
from distill.data.settings import Data, Folder
from distill.limits import RecipeError
from distill.tasks import SUPERB


@pytest.fixture(autouse=True)
def cache(own_cache):
    """Manifests of their own."""


def clip(number: int) -> str:
    return f"id1000{number // 2}/video{number}/00001.wav"


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def load(folder: Path, corpus: str, **changed) -> tuple[dict, str]:
    said: list[str] = []
    splits = load_splits(Data(corpus=corpus, folder=Folder(str(folder)), **changed), said.append)
    return splits, "\n".join(said)


def test_a_split_list_says_which_clip_is_where_and_speakers_may_be_in_all_splits(tmp_path):
    """Speaker identification has the speakers of its test in training."""
    parts = {"train": range(0, 8, 2), "validation": range(1, 8, 4), "test": range(3, 8, 4)}
    lines = [f"{number} {clip(row)}" for number, rows in enumerate(parts.values(), 1) for row in rows]
    path = written(tmp_path / "iden_split.txt", *lines, "")
    splits, said = load(voxceleb1(tmp_path / "vox"), "voxceleb1", split_list=str(path))
    assert {name: set(one.ids) for name, one in splits.items()} == {
        name: {clip(row) for row in rows} for name, rows in parts.items()
    }
    assert "4 of 12 clips are not in iden_split.txt" in said
    task = SUPERB["sid"].prepare(splits["train"])
    told = splits["test"].column("speaker")
    assert set(told) <= set(splits["train"].column("speaker"))
    assert task.score(told, splits["test"]) == {"accuracy": 100.0}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["4 a"], r"iden_split.txt:1: `1 clip`, `2 clip` or `3 clip` is wanted: '4 a'"),
        (["1 a b"], r"iden_split.txt:1: .* is wanted: '1 a b'"),
        (["1 a", "3 a"], r"iden_split.txt:2: a stands there twice"),
        (
            ["1 a", f"1 {clip(0)}"],
            r"1 of 2 clips are not in the corpus, 'a' for one, which calls its clips like 'id10000/",
        ),
    ],
)
def test_a_wrong_split_list_is_named(tmp_path, lines, message):
    path = written(tmp_path / "iden_split.txt", *lines)
    with pytest.raises(ValueError, match=message):
        load(voxceleb1(tmp_path / "vox"), "voxceleb1", split_list=str(path))


def readers(folder: Path, texts: list[str], **more: str) -> Path:
    """A clip for each text, of a speaker of its own."""
    rows = []
    for number, text in enumerate(texts):
        sound(folder / f"{number}.wav", 0.4 + 0.01 * number, seed=number)
        rows.append({"file_name": f"{number}.wav", "transcript": text, "speaker": f"s{number}"} | more)
    return metadata(folder, rows)


LEXICON = ["SO S OW1", "IT IH1 T", "IT IH2 T", "IS IH1 Z"]


def test_a_lexicon_gives_phones_to_clips_whose_words_it_knows(tmp_path):
    texts = ["So, it is.", "IT IS", "is it so?", "it is odd, odd", "so is it"]
    splits, said = load(
        readers(tmp_path / "read", texts), "folder", lexicon=str(written(tmp_path / "lexicon.txt", *LEXICON))
    )
    told = {
        text: phones
        for part in splits.values()
        for text, phones in zip(part.column("transcript"), part.column("phones"), strict=True)
    }
    assert told["So, it is."] == "S OW1 IH1 T IH1 Z", "of two pronunciations the first"
    assert told["IT IS"] == "IH1 T IH1 Z" and told["it is odd, odd"] == ""
    assert "1 words are not in lexicon.txt (odd, ...); 4 of 5 clips have phones" in said
    train = splits["train"]
    chosen = SUPERB["pr"].select(train)
    assert [bool(phones) for phones in train.column("phones")] == [row in chosen for row in range(len(train))]


@pytest.mark.parametrize(
    ("columns", "lines", "message"),
    [
        ({}, ["SO"], r"lexicon.txt:1: SO has no phones"),
        ({}, ["OTHER AH1"], r"no transcript is of its 1 words alone"),
        ({"phones": "S OW1"}, LEXICON, r"the corpus has phones; say data.columns.phones="),
    ],
)
def test_a_lexicon_that_cannot_serve_is_named(tmp_path, columns, lines, message):
    folder = readers(tmp_path / "read", ["so it is"] * 4, **columns)
    with pytest.raises(ValueError, match=message):
        load(folder, "folder", lexicon=str(written(tmp_path / "lexicon.txt", *lines)))


def test_espeak_writes_a_lexicon_of_any_words(tmp_path, capsys):
    """Each once, however often and in whatever case it is said; no stress, no variants, no silence among its phones."""
    folder = readers(tmp_path / "read", ["So, it is.", "IT isn't", "ability so"])
    main(["recipe=wavlm", "data.corpus=folder", f"data.folder.path={folder}"])
    path = written(tmp_path / "lexicon.txt", *capsys.readouterr().out.splitlines())
    found = read_lexicon(path)
    assert list(found) == ["ability", "is", "isn't", "it", "so"]
    assert found["it"] == "I t" and found["so"] == "s oU" and found["ability"] == "a b I l @ t i"
    splits, _ = load(folder, "folder", lexicon=str(path))
    assert all(all(part.column("phones")) for part in splits.values())


def test_lists_are_not_for_the_embedded_corpus():
    with pytest.raises(RecipeError, match=r"data\.lexicon=words\.txt is for corpora from elsewhere"):
        Data(lexicon="words.txt")
