"""The architectures of published checkpoints by their Hub name, so that a run can be planned and rehearsed unloaded."""

from transformers import (
    Data2VecAudioConfig,
    HubertConfig,
    PretrainedConfig,
    SeamlessM4Tv2Config,
    UniSpeechSatConfig,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    WavLMConfig,
    WhisperConfig,
)

# Base sizes are the defaults of their classes.
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
XLARGE = {"hidden_size": 1280, "num_hidden_layers": 48, "num_attention_heads": 16, "intermediate_size": 5120}
XXLARGE = {"hidden_size": 1920, "num_hidden_layers": 48, "num_attention_heads": 16, "intermediate_size": 7680}
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
BIASED = STABLE | {"conv_bias": True}
W2V_LARGE = LARGE | BIASED


def _whisper(width: int, layers: int, mels: int = 80, vocabulary: int = 51865) -> dict:
    """Heads of 64, encoder and decoder alike."""
    sizes = {"d_model": width, "num_mel_bins": mels, "vocab_size": vocabulary}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": layers, f"{part}_attention_heads": width // 64, f"{part}_ffn_dim": 4 * width}
    return sizes


WHISPER = {"tiny": (384, 4), "base": (512, 6), "small": (768, 12), "medium": (1024, 24)}
CONFIGS: dict[str, tuple[type[PretrainedConfig], dict]] = {
    "microsoft/wavlm-base": (WavLMConfig, {}),
    "microsoft/wavlm-base-plus": (WavLMConfig, {}),
    "microsoft/wavlm-large": (WavLMConfig, LARGE | STABLE),
    "facebook/hubert-base-ls960": (HubertConfig, {}),
    "facebook/hubert-large-ll60k": (HubertConfig, LARGE | BIASED),
    "facebook/hubert-xlarge-ll60k": (HubertConfig, XLARGE | BIASED),
    "facebook/wav2vec2-base": (Wav2Vec2Config, {}),
    "facebook/wav2vec2-large-lv60": (Wav2Vec2Config, W2V_LARGE),
    "facebook/wav2vec2-large-xlsr-53": (Wav2Vec2Config, W2V_LARGE),
    "facebook/wav2vec2-xls-r-300m": (Wav2Vec2Config, W2V_LARGE),
    "facebook/wav2vec2-xls-r-1b": (Wav2Vec2Config, XLARGE | BIASED),
    "facebook/wav2vec2-xls-r-2b": (Wav2Vec2Config, XXLARGE | BIASED),
    "facebook/mms-300m": (Wav2Vec2Config, W2V_LARGE),
    "facebook/mms-1b": (Wav2Vec2Config, XLARGE | BIASED),
    "facebook/data2vec-audio-base": (Data2VecAudioConfig, {}),
    "facebook/data2vec-audio-large": (Data2VecAudioConfig, LARGE),
    "microsoft/unispeech-sat-base": (UniSpeechSatConfig, {}),
    "microsoft/unispeech-sat-base-plus": (UniSpeechSatConfig, {}),
    "microsoft/unispeech-sat-large": (UniSpeechSatConfig, LARGE | STABLE),
    "facebook/seamless-m4t-v2-large": (SeamlessM4Tv2Config, {}),
    "facebook/w2v-bert-2.0": (Wav2Vec2BertConfig, {}),
    **{f"openai/whisper-{size}": (WhisperConfig, _whisper(*shape)) for size, shape in WHISPER.items()},
    **{
        f"openai/whisper-{size}.en": (WhisperConfig, _whisper(*shape, vocabulary=51864))
        for size, shape in WHISPER.items()
    },
    "openai/whisper-large-v2": (WhisperConfig, _whisper(1280, 32)),
    "openai/whisper-large-v3": (WhisperConfig, _whisper(1280, 32, 128, 51866)),
    "openai/whisper-large-v3-turbo": (WhisperConfig, _whisper(1280, 32, 128, 51866) | {"decoder_layers": 4}),
}


def published_config(name: str, config_class: type[PretrainedConfig]) -> PretrainedConfig:
    """The config of a published checkpoint; ValueError for a name that is not listed or is of another class."""
    if name not in CONFIGS:
        raise ValueError(
            f"the architecture of {name} is not known here, and a checkpoint whose weights are not wanted is not "
            f"fetched; known are {', '.join(CONFIGS)}; or name a folder with its config.json"
        )
    published, settings = CONFIGS[name]
    if published is not config_class:
        raise ValueError(f"{name} is a {published.model_type}, wanted {config_class.model_type}")
    return published(**settings)
