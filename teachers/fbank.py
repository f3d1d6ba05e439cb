"""Kaldi's log-mel filter bank in torch, what SeamlessM4T and w2v-BERT hear.

Mel channels (M) stand where hidden channels do in the shape legend.
"""

from functools import cache

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from distill.features import SAMPLE_RATE, frame_mask

WINDOW = 400  # samples under one window, 25 ms
HOP = 160  # samples between windows, 10 ms
FFT = 512  # samples of a transform; a window is followed by zeros
CHANNELS = 80
STACK = 2  # windows side by side in a frame
SPAN = WINDOW + (STACK - 1) * HOP  # samples a frame sees
FLOOR = 2.0**-23  # least energy in a channel
SCALE = 2.0**15  # Kaldi counts amplitudes in 16 bits


@cache
def mel_filters(device: torch.device) -> Tensor:
    """Kaldi's mel filters from 20 Hz to 8 kHz: (FFT // 2 + 1, M), float64."""
    filters_FM = mel_filter_bank(
        num_frequency_bins=FFT // 2 + 1,
        num_mel_filters=CHANNELS,
        min_frequency=20,
        max_frequency=SAMPLE_RATE // 2,
        sampling_rate=SAMPLE_RATE,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return torch.from_numpy(filters_FM).double().to(device)


def windows(samples_B: Tensor) -> Tensor:
    """Windows that lie wholly inside clips of so many samples: (B,) -> (B,)."""
    return ((samples_B - WINDOW).div(HOP, rounding_mode="floor") + 1).clamp(min=0)


def frames(samples_B: Tensor) -> Tensor:
    """Frames of STACK windows in clips of so many samples: (B,) -> (B,)."""
    return windows(samples_B) // STACK


def log_energies(audio_BN: Tensor) -> Tensor:
    """Log energy of every window in every mel channel: (B, T, M), float64.

    In float64: in float32 the loudest frequency's rounding errors are heard in the quietest channel.
    """
    window_BTN = audio_BN.double().unfold(1, WINDOW, HOP) * SCALE
    window_BTN = window_BTN - window_BTN.mean(2, keepdim=True)
    before_BTN = torch.cat([window_BTN[..., :1], window_BTN[..., :-1]], 2)
    povey_N = torch.hann_window(WINDOW, periodic=False, dtype=torch.float64, device=audio_BN.device) ** 0.85
    spectrum_BTF = torch.fft.rfft((window_BTN - 0.97 * before_BTN) * povey_N, FFT)
    return (spectrum_BTF.abs().square() @ mel_filters(audio_BN.device)).clamp(min=FLOOR).log()


def stacked_fbank(audio_BN: Tensor, lengths_B: Tensor) -> Tensor:
    """What SeamlessM4TFeatureExtractor gives for each clip: (B, T, STACK * M) float32, zeros after it.

    Every channel has mean 0 and variance 1 over the windows of its own clip, each of SPAN samples or more.
    """
    energies_BTM = log_energies(audio_BN.masked_fill(~frame_mask(lengths_B, audio_BN.shape[1]), 0.0))
    count_B11 = windows(lengths_B)[:, None, None]
    padding_BT1 = ~frame_mask(windows(lengths_B), energies_BTM.shape[1])[..., None]
    mean_B1M = energies_BTM.masked_fill(padding_BT1, 0.0).sum(1, keepdim=True) / count_B11
    centred_BTM = (energies_BTM - mean_B1M).masked_fill(padding_BT1, 0.0)
    variance_B1M = centred_BTM.square().sum(1, keepdim=True) / (count_B11 - 1)
    scaled_BTM = centred_BTM / (variance_B1M + 1e-7).sqrt()
    whole = energies_BTM.shape[1] // STACK
    return scaled_BTM[:, : whole * STACK].reshape(len(audio_BN), whole, -1).float()
