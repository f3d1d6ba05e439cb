"""Log-mel spectra in torch: Whisper's input, and LogMel, the encoder that has learned nothing.

Mel channels (M) stand where hidden channels do in the shape legend.
"""

from functools import cache

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from distill.features import SAMPLE_RATE, Encoder, Features, Grid, demand_frames, zero_padding

WINDOW = 400  # samples under one Hann window, 25 ms
HOP = 160  # samples between windows, 10 ms
FLOOR = 1e-10  # power below which silence is silence


@cache
def mel_filters(channels: int, device: torch.device) -> Tensor:
    """Slaney mel filters from 0 to 8 kHz: (M, WINDOW // 2 + 1), float32."""
    filters_FM = mel_filter_bank(
        num_frequency_bins=WINDOW // 2 + 1,
        num_mel_filters=channels,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters_FM.T).float().contiguous().to(device)


def log_power(audio_BN: Tensor, channels: int, *, centred: bool) -> Tensor:
    """log10 of the mel power of every window, at least log10(FLOOR): (B, M, T), float32.

    `centred` puts window 0 around sample 0 by reflection; else it starts there and no window leaves the
    audio.
    """
    hann = torch.hann_window(WINDOW, device=audio_BN.device)
    spectrum_BFT = torch.stft(audio_BN, WINDOW, HOP, window=hann, center=centred, return_complex=True)
    power_BFT = spectrum_BFT.abs().square()
    return (mel_filters(channels, audio_BN.device) @ power_BFT).clamp(min=FLOOR).log10()


def log_mel(audio_BN: Tensor, channels: int) -> Tensor:
    """What WhisperFeatureExtractor gives for audio already padded to its window: (B, M, N // HOP).

    The range is cut 8 decades below the loudest value of each clip's own window.
    """
    log_BMT = log_power(audio_BN, channels, centred=True)[..., :-1]
    loudest_B11 = log_BMT.amax(dim=(1, 2), keepdim=True)
    return (torch.maximum(log_BMT, loudest_B11 - 8.0) + 4.0) / 4.0


class LogMel(Encoder):
    """The baseline row: two log-mel windows of 80 channels side by side in each 20 ms frame.

    No window reaches outside its clip and nothing is scaled by the clip's maximum, so padding means nothing.
    """

    CHANNELS = 80
    STACK = 2  # windows in a frame
    SPAN = WINDOW + (STACK - 1) * HOP  # samples a frame sees, from its start at STACK * HOP * t

    def __init__(self):
        super().__init__()
        self.grid = Grid(SAMPLE_RATE / (self.STACK * HOP), self.SPAN / 2 / SAMPLE_RATE)
        self.layers = 1
        self.width = self.STACK * self.CHANNELS

    def frames(self, samples_B: Tensor) -> Tensor:
        """Frames that lie wholly inside clips of so many samples: (B,) -> (B,)."""
        hop = self.STACK * HOP
        return ((samples_B - self.SPAN).div(hop, rounding_mode="floor") + 1).clamp(min=0)

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        """Scaled as Whisper scales, (log10 + 4) / 4: hidden (B, 1, T, 160)."""
        frames_B = demand_frames(self, lengths_B)
        log_BMT = (log_power(audio_BN, self.CHANNELS, centred=False) + 4.0) / 4.0
        frames = log_BMT.shape[2] // self.STACK
        hidden_BTD = log_BMT[..., : frames * self.STACK].transpose(1, 2).reshape(len(audio_BN), frames, self.width)
        return Features(zero_padding(hidden_BTD[:, None], frames_B), frames_B, self.grid)
