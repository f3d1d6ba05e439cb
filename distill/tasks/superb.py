"""The heads of SUPERB and ML-SUPERB as published, for scores that can stand beside theirs.

Sizes and optimisers: arXiv 2105.01051 and 2305.10615 with the toolkits of their authors. In each of them padding
means nothing, which the originals do not all hold to; for clips of one length they are the same.
"""

from dataclasses import dataclass
from math import log, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from distill.features import frame_mask
from distill.tasks.asr import Spelled
from distill.tasks.sv import Voices

CONTEXTS, DILATIONS = (5, 3, 3, 1, 1), (1, 2, 3, 1, 1)  # frames, of the x-vector's layers
LOST = sum((context - 1) * dilation for context, dilation in zip(CONTEXTS, DILATIONS, strict=True))  # frames


@dataclass(frozen=True)
class Training:
    """How a head is trained in its published protocol, at a learning rate that stays; Adam, or AdamW for sv."""

    steps: int
    batch: int  # clips per step, their accumulation counted in
    checks: int  # how often validation is looked at, evenly; what is scored is the best of these states
    weight_decay: float = 0.0
    clip: float = 1.0  # largest norm of the gradient


TRAINING = {
    "asr": Training(200_000, 32, 100),
    "pr": Training(100_000, 32, 100),
    "sid": Training(200_000, 32, 40),
    "sv": Training(200_000, 50, 10, weight_decay=0.01, clip=1000.0),  # SUPERB has no validation and chooses on test
    "er": Training(30_000, 32, 30),
    "ml-mono": Training(15_000, 32, 15, weight_decay=1e-6),  # checks of these two are ours
    "ml-multi": Training(300_000, 32, 100, weight_decay=1e-6),  # of the 10-minute set; 600,000 of the 1-hour set
}


@dataclass(frozen=True)
class Masks:
    """SpecAugment on features: how many spans are set to zero, each of up to so many frames or channels."""

    times: int = 2
    longest: int = 40  # frames
    channels: int = 4
    widest: int = 50  # channels

    def __call__(self, frames_BTD: Tensor) -> Tensor:
        """Spans drawn anew for every clip (arXiv 1904.08779)."""
        kept_BT1 = _spans(len(frames_BTD), frames_BTD.shape[1], self.times, self.longest, frames_BTD.device)[..., None]
        kept_B1D = _spans(len(frames_BTD), frames_BTD.shape[2], self.channels, self.widest, frames_BTD.device)[:, None]
        return frames_BTD * kept_BT1 * kept_B1D


@dataclass(frozen=True)
class Warp:
    """SpecAugment's time warp: what lies before and behind a drawn frame is stretched or squeezed to meet elsewhere."""

    reach: int = 5  # frames by which the drawn one moves, at most

    def __call__(self, frames_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Each clip by itself, as long as before; padding and clips of `2 * reach` frames or fewer stay as they are."""
        clips = zip(frames_BTD, lengths_B.tolist(), strict=True)
        return torch.stack([torch.cat([self._warped(clip[:end]), clip[end:]]) for clip, end in clips])

    def _warped(self, clip_TD: Tensor) -> Tensor:
        frames = len(clip_TD)
        if not self.reach or frames <= 2 * self.reach:
            return clip_TD
        centre = int(torch.randint(self.reach, frames - self.reach, ()))
        moved = centre + int(torch.randint(1 - self.reach, self.reach + 1, ()))
        return torch.cat([stretch(clip_TD[:centre], moved), stretch(clip_TD[centre:], frames - moved)])


def stretch(clip_TD: Tensor, frames: int) -> Tensor:
    """So many frames of what there is, by cubic interpolation over time: (frames, D)."""
    return F.interpolate(clip_TD[None, None], (frames, clip_TD.shape[1]), mode="bicubic")[0, 0]


def _spans(clips: int, size: int, count: int, widest: int, device: torch.device) -> Tensor:
    """False in `count` spans of 0 to `widest` places: (B, size)."""
    width_BC1 = (torch.rand(clips, count, 1, device=device) * (widest + 1)).long()
    start_BC1 = (torch.rand(clips, count, 1, device=device) * (size - width_BC1).clamp(min=1)).long()
    at_S = torch.arange(size, device=device)
    return ~((at_S >= start_BC1) & (at_S < start_BC1 + width_BC1)).any(1)


class Dictation(nn.Module):
    """ASR: SpecAugment in training, Linear to 1024, two BiLSTMs of 1024 with dropout 0.2, Linear to characters."""

    def __init__(self, width: int, outputs: int, hidden: int = 1024):
        super().__init__()
        self.warp, self.masks = Warp(), Masks()
        self.enter = nn.Linear(width, hidden)
        self.first = nn.LSTM(hidden, hidden, batch_first=True, bidirectional=True)
        self.second = nn.LSTM(2 * hidden, hidden, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(0.2)
        self.leave = nn.Linear(2 * hidden, outputs)

    def forward(self, frames_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        if self.training:
            frames_BTD = self.masks(self.warp(frames_BTD, lengths_B))
        hidden_BTH = self.enter(frames_BTD)
        for layer in (self.first, self.second):
            packed = pack_padded_sequence(hidden_BTH, lengths_B.cpu(), batch_first=True, enforce_sorted=False)
            output, _ = layer(packed)
            hidden_BTH, _ = pad_packed_sequence(output, batch_first=True, total_length=frames_BTD.shape[1])
            hidden_BTH = self.drop(hidden_BTH)
        return self.leave(hidden_BTH)


class Phones(nn.Module):
    """PR: Linear to 256, Linear to phones."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.enter, self.leave = nn.Linear(width, 256), nn.Linear(256, outputs)

    def forward(self, frames_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        return self.leave(self.enter(frames_BTD))


class Pooled(nn.Module):
    """SID, ER: Linear to 256, the mean over valid frames, Linear to classes; no nonlinearity."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.enter, self.leave = nn.Linear(width, 256), nn.Linear(256, classes)

    def forward(self, frames_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        mask_BT1 = frame_mask(lengths_B, frames_BTD.shape[1])[..., None]
        return self.leave((self.enter(frames_BTD) * mask_BT1).sum(1) / lengths_B[:, None])


class XVector(nn.Module):
    """SV: Linear to 512, the x-vector's five time-delay layers, mean and deviation, two layers of 512.

    Scores compare the first of the two, training sees the second, as in s3prl. A clip must have more than
    LOST frames (0.28 s at 50 a second); shorter ones are filled up with zeros.
    """

    def __init__(self, width: int, speakers: int):
        super().__init__()
        self.enter = nn.Linear(width, 512)
        sizes = (512, 512, 512, 512, 512, 1500)
        self.delays = nn.ModuleList(
            nn.Conv1d(sizes[i], sizes[i + 1], CONTEXTS[i], dilation=DILATIONS[i]) for i in range(len(CONTEXTS))
        )
        self.embed, self.last = nn.Linear(2 * 1500, 512), nn.Linear(512, 512)
        self.speakers_SE = nn.Parameter(nn.init.xavier_normal_(torch.empty(speakers, 512)))

    def forward(self, frames_BTD: Tensor, lengths_B: Tensor) -> Voices:
        frames_BTD = frames_BTD * frame_mask(lengths_B, frames_BTD.shape[1])[..., None]
        hidden_BHT = self.enter(F.pad(frames_BTD, (0, 0, 0, max(LOST + 2 - frames_BTD.shape[1], 0)))).transpose(1, 2)
        for delay in self.delays:
            hidden_BHT = delay(hidden_BHT).relu()
        heard_B1 = (lengths_B - LOST).clamp(min=2)[:, None]
        mask_B1T = frame_mask(heard_B1[:, 0], hidden_BHT.shape[2])[:, None]
        mean_BH = (hidden_BHT * mask_B1T).sum(2) / heard_B1
        squares_BH = ((hidden_BHT - mean_BH[..., None]).square() * mask_B1T).sum(2)
        deviation_BH = (squares_BH / (heard_B1 - 1)).clamp(min=1e-10).sqrt()
        embedding_BE = self.embed(torch.cat([mean_BH, deviation_BH], 1)).relu()
        trained_BE = F.normalize(self.last(embedding_BE).relu(), dim=1)
        return Voices(F.normalize(embedding_BE, dim=1), trained_BE @ F.normalize(self.speakers_SE, dim=1).T)


class Multilingual(nn.Module):
    """ML-SUPERB: Linear to 80, convolutions that halve the rate, two pre-norm transformer blocks of 256, CTC.

    A clip of fewer than 7 frames is filled up with zeros.
    """

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.enter = nn.Linear(width, 80)
        self.halve = nn.Conv2d(1, 256, 3, stride=2)
        self.smooth = nn.Conv2d(256, 256, 3)
        self.flat = nn.Linear(256 * ((80 - 1) // 2 - 2), 256)
        block = nn.TransformerEncoderLayer(256, 8, 1024, dropout=0.1, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, nn.LayerNorm(256), enable_nested_tensor=False)
        self.drop = nn.Dropout(0.1)
        self.leave = nn.Linear(256, outputs)

    def forward(self, frames_BTD: Tensor, lengths_B: Tensor) -> Spelled:
        total = frames_BTD.shape[1]
        frames_BTD = frames_BTD * frame_mask(lengths_B, total)[..., None]
        entered_BTD = self.enter(F.pad(frames_BTD, (0, 0, 0, max(7 - total, 0))))
        hidden_BHSM = self.smooth(self.halve(entered_BTD[:, None]).relu()).relu()
        hidden_BSH = self.flat(hidden_BHSM.transpose(1, 2).flatten(2))
        halves_B = ((lengths_B - 1).div(2, rounding_mode="floor") - 2).clamp(min=1)
        hidden_BSH = self.drop(hidden_BSH * sqrt(256) + positions(hidden_BSH.shape[1], 256, hidden_BSH.device))
        hidden_BSH = self.blocks(hidden_BSH, src_key_padding_mask=~frame_mask(halves_B, hidden_BSH.shape[1]))
        return Spelled(self.leave(hidden_BSH), halves_B)


def positions(count: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of falling frequency: (count, width) (arXiv 1706.03762)."""
    rates_H = torch.exp(torch.arange(0, width, 2, device=device) * (-log(10000.0) / width))
    angles_TH = torch.arange(count, device=device)[:, None] * rates_H
    return torch.stack([angles_TH.sin(), angles_TH.cos()], dim=2).flatten(1)
