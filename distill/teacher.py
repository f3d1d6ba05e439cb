"""The fused teacher: several encoders and their fusion as one Encoder, with the interface fitted to it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.features import Encoder, Features, parameters, zero_padding
from distill.files import writing
from distill.fusion import Fusion, Shape, Standardiser
from distill.interface import INTERFACES

WEIGHTS, DESCRIPTION = "fused.safetensors", "teacher.json"


class FusedTeacher(Encoder):
    """Audio -> the fused layer stack of all upstreams, on the finest of their grids (arXiv 2511.08389).

    upstreams: frozen, by name. width: features of a fused frame, 0 for those of the widest upstream. The
    interface is fitted together with the fusion but is no part of the features.
    """

    def __init__(
        self,
        upstreams: Mapping[str, Encoder],
        combine: str,
        width: int,
        interface: str,
        seed: int,
        standardise: str = "channel",
    ):
        super().__init__()
        self.upstreams = nn.ModuleDict(upstreams)
        shapes = [Shape.of(encoder) for encoder in upstreams.values()]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.fusion = Fusion(shapes, combine, width or max(shape.width for shape in shapes), standardise)
            self.interface = INTERFACES[interface](self.fusion.layers, self.fusion.width)
        self.summarise = Standardiser(1, self.interface.width)
        self.grid, self.layers, self.width = self.fusion.grid, self.fusion.layers, self.fusion.width

    def frames(self, samples_B: Tensor) -> Tensor:
        """Valid frames of the upstream that owns the grid: (B,) -> (B,)."""
        return self.encoders()[self.fusion.owner].frames(samples_B)

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        return self.fusion([encoder(audio_BN, lengths_B) for encoder in self.encoders()])

    def summary(self, fused: Features) -> Features:
        """The interface's output for a fused stack, standardised, as a stack of one layer: (B, 1, T, D')."""
        output_B1TD = zero_padding(self.interface(fused.hidden)[:, None], fused.lengths)
        return self.summarise(replace(fused, hidden=output_B1TD))

    def encoders(self) -> list[Encoder]:
        """The upstreams in the order of the fusion."""
        return list(self.upstreams.values())  # pyright: ignore[reportReturnType]

    def widths(self) -> dict[str, int]:
        """Features of a frame, by upstream."""
        return {name: shape.width for name, shape in zip(self.upstreams, self.fusion.shapes, strict=True)}

    def save(self, folder: Path, heads: Mapping[str, Tensor]) -> None:
        """What fit found: fusion, interface and task heads, with a description; whole or not at all.

        The upstreams' own weights stay where they are.
        """
        unfinished = folder.with_name(f".{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        fitted = {f"fusion.{name}": weight for name, weight in self.fusion.state_dict().items()}
        fitted |= {f"interface.{name}": weight for name, weight in self.interface.state_dict().items()}
        fitted |= {f"summarise.{name}": weight for name, weight in self.summarise.state_dict().items()}
        tensors = fitted | {f"heads.{name}": weight for name, weight in heads.items()}
        with writing(folder):
            save_file({name: weight.contiguous().cpu() for name, weight in tensors.items()}, unfinished / WEIGHTS)
        (unfinished / DESCRIPTION).write_text(json.dumps(self.describe(), indent=1))
        unfinished.rename(folder)

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote."""
        tensors = load_file(folder / WEIGHTS)
        parts = (("fusion.", self.fusion), ("interface.", self.interface), ("summarise.", self.summarise))
        for part, module in parts:
            own = {name.removeprefix(part): weight for name, weight in tensors.items() if name.startswith(part)}
            module.load_state_dict(own)

    def describe(self) -> dict:
        """Sizes, grid and the calibrated scale of every layer of every upstream."""
        scales = zip(self.upstreams.items(), self.fusion.standardisers(), strict=True)
        return {
            "layers": self.layers,
            "width": self.width,
            "frames_per_second": self.grid.rate,
            "first_frame_centre_seconds": self.grid.first,
            "upstreams": {
                name: {
                    "parameters": parameters(encoder),
                    "mean_of_layers": standardise.mean.abs().mean(1).tolist(),
                    "deviation_of_layers": standardise.std.nan_to_num(posinf=0.0).median(1).values.tolist(),
                    "dead_channels": int(standardise.std.isinf().sum()),
                }
                for (name, encoder), standardise in scales
            },
        }


def saved_heads(folder: Path) -> dict[str, Tensor]:
    """The weights of the task heads that were fitted with a teacher, as `save` wrote them."""
    tensors = load_file(folder / WEIGHTS)
    return {name.removeprefix("heads."): weight for name, weight in tensors.items() if name.startswith("heads.")}


class Summary(Encoder):
    """A fused teacher's interface output, standardised, as an encoder of one layer."""

    def __init__(self, teacher: FusedTeacher):
        super().__init__()
        self.teacher, self.grid = teacher, teacher.grid
        self.layers, self.width = 1, teacher.interface.width

    def frames(self, samples_B: Tensor) -> Tensor:
        return self.teacher.frames(samples_B)

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        return self.teacher.summary(self.teacher(audio_BN, lengths_B))
