"""Distances between predicted and target layers, as sums over valid frames, and how well the two agree.

Shape letters: B clips, K layer pairs, T frames, D features. Everything is computed in float32 or better.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def l1_cosine(pred_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Mean absolute difference over features + 1 - cosine (DPHuBERT, USAD): sums (K,), valid frames ()."""
    pred_BKTD, target_BKTD = _valid(pred_BKTD, target_BKTD, mask_BT)
    distance_BKT = (pred_BKTD - target_BKTD).abs().mean(-1)
    return _sums(distance_BKT + 1.0 - F.cosine_similarity(pred_BKTD, target_BKTD, dim=-1), mask_BT)


def mse(pred_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared difference over features: sums (K,), valid frames ()."""
    pred_BKTD, target_BKTD = _valid(pred_BKTD, target_BKTD, mask_BT)
    return _sums((pred_BKTD - target_BKTD).square().mean(-1), mask_BT)


def smooth_l1(pred_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Half the square below 1, absolute - 1/2 above, mean over features: sums (K,), valid frames ()."""
    pred_BKTD, target_BKTD = _valid(pred_BKTD, target_BKTD, mask_BT)
    return _sums(F.smooth_l1_loss(pred_BKTD, target_BKTD, reduction="none").mean(-1), mask_BT)


def cosine(pred_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """1 - cosine between the features of a frame: sums (K,), valid frames ()."""
    pred_BKTD, target_BKTD = _valid(pred_BKTD, target_BKTD, mask_BT)
    return _sums(1.0 - F.cosine_similarity(pred_BKTD, target_BKTD, dim=-1), mask_BT)


def gram(pred_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """How a frame relates to every other of its clip (STaR, arXiv 2312.09040): sums (K,), valid frames ().

    Squared difference of the frames' cosines with each other, mean over the clip's frames.
    """
    pred_BKTD, target_BKTD = _valid(pred_BKTD, target_BKTD, mask_BT)
    apart_BKTT = (_relations(pred_BKTD) - _relations(target_BKTD)).square()
    frames_B11 = mask_BT.sum(1).clamp(min=1)[:, None, None]
    return _sums(apart_BKTT.sum(-1) / frames_B11, mask_BT)


def _relations(hidden_BKTD: Tensor) -> Tensor:
    unit_BKTD = F.normalize(hidden_BKTD, dim=-1)
    return unit_BKTD @ unit_BKTD.mT


def cka(pred_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """1 - linear centred kernel alignment over the frames of a clip (arXiv 1905.00414), which no rotation changes.

    Sums (K,) with as many times a clip's value as it has frames; valid frames ().
    """
    pred_BKTD, target_BKTD = _valid(pred_BKTD, target_BKTD, mask_BT)
    pred_BKTD, target_BKTD = _centred(pred_BKTD, mask_BT), _centred(target_BKTD, mask_BT)
    across_BK = (pred_BKTD.mT @ target_BKTD).square().sum((-2, -1))
    own_BK = (pred_BKTD @ pred_BKTD.mT).square().sum((-2, -1)) * (target_BKTD @ target_BKTD.mT).square().sum((-2, -1))
    alike_BK = across_BK / own_BK.clamp(min=1e-12).sqrt()
    frames_B = mask_BT.sum(1)
    return ((1.0 - alike_BK) * frames_B[:, None]).sum(0), frames_B.sum()


def _centred(hidden_BKTD: Tensor, mask_BT: Tensor) -> Tensor:
    mean_BK1D = hidden_BKTD.sum(2, keepdim=True) / mask_BT.sum(1).clamp(min=1)[:, None, None, None]
    return (hidden_BKTD - mean_BK1D).masked_fill(~mask_BT[:, None, :, None], 0.0)


def l1_cosine_gram(pred_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Frames as they are and as they relate to each other: the sum of l1_cosine and gram."""
    each, frames = l1_cosine(pred_BKTD, target_BKTD, mask_BT)
    return each + gram(pred_BKTD, target_BKTD, mask_BT)[0], frames


LOSSES = {
    "l1_cosine": l1_cosine,
    "mse": mse,
    "smooth_l1": smooth_l1,
    "cosine": cosine,
    "gram": gram,
    "cka": cka,
    "l1_cosine_gram": l1_cosine_gram,
}


def _valid(pred_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Both with padding set to zero, so that not even inf in it reaches a value or a gradient.

    Raises ValueError where the shapes differ: broadcasting would train on nonsense.
    """
    if pred_BKTD.shape != target_BKTD.shape:
        raise ValueError(f"predictions are {tuple(pred_BKTD.shape)}, targets {tuple(target_BKTD.shape)}")
    dtype = torch.promote_types(pred_BKTD.dtype, torch.float32)
    padding = ~mask_BT[:, None, :, None]
    return pred_BKTD.to(dtype).masked_fill(padding, 0.0), target_BKTD.to(dtype).masked_fill(padding, 0.0)


def _sums(distance_BKT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    return distance_BKT.masked_fill(~mask_BT[:, None], 0.0).sum((0, 2)), mask_BT.sum()


@dataclass(frozen=True)
class Agreement:
    """How predictions agree with targets, as float64 sums over valid frames; parts add up to the whole."""

    frames: Tensor  # () valid frames
    error_K: Tensor  # sum of squared differences over frames and features
    cosine_K: Tensor  # sum over frames of the cosine
    squares_K: Tensor  # sum of squared targets over frames and features
    total_KD: Tensor  # sum of targets over frames

    @classmethod
    @torch.no_grad()
    def of(cls, pred_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor) -> "Agreement":
        pred_BKTD, target_BKTD = _valid(pred_BKTD, target_BKTD, mask_BT)
        cosine_BKT = F.cosine_similarity(pred_BKTD, target_BKTD, dim=-1)
        return cls(
            frames=mask_BT.sum().double(),
            error_K=(pred_BKTD - target_BKTD).square().sum(-1).double().sum((0, 2)),
            cosine_K=cosine_BKT.masked_fill(~mask_BT[:, None], 0.0).double().sum((0, 2)),
            squares_K=target_BKTD.square().sum(-1).double().sum((0, 2)),
            total_KD=target_BKTD.sum((0, 2)).double(),
        )

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement.from_tensor(self.tensor() + other.tensor())

    def tensor(self) -> Tensor:
        """All sums in one tensor (K, 4 + D), to be summed over processes."""
        frames_K = self.frames.expand_as(self.error_K)
        columns_K4 = torch.stack([frames_K, self.error_K, self.cosine_K, self.squares_K], dim=1)
        return torch.cat([columns_K4, self.total_KD], dim=1)

    @classmethod
    def from_tensor(cls, sums: Tensor) -> "Agreement":
        """The inverse of `tensor`."""
        return cls(sums[0, 0], sums[:, 1], sums[:, 2], sums[:, 3], sums[:, 4:])

    def explained_variance(self) -> Tensor:
        """1 - squared error / variance of the targets around their mean per channel: (K,), 1 at best."""
        variance_K = self.squares_K - self.total_KD.square().sum(1) / self.frames
        return 1.0 - self.error_K / variance_K

    def cosine(self) -> Tensor:
        """Mean over frames of the cosine between prediction and target: (K,)."""
        return self.cosine_K / self.frames
