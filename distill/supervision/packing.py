"""How one frame of targets is kept in bytes: float16, or int8 with a scale per layer."""

from typing import Protocol

import torch
from torch import Tensor


class Packing(Protocol):
    """Layers of a frame <-> bytes; what is all zero bytes comes back as zeros."""

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int:
        """W, bytes of one frame."""
        ...

    def pack(self, hidden_FLD: Tensor) -> Tensor:
        """Frames (F, L, D) -> (F, W) uint8. Raises ValueError for what it cannot hold."""
        ...

    def unpack(self, bytes_BTW: Tensor) -> Tensor:
        """(B, T, W) uint8 -> (B, L, T, D) float32, contiguous."""
        ...


class Float16:
    """Half the size of float32; rounds to 11 bits."""

    name = "float16"

    def __init__(self, layers: int, width: int):
        self.layers, self.features = layers, width
        self.width = 2 * layers * width

    def pack(self, hidden_FLD: Tensor) -> Tensor:
        half_FLD = hidden_FLD.to(torch.float16).contiguous()
        demand_finite(half_FLD, "within float16")
        return half_FLD.flatten(1).view(torch.uint8)

    def unpack(self, bytes_BTW: Tensor) -> Tensor:
        half_BTLD = bytes_BTW.view(torch.float16).unflatten(2, (self.layers, self.features))
        return half_BTLD.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)


class Int8:
    """A quarter of float32: 255 steps between minus and plus the largest feature of the layer in that frame."""

    name = "int8"

    def __init__(self, layers: int, width: int):
        self.layers, self.features = layers, width
        self.width = layers * (4 + width)  # a float32 scale and D steps for each layer

    def pack(self, hidden_FLD: Tensor) -> Tensor:
        demand_finite(hidden_FLD, "")
        scale_FL1 = hidden_FLD.float().abs().amax(2, keepdim=True) / 127
        steps_FLD = (hidden_FLD / scale_FL1.clamp(min=torch.finfo(torch.float32).tiny)).round().to(torch.int8)
        scales_FW = scale_FL1.flatten(1).contiguous().view(torch.uint8)
        return torch.cat([scales_FW, steps_FLD.flatten(1).view(torch.uint8)], 1)

    def unpack(self, bytes_BTW: Tensor) -> Tensor:
        scale_BTL = bytes_BTW[..., : 4 * self.layers].contiguous().view(torch.float32)
        steps_BTLD = bytes_BTW[..., 4 * self.layers :].view(torch.int8).unflatten(2, (self.layers, self.features))
        hidden_BLTD = steps_BTLD.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return hidden_BLTD.mul_(scale_BTL.transpose(1, 2)[..., None])


PRECISIONS = {"float16": Float16, "int8": Int8}


def demand_finite(hidden_FLD: Tensor, where: str) -> None:
    """ValueError unless every feature is a finite number."""
    if not bool(hidden_FLD.isfinite().all()):
        raise ValueError(f"the teacher gives targets that are not finite numbers {where}".rstrip())
