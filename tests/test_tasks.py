"""Tasks: padding means nothing, losses equal slow references, labels come from training alone."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from heads import frames
from spoken import make_clips

from distill.data.clips import Clips
from distill.tasks import TASKS
from distill.tasks import sv as verification
from distill.tasks.asr import flat_loss, normal
from distill.tasks.sv import Voices, pairs
from distill.tasks.task import draw

WIDTH = 6
LENGTHS = [9, 4, 7]  # frames


@pytest.fixture
def train() -> Clips:
    return make_clips(
        transcript=["ab a", "b", "aab"],
        speaker=["x", "y", "z"],
        style=["calm", "flat", "calm"],
        language=["en", "en", "en"],
    )


@pytest.fixture(params=TASKS)
def task(request, train, monkeypatch):
    task = TASKS[request.param]
    if task.name == "lid":
        task = replace(task, column="speaker")
    return task.prepare(train)


def padded(garbage: float) -> tuple[torch.Tensor, torch.Tensor]:
    return frames(garbage, LENGTHS, WIDTH, spare=2)


@pytest.mark.parametrize("progress", [0.0, 0.9])
@pytest.mark.parametrize("garbage", [0.0, 50.0])
def test_a_clip_gives_the_same_loss_and_prediction_alone_and_in_a_batch(task, train, progress, garbage):
    torch.manual_seed(1)
    head, targets = task.head(WIDTH), task.targets(train)
    frames_BTD, lengths_B = padded(garbage)
    outputs = head(frames_BTD, lengths_B)
    together, count = task.loss(outputs, lengths_B, targets, progress)
    predictions = task.predictions(outputs, lengths_B)
    alone, counted = 0.0, 0
    for i, length in enumerate(LENGTHS):
        own = head(frames_BTD[i : i + 1, :length], lengths_B[i : i + 1])
        loss, number = task.loss(own, lengths_B[i : i + 1], targets[i : i + 1], progress)
        alone, counted = alone + loss, counted + number
        (prediction,) = task.predictions(own, lengths_B[i : i + 1])
        if task.name == "sv":
            np.testing.assert_allclose(prediction, predictions[i], atol=1e-5)
        else:
            assert prediction == predictions[i]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert count == counted == sum(target.numel() for target in targets)


def test_every_weight_of_a_head_learns(task, train):
    torch.manual_seed(1)
    head = task.head(WIDTH)
    frames_BTD, lengths_B = padded(0.0)
    task.loss(head(frames_BTD, lengths_B), lengths_B, task.targets(train), 0.9)[0].backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in head.parameters())


def test_recognition_uses_the_clips_that_have_text():
    assert TASKS["asr"].select(make_clips(transcript=["a", "", " ", "?!", "c"])).tolist() == [0, 4]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("WE CALL IT BEAR", "we call it bear"),
        ("\u201cDon\u2019t!\u201d, she said - twice.", "don't she said twice"),
        ("  The 'quoted'\tword's  end' ", "the quoted word's end"),
        ("STRASSE, \u00dcBER; stra\u00dfe", "strasse \u00fcber stra\u00dfe"),
        ("U\u0308ber", "\u00fcber"),
        ("\u0928\u092e\u0938\u094d\u0924\u0947\u0964", "\u0928\u092e\u0938\u094d\u0924\u0947"),
        ("\u4f60\u597d\uff0c\u4e16\u754c\u3002 \uff21\uff11", "\u4f60\u597d \u4e16\u754c a1"),
        ("...", ""),
    ],
)
def test_case_and_punctuation_are_not_spelled(written, said):
    assert normal(written) == said == normal(said)


def test_case_and_punctuation_are_no_errors_and_unheard_characters_are():
    asr = TASKS["asr"].prepare(make_clips(transcript=["A b.", "ab"]))
    assert asr.vocabulary == (" ", "a", "b")
    scores = asr.score(["a b", "ab"], make_clips(transcript=["A, B!", "az"]))
    assert scores == pytest.approx({"wer": 100 / 3, "cer": 20.0})


def test_the_flat_start_equals_a_loop_over_frames(train):
    targets = TASKS["asr"].prepare(train).targets(train)
    outputs_BTC = torch.randn(3, max(LENGTHS), 5, generator=torch.Generator().manual_seed(2))
    expected = 0.0
    for clip, (target, length) in enumerate(zip(targets, LENGTHS, strict=True)):
        for frame in range(length):
            wanted = target[int(frame / length * len(target))]
            expected -= outputs_BTC[clip, frame].log_softmax(-1)[wanted] * len(target) / length
    sizes_B = torch.tensor([len(target) for target in targets])
    targets_BS = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True)
    torch.testing.assert_close(flat_loss(outputs_BTC, torch.tensor(LENGTHS), targets_BS, sizes_B), expected)


def test_ctc_equals_the_sum_over_all_alignments(train):
    asr = TASKS["asr"].prepare(train)
    target = asr.targets(train)[1]  # "b"
    outputs_BTC = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(2))
    chances_TC = outputs_BTC[0].softmax(-1)
    total = 0.0
    for path in product(range(4), repeat=4):
        collapsed = [c for i, c in enumerate(path) if c and (i == 0 or path[i - 1] != c)]
        if collapsed == target.tolist():
            total += float(torch.prod(chances_TC[range(4), path]))
    loss, count = asr.loss(outputs_BTC, torch.tensor([4]), [target], 0.5)
    assert loss.item() == pytest.approx(-np.log(total), rel=1e-5)
    assert count == 1


def test_a_clip_too_short_for_its_text_adds_nothing(train):
    asr = TASKS["asr"].prepare(train)
    outputs_BTC = torch.randn(1, 2, 4)
    assert asr.loss(outputs_BTC, torch.tensor([2]), [asr.targets(train)[0]], 0.5)[0] == 0


def test_greedy_decoding_drops_repeats_then_blanks(train):
    asr = TASKS["asr"].prepare(train)  # blank, " ", "a", "b"
    best = torch.tensor([[2, 2, 0, 2, 1, 3, 3, 0, 0, 3]])
    scores = torch.nn.functional.one_hot(best, 4).float()
    assert asr.predictions(scores, torch.tensor([8])) == ["aa b"]
    assert asr.predictions(scores, torch.tensor([10])) == ["aa bb"]


def test_recognition_scores_words_and_characters(train):
    scores = TASKS["asr"].score(["ab a", "", "aab"], train)
    assert scores == pytest.approx({"wer": 25.0, "cer": 12.5})


def test_am_softmax_equals_its_formula(train):
    sv = TASKS["sv"].prepare(train)
    cosines_BS = torch.rand(3, 3, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for row, wanted in zip(cosines_BS.double(), (0, 1, 2), strict=True):
        right = torch.exp(30 * (row[wanted] - 0.4))
        wrong = sum(torch.exp(30 * row[other]) for other in range(3) if other != wanted)
        expected -= torch.log(right / (right + wrong))
    outputs = Voices(torch.zeros(3, 2), cosines_BS)
    loss, _ = sv.loss(outputs, torch.tensor(LENGTHS), sv.targets(train), 0.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_embeddings_of_speakers_verify_and_shuffled_ones_do_not():
    rng = np.random.default_rng(0)
    speakers = [str(i % 8) for i in range(160)]
    clips = make_clips(speaker=speakers)
    of_speaker = rng.normal(size=(8, 16))
    embeddings = of_speaker[[int(s) for s in speakers]] + 0.1 * rng.normal(size=(160, 16))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert TASKS["sv"].score(list(embeddings), clips)["eer"] < 1
    assert TASKS["sv"].score(list(rng.permutation(embeddings)), clips)["eer"] == pytest.approx(50, abs=4)


def test_pairs_are_all_there_are_and_at_most_so_many(monkeypatch):
    speakers = ["a", "b", "a", "b", "b"]
    left, right, same = pairs(speakers)
    assert len(left) == 10 and same.sum() == 4
    assert all((speakers[i] == speakers[j]) == s for i, j, s in zip(left, right, same, strict=True))
    monkeypatch.setattr(verification, "PAIRS", 3)
    left, right, same = pairs(speakers)
    assert same.tolist() == [1, 1, 1, 0, 0, 0] and len(set(zip(left, right, strict=True))) == 6


def test_classes_are_balanced_to_the_median_class():
    labels = ["en"] * 50 + ["de"] * 5 + ["fr"] * 4 + [""]
    chosen = TASKS["lid"].select(make_clips(language=labels))
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert [sum(labels[i] == name for i in chosen) for name in ("en", "de", "fr", "")] == [5, 5, 4, 0]


def test_drawing_takes_the_same_rows_each_time_and_from_everywhere():
    rows = np.arange(1000)
    assert np.array_equal(draw(rows, 100), draw(rows, 100))
    assert 400 < draw(rows, 100).mean() < 600 and np.array_equal(draw(rows, 1000), rows)


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("asr", {"transcript": []}, "no training clip has a transcript"),
        ("sv", {"speaker": ["a", "a"]}, "1 speaker in training, 2 are needed"),
        ("er", {"style": ["calm"]}, "1 class in training, 2 are needed"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(name, columns, message):
    with pytest.raises(ValueError, match=message):
        TASKS[name].prepare(make_clips(**columns))


def test_pairs_need_both_kinds():
    with pytest.raises(ValueError, match="clips of two speakers"):
        pairs(["a", "a"])
