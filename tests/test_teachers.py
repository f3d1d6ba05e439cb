"""Upstreams against plain transformers, and what a checkpoint that cannot be opened says."""

import copy
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor, WhisperForConditionalGeneration

from distill.encoders.frozen import Frozen
from distill.encoders.waveform import Waveform, front_end_grid, standardise_clips
from distill.features import SAMPLE_RATE, Grid
from teachers import FAMILIES, build_upstream
from teachers.checkpoint import CheckpointError
from teachers.whisper import WhisperEncoder

KINDS = [
    ("wavlm", "group", False),
    ("wavlm", "layer", True),
    ("hubert", "group", False),
    ("hubert", "layer", True),
]


@pytest.fixture
def wavlm_folder(tmp_path, build_model) -> Path:
    """A float16 WavLM as save_pretrained writes it, in the way of the mini checkpoints."""
    build_model("wavlm", norm="group").half().save_pretrained(tmp_path / "wavlm")
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(tmp_path / "wavlm")
    return tmp_path / "wavlm"


@pytest.fixture
def whisper_folder(tmp_path, build_whisper) -> Path:
    """A float16 Whisper with its decoder and head, as published, and a window of two seconds."""
    WhisperForConditionalGeneration(build_whisper().config).half().save_pretrained(tmp_path / "whisper")
    WhisperFeatureExtractor(feature_size=80, chunk_length=2).save_pretrained(tmp_path / "whisper")
    return tmp_path / "whisper"


@pytest.mark.parametrize(("family", "norm", "stable"), KINDS)
@pytest.mark.parametrize("normalize", [True, False])
def test_a_clip_alone_is_what_transformers_says(family, norm, stable, normalize, build_model, noise):
    stock, clip = build_model(family, norm=norm, stable=stable), noise(12_345) + 0.02
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize)
    values = extractor(clip.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
    features = Waveform(copy.deepcopy(stock), normalize=normalize)(clip[None], torch.tensor([12_345]))
    with torch.no_grad():
        wanted_BLTD = torch.stack(stock(values, output_hidden_states=True).hidden_states, dim=1)
    torch.testing.assert_close(features.hidden, wanted_BLTD, rtol=1e-4, atol=1e-4)


def test_input_is_normalised_as_the_feature_extractor_does(noise):
    clips = [3.0 * noise(9_000) + 0.5, noise(4_321), torch.full((7_000,), 0.25)]
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    wanted = extractor([c.numpy() for c in clips], sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt")
    audio_BN, lengths_B = (
        pad_sequence(clips, batch_first=True, padding_value=9.0),
        torch.tensor([9_000, 4_321, 7_000]),
    )
    torch.testing.assert_close(standardise_clips(audio_BN, lengths_B), wanted.input_values, rtol=0, atol=1e-5)


def test_the_published_front_end_starts_at_200_samples():
    assert front_end_grid([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]) == Grid(50.0, 200 / SAMPLE_RATE)
    assert front_end_grid([20, 6, 3, 2, 2], [10, 4, 2, 2, 2]) == Grid(50.0, 195 / SAMPLE_RATE)


def test_the_wrapped_model_still_saves_as_stock(tmp_path, build_model):
    stock = build_model("hubert", norm="group")
    names = {name: value.clone() for name, value in stock.state_dict().items()}
    Waveform(stock, normalize=True).model.save_pretrained(tmp_path)
    again = type(stock).from_pretrained(tmp_path)
    assert again.state_dict().keys() == names.keys()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in names.items())


def test_whisper_hears_what_transformers_hears(build_whisper, noise):
    stock = build_whisper()
    clips = [noise(30_001), noise(8_000)]
    extractor = WhisperFeatureExtractor(chunk_length=2)
    mel = extractor([clip.numpy() for clip in clips], sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    with torch.no_grad():
        wanted_BLTD = torch.stack(stock.encoder(mel, output_hidden_states=True).hidden_states, dim=1)
        features = WhisperEncoder(stock)(pad_sequence(clips, batch_first=True), torch.tensor([30_001, 8_000]))
    assert features.lengths.tolist() == [94, 25]
    torch.testing.assert_close(features.hidden[0], wanted_BLTD[0, :, :94], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(features.hidden[1, :, :25], wanted_BLTD[1, :, :25], rtol=1e-3, atol=1e-3)


def test_an_encoder_is_in_the_mode_of_its_model(build_model, build_whisper):
    assert not Waveform(build_model("hubert", norm="layer").eval(), normalize=True).training
    assert Waveform(build_model("hubert", norm="layer").train(), normalize=True).training
    assert not WhisperEncoder(build_whisper().eval()).training


def test_a_front_end_that_normalises_batches_is_refused(build_model):
    model = build_model("hubert", norm="layer")
    model.config.conv_pos_batch_norm = True
    with pytest.raises(ValueError, match=r"conv_pos_batch_norm=True is not supported"):
        Waveform(model, normalize=True)


def test_training_with_layerdrop_or_masks_is_refused(build_model, noise):
    model = build_model("hubert", norm="layer")
    model.config.layerdrop = 0.1
    with pytest.raises(ValueError, match=r"layerdrop=0\.1"):
        Waveform(model, normalize=True).train()(noise(9_000)[None], torch.tensor([9_000]))


def test_a_float16_folder_opens_as_a_frozen_float32_upstream(wavlm_folder, whisper_folder, noise):
    for family, folder in (("wavlm", wavlm_folder), ("whisper", whisper_folder)):
        upstream = build_upstream(family, "mini", str(folder))
        assert isinstance(upstream, Frozen)
        assert all(parameter.dtype == torch.float32 for parameter in upstream.parameters())
        assert upstream(noise(9_000)[None], torch.tensor([9_000])).hidden.isfinite().all()


def test_the_checkpoint_says_whether_input_is_normalised(wavlm_folder, noise):
    upstream = build_upstream("wavlm", "base", str(wavlm_folder))
    assert upstream.encoder.normalize is False
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(wavlm_folder)
    assert build_upstream("wavlm", "base", str(wavlm_folder)).encoder.normalize is True


@pytest.mark.parametrize("family", ["wavlm", "hubert", "whisper"])
def test_the_shipped_checkpoint_opens_and_hears_wherever_the_command_runs(family, noise, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    upstream = build_upstream(family, "mini", None)
    assert upstream(noise(9_000)[None], torch.tensor([9_000])).hidden.isfinite().all()


def test_every_family_has_the_sizes_of_the_published_scales():
    assert all({"base", "large"} <= family.sizes.keys() for family in FAMILIES.values())


def test_an_unknown_family_or_size_names_the_known_and_the_nearest():
    with pytest.raises(ValueError, match=r"'wavlmm', known are wavlm, hubert, .*; did you mean wavlm\?"):
        build_upstream("wavlmm", "mini", None)
    with pytest.raises(
        ValueError, match=r"size of hubert 'larg', known are mini, base, large, xlarge; did you mean large\?"
    ):
        build_upstream("hubert", "larg", None)


def test_a_checkpoint_of_another_family_is_refused(wavlm_folder):
    with pytest.raises(CheckpointError, match=r"holds a model of type 'wavlm', wanted 'hubert'"):
        build_upstream("hubert", "mini", str(wavlm_folder))


def test_missing_weights_are_not_made_up(tmp_path, wavlm_folder, build_model):
    short = build_model("wavlm", norm="group", layers=1).state_dict()
    build_model("wavlm", norm="group").save_pretrained(wavlm_folder, state_dict=short)
    with pytest.raises(CheckpointError, match=r"lacks \d+ of the model's weights \(encoder\.layers\.1"):
        build_upstream("wavlm", "mini", str(wavlm_folder))


def test_a_torn_or_empty_folder_is_named(wavlm_folder, tmp_path):
    weights = wavlm_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=rf"cannot open the checkpoint in the folder {wavlm_folder}"):
        build_upstream("wavlm", "mini", str(wavlm_folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"names a model_type\nsuch a folder holds config\.json"):
        build_upstream("wavlm", "mini", str(tmp_path / "empty"))


def test_a_log_mel_that_is_not_whispers_is_refused(whisper_folder):
    WhisperFeatureExtractor(hop_length=200, chunk_length=2).save_pretrained(whisper_folder)
    with pytest.raises(CheckpointError, match=r"hop_length=200, the log-mel here has 160"):
        build_upstream("whisper", "mini", str(whisper_folder))


class Trap:
    """Runs a command when unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_pickle_gives_tensors_and_runs_nothing(wavlm_folder, tmp_path, build_model):
    (wavlm_folder / "model.safetensors").unlink()
    torch.save(build_model("wavlm", norm="group").state_dict(), wavlm_folder / "pytorch_model.bin")
    build_upstream("wavlm", "mini", str(wavlm_folder))
    torch.save({"encoder": Trap(tmp_path / "mark")}, wavlm_folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"cannot open the checkpoint"):
        build_upstream("wavlm", "mini", str(wavlm_folder))
    assert not (tmp_path / "mark").exists()


@pytest.fixture
def no_network(monkeypatch, tmp_path) -> Path:
    """A Hub at a closed port and an empty cache, which it returns."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("offline", [False, True])
def test_no_network_is_said_at_once(no_network, offline, monkeypatch, capfd):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    start = time.monotonic()
    with pytest.raises(CheckpointError) as error:
        build_upstream("wavlm", "base", None)
    assert time.monotonic() - start < 3  # the Hub's client by itself retries for 23 s
    for needed in ("microsoft/wavlm-base-plus", str(no_network), "scale=mini", f"HF_HUB_OFFLINE={offline:d}"):
        assert needed in str(error.value)
    assert len(str(error.value).splitlines()) == 3
    assert capfd.readouterr().err == ""


def test_a_cached_checkpoint_opens_without_a_network(no_network, wavlm_folder):
    cached = no_network / "models--microsoft--wavlm-base-plus"
    shutil.copytree(wavlm_folder, cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    assert build_upstream("wavlm", "base", None).layers == 3


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(CheckpointError, match=r"in the folder \./nowhere: there is no such folder"):
        build_upstream("wavlm", "base", "./nowhere")
