"""Several stacks of features -> one on one grid: align over time and layers, standardise, combine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import sqrt

import torch
from torch import Tensor, nn

from distill.features import Encoder, Features, Grid, frame_mask
from distill.rotation import evenly_rotated

DEAD = 1e-3  # a channel that varies less than this fraction of its layer's median std carries nothing
ROUNDING = 1e-6  # ... and so does one that varies less than this fraction of its mean
STANDARDISE = ("channel", "layer", "phi-s")


@dataclass(frozen=True)
class Shape:
    """What fusion must know of an upstream before hearing it."""

    layers: int
    width: int
    grid: Grid

    @classmethod
    def of(cls, encoder: Encoder) -> "Shape":
        return cls(encoder.layers, encoder.width, encoder.grid)


def align_time(features: Features, grid: Grid, frames_B: Tensor, *, frames: int | None = None) -> Features:
    """The same layers at the frame centres of another grid, by linear interpolation.

    frames_B (B,): valid frames wanted of each clip; frames: length of the new time axis, the longest clip's
    by default. Centres before a clip's first or after its last valid frame take that frame's values. Where
    neither grid nor frames differ, the features given come back. Raises ValueError for a clip of no frames.
    """
    hidden_BLTD, lengths_B = features.hidden, features.lengths
    if bool((lengths_B < 1).any()):
        raise ValueError(f"each clip needs a frame to interpolate from, got {lengths_B.tolist()} frames")
    frames = int(frames_B.max()) if frames is None else frames
    if grid == features.grid and frames == hidden_BLTD.shape[2] and torch.equal(frames_B, lengths_B):
        return features
    position_BT, last_B1 = positions(features.grid, lengths_B, grid, frames), lengths_B[:, None] - 1
    lower_BT = position_BT.long()
    upper_BT = torch.minimum(lower_BT + 1, last_B1)
    fraction_BT = (position_BT - lower_BT).float()
    clips = torch.arange(len(lengths_B), device=hidden_BLTD.device)[:, None, None]
    layers = torch.arange(hidden_BLTD.shape[1], device=hidden_BLTD.device)[None, :, None]
    lower_BLTD = hidden_BLTD[clips, layers, lower_BT[:, None]]
    upper_BLTD = hidden_BLTD[clips, layers, upper_BT[:, None]]
    between_BLTD = _between(lower_BLTD, upper_BLTD, fraction_BT[:, None, :, None])
    return Features(_zero_padding_(between_BLTD, frames_B), frames_B, grid)


def positions(source: Grid, lengths_B: Tensor, grid: Grid, frames: int) -> Tensor:
    """Where the first `frames` centres of a grid lie in a clip's frames on another, in frames: (B, T) float64."""
    # In this order of operations equal grids give whole positions, so that frames are copied exactly.
    wanted_T = torch.arange(frames, dtype=torch.float64, device=lengths_B.device)
    source_T = wanted_T * (source.rate / grid.rate) + (grid.first - source.first) * source.rate
    return torch.minimum(source_T.clamp(min=0.0), (lengths_B[:, None] - 1).double())


def align_layers(hidden_BLTD: Tensor, layers: int) -> Tensor:
    """The stack at `layers` evenly spaced depths from first to last layer, by linear interpolation."""
    depth = hidden_BLTD.shape[1]
    if layers == depth:
        return hidden_BLTD
    if layers < 2:
        raise ValueError(f"a stack of {depth} layers has no single relative depth; ask for 2 layers or more")
    # Integer positions keep a layer that falls on a layer exactly that layer.
    position_L = torch.arange(layers, device=hidden_BLTD.device) * (depth - 1)
    lower_L = position_L // (layers - 1)
    upper_L = (lower_L + 1).clamp(max=depth - 1)
    fraction_L = (position_L % (layers - 1)).float() / (layers - 1)
    lower_BLTD, upper_BLTD = hidden_BLTD.index_select(1, lower_L), hidden_BLTD.index_select(1, upper_L)
    return _between(lower_BLTD, upper_BLTD, fraction_L[:, None, None])


def _between(lower: Tensor, upper: Tensor, fraction: Tensor) -> Tensor:
    """lower + fraction * (upper - lower), computed in float32 or better; overwrites `lower`.

    In place here and below: a quarter less time on a CPU than with new tensors.
    """
    dtype = torch.promote_types(lower.dtype, torch.float32)
    return lower.to(dtype).lerp_(upper.to(dtype), fraction.to(dtype)).to(lower.dtype)


def _zero_padding_(hidden_BLTD: Tensor, lengths_B: Tensor) -> Tensor:
    """zero_padding in place."""
    mask_BT = frame_mask(lengths_B, hidden_BLTD.shape[2])
    return hidden_BLTD.masked_fill_(~mask_BT[:, None, :, None], 0.0)


@dataclass
class Moments:
    """Count, sum and sum of squares over valid frames; moments of parts add up to those of the whole.

    Plain float64 sums lose about 1e-16 * (mean / std)^2 of a variance: nothing in any channel above ROUNDING.
    """

    count: Tensor  # ()
    total_LD: Tensor
    squares_LD: Tensor
    products_LDD: Tensor | None = None  # sums of products of channels, where a rotation is wanted

    @classmethod
    def empty(cls, layers: int, width: int, device: torch.device | None = None, *, products: bool = False) -> "Moments":
        zeros_LD = torch.zeros(layers, width, dtype=torch.float64, device=device)
        products_LDD = zeros_LD.new_zeros(layers, width, width) if products else None
        return cls(zeros_LD.new_zeros(()), zeros_LD, zeros_LD.clone(), products_LDD)

    @torch.no_grad()
    def update(self, features: Features) -> None:
        """Count the valid frames of a batch in."""
        mask_BT = features.mask()
        self.count += mask_BT.sum()
        for layer, hidden_BTD in enumerate(features.hidden.unbind(1)):  # a whole stack in float64 is big
            valid_FD = hidden_BTD[mask_BT].double()
            self.total_LD[layer] += valid_FD.sum(0)
            self.squares_LD[layer] += valid_FD.square().sum(0)
            if self.products_LDD is not None:
                self.products_LDD[layer] += valid_FD.T @ valid_FD

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(*(mine + theirs for mine, theirs in zip(self.state(), other.state(), strict=True)))

    def state(self) -> list[Tensor]:
        """What to sum over processes: Moments(*summed) are the moments of all of them."""
        parts = (self.count, self.total_LD, self.squares_LD, self.products_LDD)
        return [part for part in parts if part is not None]


class Standardiser(nn.Module):
    """(x - mean) / std for every layer; the identity until calibrated; padding stays zero.

    how: with a std for each channel (`channel`), for each layer (`layer`: the root of the channels' mean variance),
    or for each layer after a rotation that gives all channels the same variance (`phi-s`). By channel, std is inf
    for a dead one, which therefore comes out as 0 whatever it does later.
    """

    mean: Tensor  # (L, D)
    std: Tensor  # (L, D)
    rotation: Tensor  # (L, D, D) rows are the new channels, for phi-s alone

    def __init__(self, layers: int, width: int, how: str = "channel"):
        super().__init__()
        self.how = how
        self.register_buffer("mean", torch.zeros(layers, width))
        self.register_buffer("std", torch.ones(layers, width))
        if how == "phi-s":
            self.register_buffer("rotation", torch.eye(width).repeat(layers, 1, 1))

    def moments(self, device: torch.device | None = None) -> Moments:
        """Empty ones, of what `calibrate` wants to know."""
        layers, width = self.mean.shape
        return Moments.empty(layers, width, device, products=self.how == "phi-s")

    def calibrate(self, moments: Moments) -> None:
        """Take over the statistics of some clips. Raises ValueError below two frames."""
        if moments.count < 2:
            raise ValueError(f"calibration needs two valid frames or more, got {int(moments.count)}")
        mean_LD = moments.total_LD / moments.count
        variance_LD = (moments.squares_LD / moments.count - mean_LD.square()).clamp(min=0.0)
        if self.how == "channel":
            std_LD = variance_LD.sqrt()
            floor_LD = torch.maximum(DEAD * std_LD.median(1, keepdim=True).values, ROUNDING * mean_LD.abs())
            std_LD = std_LD.masked_fill(std_LD <= floor_LD, torch.inf)
        else:
            tiny = torch.finfo(torch.float32).tiny  # a layer that says nothing stays 0
            std_LD = variance_LD.mean(1, keepdim=True).sqrt().clamp(min=tiny).expand_as(mean_LD)
        if moments.products_LDD is not None:
            for layer, products_DD in enumerate(moments.products_LDD):
                covariance_DD = products_DD / moments.count - mean_LD[layer].outer(mean_LD[layer])
                self.rotation[layer] = evenly_rotated(covariance_DD)
        self.mean.copy_(mean_LD)
        self.std.copy_(std_LD)

    def forward(self, features: Features) -> Features:
        # float32 inside: bfloat16 would lose a small std beside a large mean.
        scaled_BLTD = (features.hidden - self.mean[:, None]).div_(self.std[:, None])
        if self.how == "phi-s":
            with torch.autocast(scaled_BLTD.device.type, enabled=False):
                scaled_BLTD = scaled_BLTD @ self.rotation.mT
        hidden_BLTD = _zero_padding_(scaled_BLTD, features.lengths).to(features.hidden.dtype)
        return replace(features, hidden=hidden_BLTD)

    def undo(self, features: Features) -> Features:
        """The features before `forward`, which a dead channel had at its mean; padding stays zero."""
        hidden_BLTD = features.hidden.float()
        if self.how == "phi-s":
            hidden_BLTD = hidden_BLTD @ self.rotation
        std_LD = self.std.masked_fill(self.std.isinf(), 0.0)
        hidden_BLTD = hidden_BLTD * std_LD[:, None] + self.mean[:, None]
        return replace(features, hidden=_zero_padding_(hidden_BLTD, features.lengths))


class Sum(nn.Module):
    """Sum of aligned stacks over sqrt(N), which keeps the scale; unequal widths are projected first."""

    def __init__(self, widths: Sequence[int], width: int):
        super().__init__()
        equal = all(other == width for other in widths)
        projections = (nn.Identity() if equal else _projection(other, width) for other in widths)
        self.project = nn.ModuleList(projections)

    def forward(self, stacks: list[Tensor]) -> Tensor:
        projected = [project(hidden) for project, hidden in zip(self.project, stacks, strict=True)]
        return reduce(torch.add, projected).div_(sqrt(len(projected)))


class Concat(nn.Module):
    """Aligned stacks beside each other on the feature axis, and one projection shared by all layers."""

    def __init__(self, widths: Sequence[int], width: int):
        super().__init__()
        self.project = _projection(sum(widths), width)

    def forward(self, stacks: list[Tensor]) -> Tensor:
        return self.project(torch.cat(stacks, dim=-1))


class Single(nn.Module):
    """The one stack there is."""

    def forward(self, stacks: list[Tensor]) -> Tensor:
        (hidden_BLTD,) = stacks
        return hidden_BLTD


COMBINE = {"sum": Sum, "concat": Concat}


def _projection(width_in: int, width: int) -> nn.Linear:
    """Bias-free, so that padding stays zero; orthogonal, so that white channels keep their std of 1."""
    linear = nn.Linear(width_in, width, bias=False)
    nn.init.orthogonal_(linear.weight, gain=max(1.0, sqrt(width / width_in)))
    return linear


class Fusion(nn.Module):
    """Stacks of several upstreams -> one stack on the finest of their grids, as deep as the deepest."""

    def __init__(self, shapes: Sequence[Shape], combine: str, width: int, standardise: str = "channel"):
        super().__init__()
        if not shapes:
            raise ValueError("fusion needs one upstream or more, got none")
        if combine not in COMBINE:
            raise ValueError(f"unknown combine={combine!r}; there are {', '.join(COMBINE)}")
        if len(shapes) == 1 and width != shapes[0].width:
            raise ValueError(f"a single upstream keeps its width of {shapes[0].width}, got width={width}")
        self.shapes = tuple(shapes)
        self.owner = max(range(len(shapes)), key=lambda n: (shapes[n].grid.rate, shapes[n].grid.first))
        self.grid = shapes[self.owner].grid
        self.layers = max(shape.layers for shape in shapes)
        self.width = width
        self.standardise = nn.ModuleList(Standardiser(shape.layers, shape.width, standardise) for shape in shapes)
        widths = [shape.width for shape in shapes]
        self.combine = COMBINE[combine](widths, width) if len(shapes) > 1 else Single()

    def forward(self, stacks: list[Features]) -> Features:
        """One Features per upstream, in the order of `shapes` -> the fused stack with the owner's frames."""
        return self.fuse(self.align(stacks))

    def align(self, stacks: list[Features]) -> list[Features]:
        """Every upstream's own layers, standardised, at the owner's frames."""
        self._check(stacks)
        owner = stacks[self.owner]
        return [
            align_time(standardise(features), self.grid, owner.lengths, frames=owner.hidden.shape[2])
            for standardise, features in zip(self.standardise, stacks, strict=True)
        ]

    def fuse(self, aligned: list[Features]) -> Features:
        """What `align` gives -> the fused stack."""
        deep = [align_layers(features.hidden, self.layers) for features in aligned]
        return replace(aligned[self.owner], hidden=self.combine(deep))

    def standardisers(self) -> list[Standardiser]:
        """One for each upstream, in the order of `shapes`."""
        return list(self.standardise)  # pyright: ignore[reportReturnType]

    def _check(self, stacks: list[Features]) -> None:
        if len(stacks) != len(self.shapes):
            raise ValueError(f"fusion was built for {len(self.shapes)} upstreams, got {len(stacks)} stacks")
        for number, (shape, features) in enumerate(zip(self.shapes, stacks, strict=True)):
            got = Shape(features.hidden.shape[1], features.hidden.shape[3], features.grid)
            if got != shape:
                raise ValueError(f"upstream {number} was announced as {shape}, its features are {got}")
