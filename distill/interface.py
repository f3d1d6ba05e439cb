"""A stack of layers -> one vector per frame: hierarchical convolution, a weighted sum, or a choice of layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KERNEL, STRIDE, PADDING = 5, 3, 2  # layers


def layer_axis(layers: int) -> list[int]:
    """Length of the layer axis before and after each of floor(log3 layers) convolutions: 13 -> [13, 5, 2]."""
    if layers < 1 or layers == 2:
        raise ValueError(f"hconv takes 1 layer, or {STRIDE} and more, got {layers}; use weighted_sum")
    sizes = [layers]
    while STRIDE ** len(sizes) <= layers:  # integers: a ratio of logarithms is wrong at 243
        sizes.append((sizes[-1] + 2 * PADDING - KERNEL) // STRIDE + 1)
    return sizes


class HConv(nn.Module):
    """Hierarchical convolution over the layer axis at every frame alone (arXiv 2511.08389, after 2406.12209).

    One layer is passed through. The output can be narrower than the layers: read `width`.
    """

    def __init__(self, layers: int, width: int):
        super().__init__()
        *inner, final = layer_axis(layers)
        channels = [width] * len(inner) + [width // final]
        self.convs = nn.ModuleList(
            nn.Conv1d(channels[n], channels[n + 1], KERNEL, STRIDE, PADDING) for n in range(len(inner))
        )
        self.width = channels[-1] * final

    def forward(self, hidden_BLTD: Tensor) -> Tensor:
        # A 2-d convolution, 5 high over layers and 1 wide over frames, is the same thing, and (B, L, T, D)
        # already is its channels-last layout: nothing is copied. One core, forward + backward, in ms:
        #   B x L x T x D        conv2d   conv1d, frames folded   unfold + linear   a linear per output layer
        #   8 x 5 x 500 x 160        12                      27                33                          19
        #   2 x 13 x 500 x 768      501                     776              1019                         602
        out_BDLT = hidden_BLTD.permute(0, 3, 1, 2)
        for conv in self.convs:
            kernel, bias = conv.get_parameter("weight")[..., None], conv.get_parameter("bias")
            out_BDLT = F.relu(F.conv2d(out_BDLT, kernel, bias, stride=(STRIDE, 1), padding=(PADDING, 0)))
        return out_BDLT.permute(0, 3, 1, 2).flatten(2)  # channels outer, layers inner, as published


class WeightedSum(nn.Module):
    """Sum of the layers, weighted by a softmax over one scalar each."""

    def __init__(self, layers: int, width: int):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(layers))
        self.width = width

    def forward(self, hidden_BLTD: Tensor) -> Tensor:
        weights_L = self.scores.softmax(0).to(hidden_BLTD.dtype)
        clips, layers, frames, width = hidden_BLTD.shape
        # One matrix product takes a third of the time of multiply and sum.
        summed = weights_L.expand(clips, 1, layers) @ hidden_BLTD.flatten(2)
        return summed.view(clips, frames, width)


class Gumbel(nn.Module):
    """Every feature from the layer that it has chosen (GumD, a baseline of arXiv 2511.08389).

    In training the choice is drawn once a pass by its scores, with the gradient of a softmax (arXiv 1611.01144,
    straight-through, temperature 1); in eval mode it is the highest score.
    """

    def __init__(self, layers: int, width: int):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(layers, width))
        self.width = width

    def forward(self, hidden_BLTD: Tensor) -> Tensor:
        if self.training:
            chosen_LD = F.gumbel_softmax(self.scores, hard=True, dim=0).to(hidden_BLTD.dtype)
            return torch.einsum("bltd,ld->btd", hidden_BLTD, chosen_LD)
        clips, _, frames, width = hidden_BLTD.shape
        index_BLTD = self.scores.argmax(0).expand(clips, 1, frames, width)
        return hidden_BLTD.gather(1, index_BLTD)[:, 0]


Interface = HConv | WeightedSum | Gumbel

INTERFACES = {"hconv": HConv, "weighted_sum": WeightedSum, "gumbel": Gumbel}
