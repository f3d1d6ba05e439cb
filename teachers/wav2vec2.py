"""Upstreams with the wav2vec 2.0 anatomy: convolutions over raw audio, then a transformer."""

from pathlib import Path

from transformers import HubertModel, Wav2Vec2FeatureExtractor, WavLMModel

from distill.waveform import StockModel, Waveform
from teachers.checkpoint import open_checkpoint

MODELS: dict[str, type[StockModel]] = {"wavlm": WavLMModel, "hubert": HubertModel}
MINI = Path(__file__).parent / "mini"
SIZES = {
    "wavlm": {
        "mini": str(MINI / "wavlm"),
        "base": "microsoft/wavlm-base-plus",
        "large": "microsoft/wavlm-large",
    },
    "hubert": {
        "mini": str(MINI / "hubert"),
        "base": "facebook/hubert-base-ls960",
        "large": "facebook/hubert-large-ll60k",
    },
}


def load(family: str, checkpoint: str) -> Waveform:
    """A family of MODELS from a folder or the Hub, its input normalised as its feature extractor says."""
    model, extractor = open_checkpoint(checkpoint, MODELS[family], Wav2Vec2FeatureExtractor)
    return Waveform(model, normalize=extractor.do_normalize)


def load_wavlm(checkpoint: str) -> Waveform:
    """WavLM: masked prediction of clusters from noisy and overlapped speech (arXiv 2110.13900)."""
    return load("wavlm", checkpoint)


def load_hubert(checkpoint: str) -> Waveform:
    """HuBERT: masked prediction of clusters (arXiv 2106.07447)."""
    return load("hubert", checkpoint)
