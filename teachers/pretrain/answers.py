"""What a small waveform model's layers are asked through; it stays behind when the model is saved."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.features import frame_mask
from teachers.pretrain.lessons import NONE, Lessons

EMBEDDING, SCALE, MARGIN = 128, 20.0, 0.2  # of AM-softmax


class Pooled(nn.Module):
    """Linear and ReLU at every frame, mean and deviation over valid frames, Linear."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.enter = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(4 * width, outputs)

    def forward(self, hidden_BTD: Tensor, mask_BT1: Tensor) -> Tensor:
        hidden_BTH = self.enter(hidden_BTD).relu()
        frames_B1 = mask_BT1.sum(1)
        mean_BH = (hidden_BTH * mask_BT1).sum(1) / frames_B1
        variance_BH = ((hidden_BTH - mean_BH[:, None]).square() * mask_BT1).sum(1) / frames_B1
        return self.leave(torch.cat([mean_BH, variance_BH.clamp(min=1e-5).sqrt()], 1))

    def loss(self, hidden_BTD: Tensor, mask_BT1: Tensor, wanted_B: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and the share of clips that are told right."""
        logits_BC = self(hidden_BTD, mask_BT1)
        return F.cross_entropy(logits_BC, wanted_B), right(logits_BC, wanted_B)


class Voices(nn.Module):
    """An embedding of a clip, whose cosine to its voice must lead by a margin (arXiv 1801.05599)."""

    def __init__(self, width: int, voices: int):
        super().__init__()
        self.pooled = Pooled(width, EMBEDDING)
        self.voices_VE = nn.Parameter(torch.randn(voices, EMBEDDING))

    def loss(self, hidden_BTD: Tensor, mask_BT1: Tensor, wanted_B: Tensor) -> tuple[Tensor, Tensor]:
        """AM-softmax and the share of clips that are told right."""
        embedding_BE = F.normalize(self.pooled(hidden_BTD, mask_BT1), dim=1)
        cosines_BV = embedding_BE @ F.normalize(self.voices_VE, dim=1).T
        lead_BV = MARGIN * F.one_hot(wanted_B, len(self.voices_VE))
        return F.cross_entropy(SCALE * (cosines_BV - lead_BV), wanted_B), right(cosines_BV, wanted_B)


class Answers(nn.Module):
    """One head for each lesson; classes of frames are told from the last layer, those of clips from the middle.

    Speakers are taught in the middle in UniSpeech-SAT too (arXiv 2110.05752).
    """

    def __init__(self, width: int, lessons: Lessons):
        super().__init__()
        self.frames = nn.ModuleDict({name: nn.Linear(width, lessons.sizes[name]) for name in lessons.frames})
        self.spectrum = nn.Linear(width, 80)
        kinds = {"voice": Voices, "style": Pooled}
        self.clips = nn.ModuleDict({name: kinds[name](width, lessons.sizes[name]) for name in lessons.clips})

    def of_frames(self, name: str, last_FD: Tensor, wanted_F: Tensor, hidden_F: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy, hidden frames and seen ones at half each, and the share of hidden ones told right."""
        logits_FC = self.frames[name](last_FD)
        each_F = F.cross_entropy(logits_FC, wanted_F, reduction="none", ignore_index=NONE)
        loss = 0.5 * each_F[hidden_F].mean() + 0.5 * each_F[~hidden_F].mean()
        return loss, right(logits_FC[hidden_F], wanted_F[hidden_F])

    def of_clips(self, name: str, middle_BTD: Tensor, frames_B: Tensor, wanted_B: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of what is said of whole clips, and the share told right."""
        head = self.clips[name]
        assert isinstance(head, Voices | Pooled)
        return head.loss(middle_BTD, frame_mask(frames_B, middle_BTD.shape[1])[..., None], wanted_B)


def right(scores_NC: Tensor, wanted_N: Tensor) -> Tensor:
    """Share of rows whose highest score is at the wanted class."""
    return (scores_NC.argmax(1) == wanted_N).float().mean()
