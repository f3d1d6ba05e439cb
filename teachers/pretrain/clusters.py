"""Cluster targets for self-supervised pretraining: what is said, who says it and how, from clean speech.

Masked prediction of k-means clusters is HuBERT's objective (arXiv 2106.07447); clusters of the clean speech under
a noisy input is WavLM's (arXiv 2110.13900). Three codebooks keep three kinds of knowledge in the encoder.
"""

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from distill.encoders.logmel import log_mel
from distill.features import SAMPLE_RATE

HOP = 320  # samples per frame
CODEBOOKS = {"phonetic": 96, "voice": 64, "prosody": 64}  # name -> clusters


def mel_frames(audio_N: Tensor, frames: int) -> Tensor:
    """Log-mel at 50 frames per second: (N,) -> (frames, 80)."""
    mel = log_mel(audio_N[None], 80)[0].T  # (100 per second, 80)
    return mel[1 : 2 * frames + 1 : 2]  # 10 ms in, near the first centre of a wav2vec2-style front end


def smooth(values_TD: Tensor, width: int) -> Tensor:
    """Moving average over `width` frames, shorter at the ends."""
    kernel = torch.ones(1, 1, width)
    padded = torch.nn.functional.conv1d(values_TD.T[:, None], kernel, padding=width // 2)
    count = torch.nn.functional.conv1d(torch.ones(1, 1, len(values_TD)), kernel, padding=width // 2)
    return (padded / count)[:, 0, : len(values_TD)].T


def phonetic(mel_TD: Tensor) -> Tensor:
    """Cepstra without the speaker's mean, and their slopes: (T, 80) -> (T, 26)."""
    index = torch.arange(80) + 0.5
    cosines = torch.cos(torch.pi / 80 * torch.arange(13)[:, None] * index)  # DCT-II
    cepstra = smooth(mel_TD, 3) @ cosines.T
    cepstra = (cepstra - cepstra.mean(0)) / cepstra.std(0).clamp(min=1e-3)
    slope = torch.gradient(cepstra, dim=0)[0] if len(cepstra) > 1 else torch.zeros_like(cepstra)
    return torch.cat([cepstra, slope], 1)


def pitch(audio_N: Tensor, frames: int) -> Tensor:
    """Log2 of the fundamental in octaves above 60 Hz, 0 where unvoiced, by autocorrelation: (frames,)."""
    size = 1024  # samples of a window
    padded = torch.nn.functional.pad(audio_N, (size // 2, size + HOP * frames))
    windows = padded.unfold(0, size, HOP)[:frames] * torch.hann_window(size)
    power = torch.fft.rfft(windows, 2 * size).abs() ** 2
    correlation = torch.fft.irfft(power, 2 * size)[:, :size]
    shortest, longest = SAMPLE_RATE // 400, SAMPLE_RATE // 60
    peaks = correlation[:, shortest:longest] / correlation[:, :1].clamp(min=1e-6)
    strength, lag = peaks.max(1)
    octaves = torch.log2(SAMPLE_RATE / (lag + shortest) / 60)
    return torch.where(strength > 0.4, octaves, torch.zeros_like(octaves))


def prosody(audio_N: Tensor, mel_TD: Tensor) -> Tensor:
    """Pitch level, pitch movement, energy movement and tempo over a third of a second: (T, 5)."""
    octaves = pitch(audio_N, len(mel_TD))[:, None]
    voiced = (octaves > 0).float()
    level = smooth(octaves, 17) / smooth(voiced, 17).clamp(min=0.1)
    spread = (smooth(octaves**2, 17) / smooth(voiced, 17).clamp(min=0.1) - level**2).clamp(min=0).sqrt()
    energy = mel_TD.mean(1, keepdim=True)
    flux = (mel_TD[1:] - mel_TD[:-1]).abs().mean(1, keepdim=True)
    flux = torch.cat([flux, flux[-1:]])
    return torch.cat([2 * level, 4 * spread, 2 * smooth(energy, 17), 20 * smooth(flux, 51), smooth(voiced, 17)], 1)


def even(audio: np.ndarray) -> Tensor:
    """The clip at one level: (N,)."""
    return torch.from_numpy(audio / max(float(np.sqrt(np.mean(audio**2))), 1e-4) * 0.1).float()


def clean_mel(audio: np.ndarray, frames: int) -> Tensor:
    """Log-mel of a clip at one level: (frames, 80)."""
    return mel_frames(torch.nn.functional.pad(even(audio), (0, 4 * HOP)), frames)


def describe(audio: np.ndarray, frames: int) -> dict[str, Tensor]:
    """What each codebook clusters, for one clean clip: name -> (frames, features)."""
    audio_N, mel_TD = even(audio), clean_mel(audio, frames)
    loud = (mel_TD.mean(1) > mel_TD.mean(1).quantile(0.4)).float()[:, None]
    voice = smooth(mel_TD * loud, 101) / smooth(loud, 101).clamp(min=0.02)
    return {
        "phonetic": phonetic(mel_TD),
        "voice": 4 * voice,
        "prosody": prosody(audio_N, mel_TD),
        "mel": mel_TD,
    }


def clusters(clips: list[np.ndarray], frames: list[int], seed: int) -> dict[str, list[np.ndarray]]:
    """Cluster numbers of every frame of every clip: codebook -> one (T,) array per clip; "mel" -> (T, 80)."""
    described = [describe(clip, count) for clip, count in zip(clips, frames, strict=True)]
    result = {"mel": [clip["mel"].numpy() for clip in described]}
    for name, size in CODEBOOKS.items():
        values = [clip[name].numpy() for clip in described]
        sample = np.concatenate(values[:: max(len(values) // 1500, 1)])
        spread = np.maximum(sample.std(0), 1e-3) if name == "prosody" else 1.0  # pitch may never be there
        # pyright takes n_init for a str, as scikit-learn has no types and "auto" for its default
        model = MiniBatchKMeans(
            size,
            batch_size=4096,
            max_iter=30,
            n_init=1,  # pyright: ignore[reportArgumentType]
            random_state=seed,
        )
        model.fit(sample / spread)
        labels = model.predict(np.concatenate(values) / spread)
        result[name] = np.split(labels, np.cumsum(frames)[:-1])
    return result
