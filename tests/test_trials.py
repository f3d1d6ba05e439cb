"""Trial lists: verification is scored on their pairs, and a wrong line is named."""

from pathlib import Path

import numpy as np
import pytest
from sounds import load, metadata, sound, talkers

from distill.data.splits import SPLITS
from distill.data.trials import Trials, demand_speakers, read_trials
from distill.tasks import TASKS, demand_labels

pytestmark = pytest.mark.usefixtures("own_cache")


def trials(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_verification_is_scored_on_the_pairs_of_the_trial_list(tmp_path):
    talkers(tmp_path, 10)
    listed = trials(tmp_path / "t.txt", "1 audio/0003.wav audio/0013.wav\n\n0 audio/0003.wav audio/0004.wav\n")
    splits, said = load(tmp_path, trials=listed, validation_share=0.25)
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


def test_speakers_nobody_named_contradict_no_trial():
    lists = Trials(["a", "a"], ["b", "c"], [1, 0], [1, 2])
    demand_speakers(Path("t.txt"), lists, {"a": "x", "b": "", "c": ""})
    with pytest.raises(ValueError, match=r"t\.txt:1: says one speaker, but 'a' is of 'x' and 'b' of 'y'"):
        demand_speakers(Path("t.txt"), lists, {"a": "x", "b": "y", "c": ""})


def test_trials_are_of_the_test_split_where_there_is_one(tmp_path):
    rows = [{"file_name": f"{i}.wav", "speaker": str(i // 2), "split": SPLITS[i // 4]} for i in range(12)]
    for row in rows:
        sound(tmp_path / row["file_name"])
    metadata(tmp_path, rows)
    assert load(tmp_path, trials=trials(tmp_path / "t", "1 8.wav 9.wav\n0 8.wav 10.wav\n"))[0]["test"].trials
    with pytest.raises(ValueError, match=r"t:2: '4\.wav': it is in the split 'validation'"):
        load(tmp_path, trials=trials(tmp_path / "t", "1 8.wav 9.wav\n0 8.wav 4.wav\n"))
