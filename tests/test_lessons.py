"""What small waveform models are asked: classes of frames and of clips, from clips whose phones are known."""

import numpy as np
import pytest
import torch
from miniature import CORPUS, Miniature
from spoken import make_clips

from distill.data.clips import Clips
from distill.data.embedded import build, plan, voices
from distill.features import SAMPLE_RATE
from distill.loading import load
from teachers import FAMILIES, build_upstream
from teachers.pretrain.__main__ import main
from teachers.pretrain.answers import SCALE, Answers, Pooled, Voices
from teachers.pretrain.lessons import CENTRE, NONE, PHONES, Lessons, Said, known, ranked, spoken
from teachers.pretrain.material import TRACTS, Material, corpus, spoken_by
from teachers.pretrain.settings import Pretrain

PHONE = ["m", "a", "'m", "i"]
STARTS = [0.1, 0.3, 0.5, 0.8]  # seconds


def spoken_by_two(tracts: list[float]) -> Material:
    """Clips of one sentence by two speakers in turn, one style each; a second long before their tracts."""
    clips = len(tracts)
    audio = [np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)] * clips
    labels = {"speaker": (["bo", "al"] * clips)[:clips], "style": (["flat", "calm"] * clips)[:clips]}
    heard = make_clips(**labels, phones=[PHONE] * clips, phone_starts=[STARTS] * clips)
    return Material(audio, audio, heard, np.array(tracts))


def lessons_of(data: Material, frames: list[int]) -> Lessons:
    return known(data, spoken(data.clips), frames)


def test_phones_are_those_at_each_frames_centre_and_move_with_the_tempo():
    lessons = lessons_of(spoken_by_two([1.0, 1.25]), [49, 39])
    plain, fast = lessons.frames["phone"]
    centres = [(CENTRE + 320 * frame) / SAMPLE_RATE for frame in range(49)]
    names = ["".join(phone for start, phone in zip(STARTS, PHONE, strict=True) if start <= at)[-1:] for at in centres]
    order = {name: number for name, number in zip(names, plain, strict=True)}
    assert [order[name] for name in names] == plain.tolist() and len(set(order.values())) == 4, "stress is no phone"
    at = [round((CENTRE / SAMPLE_RATE + frame / 50) * 1.25 * 50 - CENTRE * 50 / SAMPLE_RATE) for frame in range(39)]
    told = [plain[min(frame, 48)] for frame in at]
    assert np.mean(fast == told) > 0.9, "a quarter faster, the same phones come sooner"


def test_a_voice_with_another_tract_is_another_voice():
    lessons = lessons_of(spoken_by_two([1.0, 1.0, 1.16, 1.0, 1.0]), [40] * 5)
    voice, style = lessons.clips["voice"], lessons.clips["style"]
    assert voice[0] == voice[4] and voice[1] == voice[3] and len(set(voice)) == 3 == lessons.sizes["voice"]
    assert style.tolist() == [1, 0, 1, 0, 1] and lessons.sizes["style"] == 2 and lessons.sizes["phone"] == PHONES


def test_a_phone_lasts_until_the_next_one():
    assert Said(["a", "b"], np.array([0.1, 0.3])).at(np.array([0.05, 0.1, 0.29, 0.3, 9.0])) == ["", "a", "a", "b", "b"]


def test_what_clips_do_not_tell_is_not_asked():
    audio = [np.ones(SAMPLE_RATE, np.float32)] * 2
    clips = make_clips(speaker=["bo", "al"], style=["flat", ""], phones=[PHONE] * 2, phone_starts=[STARTS] * 2)
    lessons = lessons_of(Material(audio, audio, clips, np.ones(2)), [40] * 2)
    assert list(lessons.clips) == ["voice"] and list(lessons.frames) == ["phone"]


def test_the_most_common_labels_have_numbers():
    first, second = ranked([["a", "b", "a"], ["c", "b", "a"]], 2)
    assert first.tolist() == [0, 1, 0] and second.tolist() == [NONE, 1, 0]


def test_a_shorter_tract_raises_all_frequencies_and_the_tempo_alike():
    tone = np.sin(2 * np.pi * 200 * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    short = spoken_by(tone, 1.16)
    assert len(short) == pytest.approx(SAMPLE_RATE / 1.16, abs=2) and short.dtype == np.float32
    spectrum = np.abs(np.fft.rfft(short * np.hanning(len(short))))
    assert spectrum.argmax() * SAMPLE_RATE / len(short) == pytest.approx(232, abs=1.5)


def test_tracts_are_drawn_by_the_seed_for_noisy_and_clean_alike():
    data = spoken_by_two([1.0] * 60)
    varied, again, other = data.varied(1), data.varied(1), data.varied(2)
    assert np.array_equal(varied.tracts, again.tracts) and not np.array_equal(varied.tracts, other.tracts)
    assert set(varied.tracts) == set(TRACTS)
    assert [len(clip) for clip in varied.clean] == varied.samples.tolist()
    assert varied.samples * varied.tracts == pytest.approx(data.samples, rel=1e-3)


@pytest.mark.parametrize("head", [Pooled(6, 3), Voices(6, 3)])
def test_what_is_said_of_a_clip_does_not_depend_on_its_padding(head):
    hidden_BTD, wanted_B = torch.randn(2, 9, 6), torch.tensor([2, 0])
    mask_BT1 = torch.ones(2, 9, 1)
    longer_BTD, longer_BT1 = torch.cat([hidden_BTD, torch.randn(2, 4, 6)], 1), torch.cat([mask_BT1, 0 * mask_BT1], 1)
    short, long = head.loss(hidden_BTD, mask_BT1, wanted_B), head.loss(longer_BTD, longer_BT1[:, :13], wanted_B)
    assert torch.allclose(short[0], long[0], atol=1e-6) and short[1] == long[1]


def test_a_voice_must_lead_by_the_margin():
    voices = Voices(4, 2)
    with torch.no_grad():
        voices.voices_VE.copy_(torch.eye(2, 128))
        voices.pooled.leave.weight.zero_()
        voices.pooled.leave.bias.copy_(torch.eye(1, 128)[0])
    loss, share = voices.loss(torch.randn(1, 5, 4), torch.ones(1, 5, 1), torch.tensor([0]))
    logits = torch.tensor([[SCALE * (1 - 0.2), 0.0]])
    assert (
        loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.tensor([0])).item()) and share == 1
    )


def test_hidden_and_seen_frames_count_half_each_and_unknown_ones_not():
    answers = Answers(4, Lessons({"phone": [np.zeros(3)]}, {}, {"phone": 5}, []))
    last_FD, hidden_F = torch.randn(6, 4), torch.tensor([True, False, False, False, False, True])
    wanted_F = torch.tensor([1, 2, NONE, 4, 0, 3])
    loss, _ = answers.of_frames("phone", last_FD, wanted_F, hidden_F)
    each = -answers.frames["phone"](last_FD).log_softmax(1)[torch.arange(6), wanted_F.clamp(min=0)]
    assert loss.item() == pytest.approx(
        0.5 * each[[0, 5]].mean().item() + 0.5 * (each[[1, 3, 4]].sum() / 4).item(), rel=1e-5
    )


def test_small_upstreams_hear_training_voices_alone():
    rows = plan(corpus(Pretrain("wavlm", english=60, other=4)))
    training = {voice.variant for voice in voices() if voice.split == "train"}
    assert len(rows) == 60 + 4 * 9 and {row["split"] for row in rows} == {"train"}
    assert {row["speaker"] for row in rows} <= training


@pytest.mark.filterwarnings("ignore:Support for mismatched:UserWarning")  # transformers' WavLM with padded clips
def test_a_small_wavlm_learns_what_the_synthesizer_knows(tmp_path, capsys, monkeypatch, miniature: Miniature):
    monkeypatch.setenv("XDG_CACHE_HOME", miniature.environment()["XDG_CACHE_HOME"])
    clips = Clips(build(load(["recipe=wavlm", *CORPUS], FAMILIES).data.embedded)).split("train")
    audio = [clips.audio(row) for row in range(len(clips))]
    data = Material(audio, audio, clips, np.ones(len(clips)))
    monkeypatch.setattr("teachers.pretrain.waveform.material", lambda settings: data)
    words = ["width=32", "layers=2", "steps=2", "batch_seconds=6", "lessons=known", f"out={tmp_path / 'made'}"]
    main(["wavlm", *words])
    assert "phone, voice, style in" in capsys.readouterr().out
    assert build_upstream("wavlm", "", str(tmp_path / "made")).encoder.layers == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["whisper", "lessons=known"], "lessons=known is for wavlm and hubert"),
        (["wavlm", "lessons=all"], "unknown lessons=all; there are clusters, known"),
    ],
)
def test_lessons_that_nobody_can_give_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        main(given)
