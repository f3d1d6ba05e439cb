"""What makes a student's task harder than its teacher's: noise over what it hears, frames that it does not hear.

Both are drawn from torch's generator, which the loop seeds for every pass.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from distill.features import SAMPLE_RATE, frame_mask

LOWEST = 50.0  # Hz; below, noise is not coloured any more


@dataclass(frozen=True)
class Noise:
    """Over a share of the clips, coloured noise or another clip of the batch, as often the one as the other."""

    share: float  # of the clips
    low: float  # dB signal-to-noise ratio
    high: float

    def over(self, audio_BN: Tensor, lengths_B: Tensor) -> Tensor:
        """The batch as the student hears it: (B, N), zeros after each clip."""
        if not self.share:
            return audio_BN
        mask_BN = frame_mask(lengths_B, audio_BN.shape[1])
        clips, device = len(audio_BN), audio_BN.device
        noisy_B, speech_B = torch.rand(clips, device=device) < self.share, torch.rand(clips, device=device) < 0.5
        decibels_B = self.low + (self.high - self.low) * torch.rand(clips, device=device)
        other_BN = torch.where(speech_B[:, None] & (clips > 1), audio_BN.roll(1, 0), coloured(audio_BN))
        other_BN = other_BN.masked_fill(~mask_BN, 0.0)
        power_B, other_B = (part.square().sum(1) for part in (audio_BN.masked_fill(~mask_BN, 0.0), other_BN))
        gain_B = (power_B / other_B.clamp(min=1e-9)).sqrt() * 10 ** (-decibels_B / 20)
        return audio_BN + (gain_B * noisy_B)[:, None] * other_BN


def coloured(audio_BN: Tensor) -> Tensor:
    """Noise of the same shape, every clip's between white and brown."""
    clips, samples = audio_BN.shape
    size = 1 << (samples - 1).bit_length()  # fast to transform
    hertz_F = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE, device=audio_BN.device).clamp(min=LOWEST)
    slope_B1 = torch.rand(clips, 1, device=audio_BN.device)
    spectrum_BF = torch.fft.rfft(torch.randn(clips, size, device=audio_BN.device)) * hertz_F**-slope_B1
    return torch.fft.irfft(spectrum_BF, size)[:, :samples]


QUIET = Noise(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Masking:
    """Spans of frames whose front end's output the student gets replaced by one learned vector (arXiv 2006.11477)."""

    share: float  # of all frames, on the average
    span: int  # frames

    def draw(self, lengths_B: Tensor, frames: int) -> Tensor:
        """True on masked frames, none past a clip's own: (B, T). Spans may overlap and may begin before a clip."""
        begins = 1 - (1 - self.share) ** (1 / self.span)
        drawn_BT = torch.rand(len(lengths_B), frames + self.span - 1, device=lengths_B.device) < begins
        covered_BT = max_pool1d(drawn_BT.float()[:, None], self.span, 1)[:, 0] > 0
        return covered_BT & frame_mask(lengths_B, frames)
