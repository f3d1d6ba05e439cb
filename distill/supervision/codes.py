"""Targets as codes: residual codebooks per layer, a byte for each; learned by k-means on a sample of frames.

Codes as the target of distillation are MVQ-KD's (arXiv 2211.00508), which refines its codebooks jointly.
"""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.features import Grid
from distill.files import writing
from distill.supervision.packing import demand_finite

CODES = 256  # to a codebook: one byte
ROUNDS = 12  # of k-means


@dataclass(frozen=True)
class Codes:
    """Codes of a batch of clips; what stands past a clip's frames means nothing."""

    index: Tensor  # (B, L, T, C) uint8
    lengths: Tensor  # (B,) valid frames
    grid: Grid


class Codebooks(nn.Module):
    """C codebooks for each of L layers; each codes what the ones before it have left of the frame."""

    name = "codes"
    mean: Tensor  # (L, D)
    centres: Tensor  # (C, L, 256, D)

    def __init__(self, mean_LD: Tensor, centres_CLND: Tensor):
        super().__init__()
        self.register_buffer("mean", mean_LD)
        self.register_buffer("centres", centres_CLND)
        self.books, self.layers = centres_CLND.shape[:2]
        self.width = self.layers * self.books  # bytes of a frame

    def pack(self, hidden_FLD: Tensor) -> Tensor:
        """The nearest centre in every codebook in turn: (F, L, D) -> (F, L * C) uint8."""
        demand_finite(hidden_FLD, "")
        rest_LFD = (hidden_FLD.float() - self.mean).transpose(0, 1)
        chosen = []
        for centres_LND in self.centres:
            chosen.append(nearest(rest_LFD, centres_LND))
            rest_LFD = rest_LFD - pick(centres_LND, chosen[-1])
        return torch.stack(chosen, 2).transpose(0, 1).flatten(1).to(torch.uint8)

    def unpack(self, bytes_BTW: Tensor) -> Tensor:
        """The sum of the chosen centres: (B, T, W) -> (B, L, T, D) float32."""
        clips, frames = bytes_BTW.shape[:2]
        index_CLF = self.split(bytes_BTW).permute(3, 1, 0, 2).flatten(2).long()
        parts = [pick(centres, index_LF) for centres, index_LF in zip(self.centres, index_CLF, strict=True)]
        hidden_LFD = torch.stack(parts).sum(0) + self.mean[:, None]
        return hidden_LFD.unflatten(1, (clips, frames)).transpose(0, 1).contiguous()

    def split(self, bytes_BTW: Tensor) -> Tensor:
        """Bytes of a frame -> codes of its layers: (B, T, W) -> (B, L, T, C)."""
        return bytes_BTW.unflatten(2, (self.layers, self.books)).transpose(1, 2)

    def explained_variance(self, hidden_FLD: Tensor) -> Tensor:
        """1 - squared error / variance around the mean, of frames not trained on: (L,)."""
        coded_FLD = self.unpack(self.pack(hidden_FLD)[None])[0].transpose(0, 1)
        error_L = (coded_FLD - hidden_FLD).square().sum((0, 2))
        return 1 - error_L / (hidden_FLD - hidden_FLD.mean(0)).square().sum((0, 2))

    def save(self, path: Path) -> None:
        """Whole or not at all; what another run has put there meanwhile stays, for it may have coded with it."""
        unfinished = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.unfinished")
        with writing(path):
            save_file({name: value.cpu().contiguous() for name, value in self.state_dict().items()}, unfinished)
        if path.exists():
            unfinished.unlink()
        else:
            unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Codebooks":
        tensors = load_file(path)
        return cls(tensors["mean"], tensors["centres"])


def learn_codebooks(hidden_FLD: Tensor, books: int, seed: int) -> Codebooks:
    """Codebooks of these frames, one after the other; a seed gives the same ones."""
    mean_LD = hidden_FLD.mean(0)
    rest_LFD = (hidden_FLD - mean_LD).transpose(0, 1).contiguous()
    generator, centres = torch.Generator().manual_seed(seed), []
    for _ in range(books):
        centres.append(k_means(rest_LFD, generator))
        rest_LFD = rest_LFD - pick(centres[-1], nearest(rest_LFD, centres[-1]))
    return Codebooks(mean_LD, torch.stack(centres))


def k_means(points_LFD: Tensor, generator: torch.Generator) -> Tensor:
    """Lloyd's centres for every layer apart, started from points: (L, 256, D). One that loses its points stays."""
    frames = points_LFD.shape[1]
    first = torch.randperm(frames, generator=generator)[torch.arange(CODES) % frames]
    centres_LND = points_LFD[:, first.to(points_LFD.device)]
    for _ in range(ROUNDS):
        index_LF = nearest(points_LFD, centres_LND)
        sums_LND = torch.zeros_like(centres_LND)
        sums_LND.scatter_add_(1, index_LF[..., None].expand_as(points_LFD), points_LFD)
        counts_LN = torch.zeros_like(centres_LND[..., 0]).scatter_add_(1, index_LF, torch.ones_like(points_LFD[..., 0]))
        means_LND = sums_LND / counts_LN.clamp(min=1)[..., None]
        centres_LND = torch.where(counts_LN[..., None] > 0, means_LND, centres_LND)
    return centres_LND


def nearest(points_LFD: Tensor, centres_LND: Tensor) -> Tensor:
    """The index of the centre with the least Euclidean distance: (L, F)."""
    return torch.cat(list(_nearest(points_LFD, centres_LND)), 1)


def _nearest(points_LFD: Tensor, centres_LND: Tensor) -> Iterator[Tensor]:
    squares_L1N = centres_LND.square().sum(2)[:, None]
    for some_LFD in points_LFD.split(4096, 1):  # distances of all frames at once would fill the memory
        yield torch.baddbmm(squares_L1N, some_LFD, centres_LND.transpose(1, 2), alpha=-2).argmin(2)


def pick(centres_LND: Tensor, index_LF: Tensor) -> Tensor:
    """The centres of these indices: (L, F, D)."""
    return torch.gather(centres_LND, 1, index_LF[..., None].expand(-1, -1, centres_LND.shape[2]))
