"""Weights of the sources that training finds by itself: of doubts that it learns, or of gradients' norms."""

import torch
from torch import Tensor, distributed, nn

SLOWEST = 1.5  # GradNorm's alpha: how much more pull a source gets that has come less far than the others
MEMORY = 0.98  # of the averages over steps, which a single batch would make jump


def doubted(sums_G: Tensor, doubts_G: Tensor, count: Tensor) -> Tensor:
    """Loss sums as they count under uncertainty (arXiv 1705.07115): a loss L as exp(-s) L + s, with a learned s.

    s settles at log L, so that each source weighs as 1 / L. sums_G: over `count` frames.
    """
    return (-doubts_G).exp() * sums_G + doubts_G * count


class GradientNorms(nn.Module):
    """Weights that bring the sources' gradients to norms by how far each has yet to go (GradNorm, arXiv 1711.02257).

    The norms are those of each source's loss with respect to the student's layers as its heads see them: shared
    activations, so that a pass backward through the heads is all it costs. Heads sharded by ZeRO-3 do not allow it.
    GradNorm lets the weights descend to where the norms, times the weights, have the proportions that they should;
    as they are linear in the weights, this solves for them, from averages over steps. A step's own weights are those
    of the steps before, and what its passes and processes saw is summed up first, so how it was dealt is no matter.
    """

    weights: Tensor  # (G,) their mean is 1
    squares: Tensor  # (G,) average squared norm of a frame's gradient
    losses: Tensor  # (G,) average loss of a frame
    first: Tensor  # (G,) the losses in the first step
    pending: Tensor  # (2 G + 1,) squared norms, losses and frames of the step so far

    def __init__(self, sources: int, passes: int):
        """passes: of each process in an optimizer step."""
        super().__init__()
        self.passes, self.heard = passes, 0  # a checkpoint is of whole steps, so nothing of them need be kept
        self.register_buffer("weights", torch.ones(sources))
        for name in ("squares", "losses", "first"):
            self.register_buffer(name, torch.zeros(sources, dtype=torch.float64))
        self.register_buffer("pending", torch.zeros(2 * sources + 1, dtype=torch.float64))

    def forward(self, sums_G: Tensor, count: Tensor, hidden_BLTD: Tensor, weight: float = 1.0) -> Tensor:
        """The weights of this pass: (G,). In training it sees the loss sums and how they hang on the layers.

        weight: of what it sees, 0 where another pass of the step sees the same.
        """
        weights_G = self.weights.clone()
        if self.training and hidden_BLTD.requires_grad:
            slopes = [torch.autograd.grad(own, hidden_BLTD, retain_graph=True)[0] for own in sums_G]
            squares_G = torch.stack([slope.float().square().sum() for slope in slopes])
            self._see(weight * torch.cat([squares_G, sums_G.detach(), count[None]]))
        return weights_G

    @torch.no_grad()
    def _see(self, seen: Tensor) -> None:
        self.pending += seen
        self.heard += 1
        if self.heard % self.passes:
            return
        if distributed.is_initialized():
            distributed.all_reduce(self.pending)
        squares_G, losses_G = (self.pending[:-1] / self.pending[-1]).chunk(2)
        self.pending.zero_()
        new_G = self.first == 0  # in the first step
        for average, own_G in ((self.squares, squares_G), (self.losses, losses_G)):
            average.copy_(torch.where(new_G, own_G, MEMORY * average + (1 - MEMORY) * own_G))
        self.first.copy_(torch.where(new_G, losses_G, self.first))
        left_G = self.losses / self.first
        wanted_G = (left_G / left_G.mean()) ** SLOWEST / self.squares.sqrt()
        self.weights.copy_(wanted_G / wanted_G.mean())
