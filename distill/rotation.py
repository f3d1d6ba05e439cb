"""A rotation after which every channel varies as much as any other (PHI-S, arXiv 2410.01680)."""

from math import isqrt

import torch
from torch import Tensor


def evenly_rotated(covariance_DD: Tensor) -> Tensor:
    """R with all diagonal entries of R C R^T equal: (D, D) float64 on the CPU, where it is always the same.

    The principal axes, mixed in equal parts by a Hadamard matrix; where there is none of that order, turned in
    pairs until they are even.
    """
    values_D, axes_DD = torch.linalg.eigh(covariance_DD.cpu().double())
    mixed = hadamard(len(values_D))
    if mixed is None:
        mixed = turned(values_D.clamp(min=0.0))
    return mixed @ axes_DD.T


def turned(variances_D: Tensor) -> Tensor:
    """Orthogonal Q with all diagonal entries of Q diag(v) Q^T equal to the mean of v (Bendel and Mickey, 1978).

    Each turn in a plane brings one entry to the mean, so D - 1 turns do; a plane has an entry at or below the mean
    and one at or above.
    """
    order, mean = len(variances_D), variances_D.mean()
    turns_DD = torch.eye(order, dtype=variances_D.dtype)
    matrix_DD = torch.diag(variances_D)
    waiting = torch.ones(order, dtype=torch.bool)
    for _ in range(order - 1):
        diagonal_D = matrix_DD.diagonal()
        low = int(diagonal_D.masked_fill(~waiting, torch.inf).argmin())
        high = int(diagonal_D.masked_fill(~waiting, -torch.inf).argmax())
        if low == high or diagonal_D[high] - diagonal_D[low] <= 0:
            break
        plane_22 = _turn(matrix_DD[low, low] - mean, matrix_DD[high, high] - mean, matrix_DD[low, high])
        both = [low, high]
        matrix_DD[both] = plane_22 @ matrix_DD[both]
        matrix_DD[:, both] = matrix_DD[:, both] @ plane_22.T
        turns_DD[both] = plane_22 @ turns_DD[both]
        waiting[low] = False
    return turns_DD


def _turn(low: Tensor, high: Tensor, across: Tensor) -> Tensor:
    """The turn of a plane that brings its first entry to 0; low <= 0 <= high are both entries, less the mean."""
    # c^2 low + 2 c s across + s^2 high = 0 for the tangent t = s / c; the root without cancellation
    root = (across.square() - low * high).clamp(min=0.0).sqrt()
    below = across + torch.where(across < 0, -root, root)
    tangent = torch.where(below == 0, torch.zeros_like(below), -low / below)
    cosine = (1 + tangent.square()).rsqrt()
    sine = tangent * cosine
    return torch.stack([torch.stack([cosine, sine]), torch.stack([-sine, cosine])])


def hadamard(order: int) -> Tensor | None:
    """An orthogonal matrix of entries +-1 / sqrt(order), by the constructions of Sylvester and Paley.

    None where they give none: an order that is no multiple of 4, and some that are.
    """
    signs = _signs(order)
    return None if signs is None else signs / order**0.5


def _signs(order: int) -> Tensor | None:
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if order % 4 == 0 and _prime(order - 1):
        return _paley(order - 1)
    half = _signs(order // 2) if order % 2 == 0 else None
    return None if half is None else torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), half)


def _paley(prime: int) -> Tensor:
    """Signs of order prime + 1, for a prime that leaves 3 on division by 4: by which differences are squares."""
    character = -torch.ones(prime, dtype=torch.float64)
    character[torch.arange(prime).square() % prime] = 1.0
    character[0] = 0.0
    index = torch.arange(prime)
    signs = torch.ones(prime + 1, prime + 1, dtype=torch.float64)
    signs[1:, 0] = -1.0
    signs[1:, 1:] = character[(index[:, None] - index) % prime]
    signs[1:, 1:] += torch.eye(prime, dtype=torch.float64)
    return signs


def _prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))
