"""What makes a student's task harder than its teacher's: a room, noise over what it hears, frames it does not hear.

All are drawn from torch's generator, which the loop seeds for every pass.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from distill.features import SAMPLE_RATE, frame_mask

LOWEST = 50.0  # Hz; below, noise is not coloured any more
FAINTEST, LOUDEST = 0.3, 1.0  # of a room's tail, root of its energy against that of the direct sound


@dataclass(frozen=True)
class Room:
    """Reverberation over a share of the clips: a tail of decaying noise behind direct sound, which stays in place."""

    share: float  # of the clips
    low: float  # seconds until the tail is 60 dB down
    high: float

    def over(self, audio_BN: Tensor, lengths_B: Tensor) -> Tensor:
        """The batch in rooms of its clips' own, each as loud as before: (B, N), zeros after each clip."""
        if not self.share:
            return audio_BN
        mask_BN, device = frame_mask(lengths_B, audio_BN.shape[1]), audio_BN.device
        inside_B = torch.rand(len(audio_BN), device=device) < self.share
        decay_B = self.low + (self.high - self.low) * torch.rand(len(audio_BN), device=device)
        heard_BN = convolved(audio_BN, responses(decay_B, int(self.high * SAMPLE_RATE))).masked_fill(~mask_BN, 0.0)
        before_B, after_B = (part.square().sum(1) for part in (audio_BN, heard_BN))
        heard_BN = heard_BN * (before_B / after_B.clamp(min=1e-9)).sqrt()[:, None]
        return torch.where(inside_B[:, None], heard_BN, audio_BN)


def responses(decay_B: Tensor, samples: int) -> Tensor:
    """Impulse responses of rooms: 1 for the direct sound, then noise that falls by 60 dB in so many seconds: (B, N)."""
    seconds_N = torch.arange(samples, device=decay_B.device) / SAMPLE_RATE
    tail_BN = torch.randn(len(decay_B), samples, device=decay_B.device) * 10 ** (-3 * seconds_N / decay_B[:, None])
    tail_BN[:, 0] = 0.0
    level_B1 = FAINTEST + (LOUDEST - FAINTEST) * torch.rand(len(decay_B), 1, device=decay_B.device)
    response_BN = level_B1 * tail_BN / tail_BN.norm(dim=1, keepdim=True)
    response_BN[:, 0] = 1.0
    return response_BN


def convolved(audio_BN: Tensor, response_BN: Tensor) -> Tensor:
    """Each clip through its own response, without what comes after the clip: (B, N)."""
    samples = audio_BN.shape[1]
    size = fast_size(samples + response_BN.shape[1] - 1)
    spectrum_BF = torch.fft.rfft(audio_BN, size) * torch.fft.rfft(response_BN, size)
    return torch.fft.irfft(spectrum_BF, size)[:, :samples]


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
    size = fast_size(samples)
    hertz_F = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE, device=audio_BN.device).clamp(min=LOWEST)
    slope_B1 = torch.rand(clips, 1, device=audio_BN.device)
    spectrum_BF = torch.fft.rfft(torch.randn(clips, size, device=audio_BN.device)) * hertz_F**-slope_B1
    return torch.fft.irfft(spectrum_BF, size)[:, :samples]


def fast_size(samples: int) -> int:
    """The next size that is fast to transform."""
    return 1 << (samples - 1).bit_length()


@dataclass(frozen=True)
class Surroundings:
    """What lies between a speaker and the student: first a room, then noise."""

    room: Room
    noise: Noise

    def over(self, audio_BN: Tensor, lengths_B: Tensor) -> Tensor:
        """The batch as the student hears it: (B, N), zeros after each clip."""
        return self.noise.over(self.room.over(audio_BN, lengths_B), lengths_B)


QUIET = Surroundings(Room(0.0, 0.0, 0.0), Noise(0.0, 0.0, 0.0))


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
