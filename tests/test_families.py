"""Every upstream family, opened from a folder, against plain transformers; depth, weights in bfloat16, long clips."""

import shutil

import pytest
import torch
from small_checkpoints import KINDS, LAYERS
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from distill.encoders.frozen import Frozen
from distill.features import SAMPLE_RATE, Encoder
from distill.recipe import Teacher
from distill.teacher import FusedTeacher
from teachers import build_teacher, build_upstream
from teachers.checkpoint import CheckpointError
from teachers.fbank import stacked_fbank, windows
from teachers.whisper import SILENCE, WhisperEncoder

BANK = [kind for kind in KINDS if kind in ("w2v-bert", "seamless")]
RAW = [kind for kind in KINDS if kind not in BANK and not kind.startswith("whisper")]


def alone(encoder: Encoder, clip: torch.Tensor):
    with torch.no_grad():
        return encoder(clip[None], torch.tensor([len(clip)]))


def layers_of(encoder) -> torch.nn.ModuleList:
    """The transformer layers of the stock model inside."""
    return encoder.model.layers if isinstance(encoder, WhisperEncoder) else encoder.model.encoder.layers


@pytest.mark.parametrize("kind", RAW)
def test_what_hears_raw_audio_says_what_transformers_says(kind, checkpoint, open_small, noise):
    clip = 2 * noise(9_001) + 0.1
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(checkpoint(kind))
    values = extractor(clip.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
    stock = AutoModel.from_pretrained(checkpoint(kind)).eval()
    with torch.no_grad():
        states = stock(values, output_hidden_states=True).hidden_states
    torch.testing.assert_close(alone(open_small(kind), clip).hidden, torch.stack(states, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", BANK)
def test_a_conformer_says_what_transformers_says(kind, checkpoint, open_small, noise):
    clip = noise(9_001)
    heard = SeamlessM4TFeatureExtractor.from_pretrained(checkpoint(kind))(
        clip.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt"
    )
    stock = AutoModel.from_pretrained(checkpoint(kind)).eval()
    speech = stock.speech_encoder if kind == "seamless" else stock
    with torch.no_grad():
        said = speech(**heard, output_hidden_states=True)
    features = alone(open_small(kind), clip)
    wanted = torch.stack(said.hidden_states[:LAYERS], 1)[:, :, : features.lengths[0]]
    torch.testing.assert_close(features.hidden[:, :LAYERS], wanted, rtol=1e-3, atol=1e-3)
    if kind == "seamless":  # its last layer is only to be had adapted
        adapted = alone(open_small(kind, seamless_states="adaptor"), clip)
        torch.testing.assert_close(adapted.hidden[:, 0], said.last_hidden_state, rtol=1e-3, atol=1e-3)
        assert adapted.grid.rate == 6.25
    else:
        torch.testing.assert_close(
            features.hidden[:, -1], said.last_hidden_state[:, : features.lengths[0]], rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("kind", ["whisper", "whisper large-v3"])
def test_whisper_says_what_transformers_says(kind, checkpoint, open_small, noise):
    clip = noise(9_001)
    mel = WhisperFeatureExtractor.from_pretrained(checkpoint(kind))(
        clip.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt"
    )
    stock = WhisperForConditionalGeneration.from_pretrained(checkpoint(kind)).eval().get_encoder()
    with torch.no_grad():
        states = stock(mel.input_features, output_hidden_states=True).hidden_states
    wanted = torch.stack(states, 1)[:, :, :29]  # frames centred at 0, 320, ..., 8960
    torch.testing.assert_close(alone(open_small(kind), clip).hidden, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_depth_limited_run_is_the_full_runs_first_layers_and_has_no_others(kind, open_small, noise):
    full = alone(open_small(kind), noise(9_000)).hidden
    for depth in (1, LAYERS - 1, LAYERS):
        short = open_small(kind, depth=depth)
        assert (short.layers, len(layers_of(short))) == (depth + 1, depth)
        torch.testing.assert_close(alone(short, noise(9_000)).hidden, full[:, : depth + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["wavlm base", "whisper", "seamless"])
def test_more_layers_than_there_are_is_refused(kind, open_small):
    with pytest.raises(CheckpointError, match=rf"has {LAYERS} transformer layers, teacher\.depth asks for 4"):
        open_small(kind, depth=LAYERS + 1)


def test_a_burst_moves_the_adapted_frame_that_lies_over_it(open_small, noise):
    encoder, clip = open_small("seamless", seamless_states="adaptor"), noise(64_000)
    encoder.model.encoder.layers = torch.nn.ModuleList()  # what spreads a burst over time is left out
    for layer in encoder.adapter.layers:
        torch.nn.init.zeros_(layer.self_attn.linear_out.weight)
    quiet_TD = alone(encoder, clip).hidden[0, 0]
    for frame in (5, 9, 14, 20):
        middle = round(encoder.grid.centres(26)[frame].item() * SAMPLE_RATE)
        loud = clip.clone()
        loud[middle - 200 : middle + 200] *= 20
        moved_T = (alone(encoder, loud).hidden[0, 0] - quiet_TD).norm(dim=1)
        assert moved_T.argmax() == frame


def test_the_adaptor_comes_after_every_layer(open_small):
    with pytest.raises(ValueError, match=r"the adaptor comes after the last layer; leave teacher\.depth out"):
        open_small("seamless", seamless_states="adaptor", depth=1)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_weights_give_float32_features_near_those_of_float32(kind, open_small, noise):
    exact, rounded = open_small(kind), open_small(kind, dtype=torch.bfloat16)
    assert {weight.dtype for weight in rounded.parameters()} == {torch.bfloat16}
    wanted, features = alone(exact, noise(9_000)).hidden, alone(rounded, noise(9_000)).hidden
    assert features.dtype == torch.float32
    assert (features - wanted).norm() / wanted.norm() < 0.1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("wavlm")])
def test_attention_is_pytorchs_own_and_the_same_as_eager(kind, open_small, noise):
    encoder = open_small(kind)
    assert encoder.model.config._attn_implementation == "sdpa"
    audio_BN, lengths_B = pad_sequence([noise(9_000), noise(5_000)], batch_first=True), torch.tensor([9_000, 5_000])
    fused = encoder(audio_BN, lengths_B).hidden
    if kind == "seamless":  # transformers' eager attention lets its padding through
        audio_BN, lengths_B, fused = audio_BN[:1], lengths_B[:1], fused[:1]
    encoder.model.set_attn_implementation("eager")
    torch.testing.assert_close(encoder(audio_BN, lengths_B).hidden, fused, rtol=1e-4, atol=1e-4)


def test_the_filter_bank_is_that_of_the_feature_extractor(noise):
    clips = [
        noise(9_001),
        noise(4_321) * torch.linspace(0, 3, 4_321),
        1e-4 * noise(7_280),
        torch.zeros(3_000),
        noise(560),
    ]
    audio_BN = pad_sequence(clips, batch_first=True, padding_value=7.0)
    found = stacked_fbank(audio_BN, torch.tensor([len(clip) for clip in clips]))
    for clip, found_TM in zip(clips, found, strict=True):
        wanted = SeamlessM4TFeatureExtractor()(clip.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        wanted_TM = wanted.input_features[0][wanted.attention_mask[0].bool()]
        torch.testing.assert_close(found_TM[: len(wanted_TM)], wanted_TM, rtol=0, atol=1e-4)
        assert not found_TM[int(windows(torch.tensor(len(clip)))) // 2 + 1 :].any()


def test_the_fast_window_is_whisper_with_less_silence_behind_the_clip(checkpoint, open_small, noise):
    clip, total = noise(9_001), 29 + SILENCE  # frames
    stock = WhisperForConditionalGeneration.from_pretrained(checkpoint("whisper")).eval().get_encoder()
    stock.embed_positions = torch.nn.Embedding.from_pretrained(stock.embed_positions.weight[:total])
    stock.config.max_source_positions = total
    extractor = WhisperFeatureExtractor.from_pretrained(checkpoint("whisper"))
    padded = torch.nn.functional.pad(clip, (0, total * 320 - len(clip)))
    mel = extractor(padded.numpy(), sampling_rate=SAMPLE_RATE, padding=False, return_tensors="pt").input_features
    with torch.no_grad():
        states = stock(mel, output_hidden_states=True).hidden_states
    found = alone(open_small("whisper", whisper_window="fast"), clip).hidden
    torch.testing.assert_close(found, torch.stack(states, 1)[:, :, :29], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("window", ["full", "fast"])
def test_a_clip_longer_than_the_window_is_heard_in_parts(window, open_small, noise):
    encoder, clip = open_small("whisper", whisper_window=window), noise(100_000)  # 313 frames; a window has 100
    whole = alone(encoder, clip)
    assert whole.lengths.tolist() == [313]
    audio_BN = pad_sequence([noise(9_000), clip, noise(32_001)], batch_first=True)
    batch = encoder(audio_BN, torch.tensor([9_000, 100_000, 32_001]))
    torch.testing.assert_close(batch.hidden[1], whole.hidden[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(batch.hidden[0, :, :29], alone(encoder, noise(9_000)).hidden[0], rtol=1e-4, atol=1e-4)
    first = alone(encoder, clip[:32_000]).hidden[0]
    torch.testing.assert_close(whole.hidden[0, :, :70], first[:, :70], rtol=1e-3, atol=1e-3)
    last = alone(encoder, clip[213 * 320 :]).hidden[0]
    torch.testing.assert_close(whole.hidden[0, :, 270:], last[:, 57:], rtol=1e-3, atol=1e-3)


def test_a_teacher_of_one_family_twice_keeps_its_fusion_in_float32(checkpoint, noise):
    folders = {"wavlm": checkpoint("wavlm base"), "big": checkpoint("wavlm large")}
    settings = Teacher(["wavlm", "big"], {"big": "wavlm"}, folders, depth={"big": 1}, combine="concat")
    teacher = build_teacher(settings, 0, torch.bfloat16)
    assert [(name, encoder.layers) for name, encoder in teacher.upstreams.items()] == [("wavlm", 4), ("big", 2)]
    assert {weight.dtype for weight in teacher.upstreams.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in teacher.fusion.parameters()} == {torch.float32}
    assert alone(teacher, noise(9_000)).hidden.dtype == torch.float32


FRAMES = {400: 1, 401: 1, 16_000: 49, 16_001: 49, 480_000: 1_499}


@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_wavlm_and_whisper_agree_on_the_frames_of_any_clip(combine, open_small, noise):
    upstreams = {"wavlm": Frozen(open_small("wavlm base")), "whisper": Frozen(open_small("whisper"))}
    teacher = FusedTeacher(upstreams, combine, 0, "hconv", 0).eval()
    for samples, frames in FRAMES.items():
        fused = alone(teacher, noise(samples))
        assert fused.hidden.shape == (1, LAYERS + 1, frames, 32)
        assert fused.lengths.tolist() == [frames] == teacher.frames(torch.tensor([samples])).tolist()
    for samples in (1, 399):
        with pytest.raises(ValueError, match=rf"has {samples} samples .* leave out clips below 400 samples"):
            teacher(noise(samples)[None], torch.tensor([samples]))


@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_any_families_meet_in_one_fusion(combine, open_small, noise):
    upstreams = {
        "wavlm": Frozen(open_small("wavlm large")),
        "shallow": Frozen(open_small("wavlm base", depth=1)),
        "whisper": Frozen(open_small("whisper large-v3", depth=2)),
        "seamless": Frozen(open_small("seamless", seamless_states="adaptor")),
        "w2v-bert": Frozen(open_small("w2v-bert")),
    }
    teacher = FusedTeacher(upstreams, combine, 24, "hconv", 0).eval()
    fused = alone(teacher, noise(16_000))
    assert fused.hidden.shape == (1, LAYERS + 1, 49, 24) and fused.hidden.isfinite().all()


def test_a_filter_bank_that_is_not_kaldis_is_refused(tmp_path, checkpoint):
    shutil.copytree(checkpoint("w2v-bert"), tmp_path / "odd")
    SeamlessM4TFeatureExtractor(stride=1).save_pretrained(tmp_path / "odd")
    with pytest.raises(CheckpointError, match=r"stride=1, the log-mel here has 2"):
        build_upstream("w2v-bert", "", str(tmp_path / "odd"))
