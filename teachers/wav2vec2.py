"""Upstreams with the wav2vec 2.0 anatomy: convolutions over raw audio, then a transformer."""

from collections.abc import Callable

from transformers import (
    Data2VecAudioModel,
    HubertModel,
    UniSpeechSatModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMModel,
)

from distill.encoders.family import Family, Options
from distill.encoders.waveform import StockModel, Waveform
from teachers.checkpoint import keep_layers, open_checkpoint


def loader(model_class: type[StockModel]) -> Callable[[str, Options], Waveform]:
    """Opens checkpoints of a stock model, their input normalised as their feature extractor says."""

    def load(checkpoint: str, options: Options) -> Waveform:
        model, extractor = open_checkpoint(checkpoint, model_class, Wav2Vec2FeatureExtractor, options.dtype)
        model.encoder.layers = keep_layers(checkpoint, model.encoder.layers, options.depth)
        model.config.num_hidden_layers = len(model.encoder.layers)
        return Waveform(model, normalize=extractor.do_normalize)

    return load


FAMILIES = {
    # masked prediction of clusters from noisy and overlapped speech (arXiv 2110.13900)
    "wavlm": Family(
        loader(WavLMModel),
        {
            "mini": "teachers/mini/wavlm",
            "base": "microsoft/wavlm-base-plus",
            "large": "microsoft/wavlm-large",
            "base-960h": "microsoft/wavlm-base",
        },
    ),
    # masked prediction of clusters (arXiv 2106.07447)
    "hubert": Family(
        loader(HubertModel),
        {
            "mini": "teachers/mini/hubert",
            "base": "facebook/hubert-base-ls960",
            "large": "facebook/hubert-large-ll60k",
            "xlarge": "facebook/hubert-xlarge-ll60k",
        },
    ),
    # contrast among quantised frames (arXiv 2006.11477); in 128 and 1400 languages (arXiv 2111.09296, 2305.13516)
    "wav2vec2": Family(
        loader(Wav2Vec2Model),
        {
            "base": "facebook/wav2vec2-base",
            "large": "facebook/wav2vec2-large-lv60",
            "xlsr-53": "facebook/wav2vec2-large-xlsr-53",
            "xls-r-300m": "facebook/wav2vec2-xls-r-300m",
            "xls-r-1b": "facebook/wav2vec2-xls-r-1b",
            "xls-r-2b": "facebook/wav2vec2-xls-r-2b",
            "mms-300m": "facebook/mms-300m",
            "mms-1b": "facebook/mms-1b",
        },
    ),
    # prediction of a slow copy's layers (arXiv 2202.03555)
    "data2vec": Family(
        loader(Data2VecAudioModel),
        {"base": "facebook/data2vec-audio-base", "large": "facebook/data2vec-audio-large"},
    ),
    # HuBERT with contrast among utterances and speakers (arXiv 2110.05752)
    "unispeech-sat": Family(
        loader(UniSpeechSatModel),
        {
            "base": "microsoft/unispeech-sat-base-plus",
            "large": "microsoft/unispeech-sat-large",
            "base-960h": "microsoft/unispeech-sat-base",
        },
    ),
}
