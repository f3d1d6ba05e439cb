"""A small random checkpoint of every family's true architecture, as published but for its sizes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
    SeamlessM4Tv2Config,
    SeamlessM4Tv2Model,
    UniSpeechSatConfig,
    UniSpeechSatModel,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

LAYERS, WIDTH = 3, 32
SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.2,  # such that attention matters
}


def waveform(config_class: type, model_class: type, **published) -> tuple[PreTrainedModel, Wav2Vec2FeatureExtractor]:
    """A model that hears raw audio through the published front end, thinner, and its feature extractor."""
    thin = {"conv_dim": (16,) * 7, "num_conv_pos_embedding_groups": 4}
    return model_class(config_class(**SIZES, **thin, **published)), Wav2Vec2FeatureExtractor(do_normalize=True)


def w2v_bert() -> tuple[PreTrainedModel, SeamlessM4TFeatureExtractor]:
    """facebook/w2v-bert-2.0 is all defaults, but for a padding value of 1."""
    return Wav2Vec2BertModel(Wav2Vec2BertConfig(**SIZES)), SeamlessM4TFeatureExtractor(padding_value=1)


def seamless() -> tuple[PreTrainedModel, SeamlessM4TFeatureExtractor]:
    """The whole SeamlessM4T v2, as published: its speech encoder is to be found among the rest."""
    parts = [f"{part}{side}" for part in ("", "t2u_") for side in ("encoder", "decoder")]
    rest = {f"{part}_layers": 1 for part in parts} | {f"{part}_ffn_dim": 32 for part in parts}
    rest |= {f"{part}_attention_heads": 4 for part in parts}
    rest |= {f"{name}_dim": 16 for name in ("unit_embed", "lang_embed", "spkr_embed")}
    rest |= {f"variance_predictor_{name}_dim": 32 for name in ("embed", "hidden")}
    rest |= {f"{name}vocab_size": 40 for name in ("", "t2u_", "char_", "unit_hifi_gan_")}
    speech = {"layers": LAYERS, "attention_heads": 4, "intermediate_size": 64}
    speech = {f"speech_encoder_{name}": value for name, value in speech.items()}
    config = SeamlessM4Tv2Config(
        hidden_size=WIDTH, initializer_range=0.2, upsample_initial_channel=32, **speech, **rest
    )
    return SeamlessM4Tv2Model(config), SeamlessM4TFeatureExtractor()


def whisper_config(seconds: int, *, channels: int = 80, layers: int = LAYERS) -> WhisperConfig:
    """A thin Whisper with a window of so many seconds."""
    return WhisperConfig(
        vocab_size=60,
        num_mel_bins=channels,
        d_model=WIDTH,
        encoder_layers=layers,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=50 * seconds,
        max_target_positions=16,
        init_std=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )


def whisper(channels: int, seconds: int) -> tuple[PreTrainedModel, WhisperFeatureExtractor]:
    """A Whisper with its decoder and head."""
    model = WhisperForConditionalGeneration(whisper_config(seconds, channels=channels))
    return model, WhisperFeatureExtractor(channels, chunk_length=seconds)


GROUP = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
KINDS: dict[str, tuple[str, Callable[[], tuple]]] = {  # family, and what makes its model and feature extractor
    "wavlm base": ("wavlm", partial(waveform, WavLMConfig, WavLMModel, **GROUP)),
    "wavlm large": ("wavlm", partial(waveform, WavLMConfig, WavLMModel, **STABLE)),
    "hubert base": ("hubert", partial(waveform, HubertConfig, HubertModel, **GROUP)),
    "hubert large": ("hubert", partial(waveform, HubertConfig, HubertModel, **STABLE, conv_bias=True)),
    "wav2vec2 base": ("wav2vec2", partial(waveform, Wav2Vec2Config, Wav2Vec2Model, **GROUP)),
    "xls-r, mms": ("wav2vec2", partial(waveform, Wav2Vec2Config, Wav2Vec2Model, **STABLE, conv_bias=True)),
    "data2vec": ("data2vec", partial(waveform, Data2VecAudioConfig, Data2VecAudioModel)),
    "unispeech-sat base": ("unispeech-sat", partial(waveform, UniSpeechSatConfig, UniSpeechSatModel, **GROUP)),
    "unispeech-sat large": ("unispeech-sat", partial(waveform, UniSpeechSatConfig, UniSpeechSatModel, **STABLE)),
    "whisper": ("whisper", partial(whisper, 80, 2)),
    "whisper large-v3": ("whisper", partial(whisper, 128, 2)),
    "w2v-bert": ("w2v-bert", w2v_bert),
    "seamless": ("seamless", seamless),
}


def save(kind: str, folder: Path) -> None:
    """A kind of checkpoint as save_pretrained writes it."""
    torch.manual_seed(3)
    model, extractor = KINDS[kind][1]()
    for name, weight in model.named_parameters():
        if "norm" in name:  # they start as ones and zeros, and one norm upon another would go unnoticed
            weight.data += 0.3 * torch.randn_like(weight)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
