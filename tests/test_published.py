"""Published corpora are read as they are laid out, on replicas of a few clips; the Hub's failures are told apart."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from datasets.exceptions import DatasetNotFoundError
from replicas import iemocap, trials, voxceleb1
from sounds import sound

from distill.data.corpora import load_splits
from distill.data.hub import Hub, explained, open_hub
from distill.data.ml_superb import FEW_SHOT, MONOLINGUAL, nine_languages
from distill.data.published import ON_THE_HUB
from distill.data.settings import CORPORA, Data, Folder
from distill.data.splits import SPLITS
from distill.tasks import demand_labels


@pytest.fixture(autouse=True)
def caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def local(corpus: str, folder: Path, **changed) -> Data:
    return Data(corpus=corpus, folder=Folder(str(folder)), **changed)


def ids(splits: dict) -> dict[str, set[str]]:
    return {part: set(clips.ids) for part, clips in splits.items()}


def librispeech(folder: Path, config: str, splits: list[str]) -> Path:
    """Parquet files with the sound inside, and a card that says what they are."""
    features = "{name: file, dtype: string}, {name: audio, dtype: {audio: {sampling_rate: 16000}}}, "
    features += "{name: text, dtype: string}, {name: speaker_id, dtype: int64}, {name: id, dtype: string}"
    card = [f"---\nconfigs:\n- config_name: {config}\n  data_files:"]
    for number, split in enumerate(splits):
        rows = []
        for clip in range(2):
            path = sound(folder.with_name("flac") / f"{number}-{clip}.flac", 0.4 + 0.1 * number, seed=clip)
            rows.append({"file": path.name, "audio": {"bytes": path.read_bytes(), "path": path.name}})
            rows[-1] |= {"text": "CHAPTER ONE", "speaker_id": 10 * number + clip, "id": f"{split}-{clip}"}
        (folder / config).mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(str(folder / config / f"{split}-00000-of-00001.parquet"))
        card.append(f"  - split: {split}\n    path: {config}/{split}-*.parquet")
    card.append(f"dataset_info:\n  config_name: {config}\n  features: [{features}]\n  download_size: 3000000000\n---\n")
    (folder / "README.md").write_text("\n".join(card))
    return folder


ALL = ["train.clean.100", "train.clean.360", "train.other.500", "validation.clean", "validation.other"]
ALL += ["test.clean", "test.other"]
CLEAN = ["train.100", "train.360", "validation", "test"]


@pytest.mark.parametrize(
    ("corpus", "config", "there", "train"),
    [
        ("librispeech-100", "clean", CLEAN, ["train.100"]),
        ("librispeech-460", "clean", CLEAN, ["train.100", "train.360"]),
        ("librispeech", "all", ALL, ALL[:3]),
    ],
)
def test_librispeech_trains_on_the_hours_its_name_says(corpus, config, there, train, tmp_path):
    folder = librispeech(tmp_path / "replica", config, there)
    said = []
    splits = load_splits(Data(corpus=corpus, hub=Hub(name=str(folder))), said.append)
    found = {part: {name.rpartition("-")[0] for name in names} for part, names in ids(splits).items()}
    clean = ".clean" if config == "all" else ""
    assert found == {"train": set(train), "validation": {f"validation{clean}"}, "test": {f"test{clean}"}}
    assert splits["train"].column("transcript")[0] == "CHAPTER ONE"
    assert splits["train"].column("speaker")[:2] == ["0", "1"]
    assert all(len(splits["train"].audio(row)) == splits["train"].samples[row] for row in range(2))
    assert "3.00 GB to download" in said[0]
    unused = [split for split in there if split not in {*train, f"validation{clean}", f"test{clean}"}]
    assert (f"fetched, {', '.join(unused)} too, which" in said[1]) == bool(unused)
    demand_labels(["asr"], splits)


def test_what_is_published_is_named_as_on_the_hub_and_can_be_chosen():
    assert {corpus.hub.name for corpus in ON_THE_HUB.values()} == {"openslr/librispeech_asr"}
    assert set(ON_THE_HUB) <= set(CORPORA)
    assert all(set(corpus.splits) == set(SPLITS) for corpus in ON_THE_HUB.values())


def test_any_dataset_is_read_with_a_column_map(tmp_path):
    folder = librispeech(tmp_path / "replica", "mine", ["first", "second"])
    data = Data(corpus="hub", hub=Hub(str(folder), "mine"), splits={"train": "first+second"}, columns={"speaker": ""})
    data = replace(
        data, columns={"transcript": "text", "speaker": "speaker_id"}, test_share=0.25, validation_share=0.25
    )
    splits = load_splits(data, lambda _: None)
    assert [len(splits[part]) for part in SPLITS] == [2, 1, 1]
    for changed, message in (
        ({"splits": {"train": "third"}}, r"has no split 'third'; it has first, second\nsay data\.splits\.train="),
        ({"splits": {}}, "none of the splits first, second has a usual name"),
        ({"columns": {"transcript": "sentence"}}, r"no column 'sentence' for transcript; it has file, audio, text"),
        ({"columns": {"audio": "sound"}}, r"no column 'sound' for audio"),
        ({"hub": Hub(str(folder), "yours")}, r"yours.*\n.*data\.hub\.config="),
        ({"hub": Hub()}, r"data\.hub\.name="),
    ):
        with pytest.raises(ValueError, match=message):
            load_splits(replace(data, **changed), lambda _: None)


def test_with_no_network_the_dataset_is_named_with_a_way_out():
    with pytest.raises(OSError, match=r"'some/corpus' cannot be opened: Couldn't reach.*\n.*data\.hub\.name=<folder>"):
        open_hub(Hub("some/corpus"), {}, print)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."),
            "gated.*\naccept .*datasets/a/b and run `hf",
        ),
        (DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub"), "exist.*\ncorrect data.hub.name"),
        (RuntimeError("Dataset scripts are no longer supported"), "scripts.*\ntry datasets.load_dataset"),
        (ConnectionError("Couldn't reach 'a/b' on the Hub"), "reach.*\nwith no network"),
    ],
)
def test_why_a_dataset_cannot_be_had_is_told_apart(error, message):
    with pytest.raises((ValueError, OSError), match=f"the dataset 'a/b' cannot be opened: .*{message}"):
        raise explained(Hub("a/b"), error)


def test_voxceleb1_keeps_the_speakers_of_the_trials_for_the_test(tmp_path):
    listed = trials(tmp_path / "veri_test2.txt")
    settings = local("voxceleb1", voxceleb1(tmp_path / "vox"), trials=str(listed), validation_share=0.5)
    splits = load_splits(settings, lambda _: None)
    assert ids(splits)["test"] == {f"id1000{n // 2}/video{n}/00001.wav" for n in range(3)}
    assert [len(set(splits[part].column("speaker"))) for part in SPLITS] == [2, 2, 2]
    demand_labels(["sv"], splits)


def test_iemocap_has_four_classes_and_a_fold_for_each_session(tmp_path):
    folder, tested = iemocap(tmp_path / "iemocap"), []
    for fold in range(1, 6):
        splits = load_splits(local("iemocap", folder, fold=fold), lambda _: None)
        assert [len(splits[part]) for part in SPLITS] == [16, 4, 5]
        assert Counter(splits["test"].column("style")) == {"neutral": 1, "happy": 2, "sad": 1, "angry": 1}
        assert set(splits["test"].column("speaker")) == {f"Ses0{fold}F", f"Ses0{fold}M"}
        tested += splits["test"].ids
    assert len(set(tested)) == 25
    with pytest.raises(ValueError, match="IEMOCAP_full_release"):
        load_splits(local("iemocap", folder / "Session1"))


def ml_superb(folder: Path) -> Path:
    for corpus, language, names in (
        ("mls", "eng", ["mls_eng_000001", "mls_eng_000002"]),
        ("fleurs", "deu", ["fleurs_deu_000001", "fleurs_deu_000002"]),
        ("fleurs", "dan", ["fleurs_dan_000058", "fleurs_dan_000059"]),
    ):
        place = folder / corpus / language
        lists = {"10min_train": names[:1], "1h_train": names}
        lists |= {f"10min_{part}": [f"{corpus}_{language}_{part}"] for part in ("dev", "test")}
        for name, clips in lists.items():
            for clip in clips:
                sound(place / "wav" / f"{clip}.wav", 0.4)
            (place / f"transcript_{name}.txt").write_text("".join(f"{clip} {clip} WHAT IS SAID\n" for clip in clips))
    return folder


def test_ml_superb_has_sets_of_10_minutes_and_1_hour_and_few_clips_of_some_languages(tmp_path):
    folder = ml_superb(tmp_path / "eighth_version")
    short = load_splits(local("ml-superb", folder), lambda _: None)
    long = load_splits(local("ml-superb", folder, hours="1h"), lambda _: None)
    assert Counter(short["train"].column("language")) == {"eng": 1, "deu": 1, "dan": 1}
    assert Counter(long["train"].column("language")) == {"eng": 2, "deu": 2, "dan": 1}
    assert ids(short)["test"] == ids(long)["test"] and len(short["test"]) == 3
    assert set(long["train"].column("transcript")) == {"WHAT IS SAID"}
    demand_labels(["asr", "lid"], long)
    one = load_splits(local("ml-superb", folder, hours="1h", set="eng1"), lambda _: None)
    assert ids(one)["train"] == {"mls_eng_000001", "mls_eng_000002"}
    with pytest.raises(ValueError, match=r"has no nchlt/eng/transcript_10min_train\.txt"):
        load_splits(local("ml-superb", folder, set="eng2"))


def test_the_monolingual_average_is_over_nine_languages():
    assert len(MONOLINGUAL) == 13 and len({name[:3] for name in MONOLINGUAL}) == 9
    rates = {name: 27.0 if name.startswith("eng") else 9.0 for name in MONOLINGUAL}
    assert nine_languages(rates) == pytest.approx(11.0)
    assert nine_languages(rates | {"eng1": 0.0}) == pytest.approx(10.0)
    with pytest.raises(ValueError, match="no error rate for rus"):
        nine_languages({name: 1.0 for name in MONOLINGUAL if name != "rus"})


def test_twenty_languages_have_five_clips_each():
    clips = [clip for names in FEW_SHOT.values() for clip in names.split()]
    assert len(FEW_SHOT) == 20 and len(set(clips)) == 100
    assert all(clip.split("_")[1] == language for language, names in FEW_SHOT.items() for clip in names.split())


def test_common_voice_is_read_from_its_tables(tmp_path):
    for split, count in (("train", 2), ("dev", 1), ("test", 1)):
        lines = ["client_id\tpath\tsentence\tlocale"]
        for number in range(count):
            sound(tmp_path / "clips" / f"{split}{number}.mp3", 0.5, 32_000)
            lines.append(f'{split}{number}\t{split}{number}.mp3\tEr sagte "Nein".\tde')
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    splits = load_splits(local("common-voice", tmp_path), lambda _: None)
    assert ids(splits) == {"train": {"train0.mp3", "train1.mp3"}, "validation": {"dev0.mp3"}, "test": {"test0.mp3"}}
    assert splits["test"].column("transcript") == ['Er sagte "Nein".']
    assert len(splits["test"].audio(0)) == splits["test"].samples[0] == 8000
    demand_labels(["asr"], splits)
    (tmp_path / "dev.tsv").unlink()
    with pytest.raises(ValueError, match=r"dev\.tsv is not there"):
        load_splits(local("common-voice", tmp_path))
