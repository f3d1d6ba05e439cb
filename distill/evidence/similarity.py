"""How alike two encoders' layers are: debiased linear centred kernel alignment (CKA) over frames of test clips."""

import numpy as np
import torch
from torch import Tensor

from distill.data.clips import Clips, pad
from distill.encoders.frames import by_length
from distill.features import Encoder, Features
from distill.fusion import align_time
from distill.tasks.task import draw

CLIPS = 64  # of the test split
FRAMES = 1000  # drawn from theirs, so that neighbours in time hardly meet


@torch.no_grad()
def similarity(
    student: Encoder, others: dict[str, Encoder], clips: Clips, seconds: float, device: torch.device
) -> dict:
    """For every other encoder, CKA of each student layer with each of its layers: name -> [student layer][layer].

    1: alike but for a rotation and a scale; 0: unrelated.
    """
    encoders = {"student": student} | others
    heard: dict[str, list[Tensor]] = {name: [] for name in encoders}
    some = clips.select(draw(np.arange(len(clips)), CLIPS).tolist())
    for rows in by_length(some.samples, seconds):
        audio_BN, lengths_B = (tensor.to(device) for tensor in pad([some.audio(row) for row in rows]))
        ours = student(audio_BN, lengths_B)
        for name, encoder in encoders.items():
            features = ours if name == "student" else encoder(audio_BN, lengths_B)
            heard[name].append(frames(align_time(features, ours.grid, ours.lengths, frames=ours.hidden.shape[2])))
    stacks = {name: torch.cat(parts) for name, parts in heard.items()}
    chosen = draw(np.arange(len(stacks["student"])), FRAMES)
    kernels = {name: [Kernel(hidden_FD) for hidden_FD in stack[chosen].unbind(1)] for name, stack in stacks.items()}
    layers = {name: [[a.alignment(b) for b in kernels[name]] for a in kernels["student"]] for name in others}
    return {"clips": len(some), "frames": len(chosen), "layers": layers}


def frames(features: Features) -> Tensor:
    """Valid frames of all clips, end to end: (F, L, D), on the CPU."""
    return features.hidden.transpose(1, 2)[features.mask()].cpu()


class Kernel:
    """The inner products of all pairs of frames, without those of a frame with itself (arXiv 2010.15327)."""

    def __init__(self, hidden_FD: Tensor):
        centred_FD = (hidden_FD - hidden_FD.mean(0)).double()
        self.products_FF = centred_FD @ centred_FD.T
        self.products_FF.fill_diagonal_(0.0)
        self.rows_F = self.products_FF.sum(1)
        self.own = self.dependence(self)

    def dependence(self, other: "Kernel") -> float:
        """The unbiased Hilbert-Schmidt independence criterion of two sets of features of the same frames."""
        count = len(self.rows_F)
        both = (self.products_FF * other.products_FF).sum()
        apart = self.rows_F.sum() * other.rows_F.sum() / ((count - 1) * (count - 2))
        across = 2 / (count - 2) * (self.rows_F @ other.rows_F)
        return float((both + apart - across) / (count * (count - 3)))

    def alignment(self, other: "Kernel") -> float:
        """Debiased CKA; 0 where either says nothing."""
        scale = self.own * other.own
        return self.dependence(other) / scale**0.5 if scale > 0 else 0.0
