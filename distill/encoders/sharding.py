"""Encoders too large for one process: their weights are dealt to all of them, and every pass gathers them in parts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, distributed, nn

from distill.features import SAMPLE_RATE, Encoder, Features

Deal = Callable[[nn.Module], nn.Module]  # deals a module's weights out; what comes back is called in its place


class Pass(nn.Module):
    """An encoder's pass in tensors alone, under the autocast of its caller: DeepSpeed would switch that off."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, audio_BN: Tensor, lengths_B: Tensor, autocast: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        with torch.autocast(audio_BN.device.type, dtype, enabled=autocast):
            features = self.encoder(audio_BN, lengths_B)
        return features.hidden, features.lengths


class Sharded(Encoder):
    """A frozen encoder of which each process holds its share of the weights. It says what the whole one would say.

    No process can listen alone: all of them must call it equally often, or call it within `in_step`.
    digest: of the whole encoder (distill.identity), whose weights nobody holds from now on.
    """

    def __init__(self, encoder: Encoder, digest: str, deal: Deal):
        super().__init__()
        self.encoder, self.digest = encoder.requires_grad_(False).eval(), digest
        self.grid, self.layers, self.width = encoder.grid, encoder.layers, encoder.width
        self._engine = (deal(Pass(encoder)),)  # in a tuple, for it is no other part of this module
        self._pace: list[Sharded] = []  # all encoders that are called within `in_step`, this one among them

    def frames(self, samples_B: Tensor) -> Tensor:
        """Valid frames of clips of so many samples: (B,) -> (B,)."""
        return self.encoder.frames(samples_B)

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        """The encoder's features; waits for all processes."""
        if self._pace:
            wait_for_call(self._pace, self._pace.index(self) + 1, audio_BN.device)
        kind = audio_BN.device.type
        autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        hidden_BLTD, lengths_B = self._engine[0](audio_BN, lengths_B, *autocast)
        return Features(hidden_BLTD, lengths_B, self.grid)

    def hear_silence(self, device: torch.device) -> None:
        """Take part in a pass of other processes."""
        lengths_1 = torch.tensor([SAMPLE_RATE], device=device)
        with torch.no_grad():
            self._engine[0](torch.zeros(1, SAMPLE_RATE, device=device), lengths_1, False, torch.bfloat16)


@contextmanager
def in_step(device: torch.device, *encoders: nn.Module) -> Iterator[None]:
    """While this lasts, each process may let these encoders listen as often as it likes and in any order, or never.

    All processes must enter it with the same ones. While another one is called, or to the end, a process hears silence
    with the others. Nothing else may be exchanged between processes within. Without sharded encoders it does nothing.
    """
    parts = {id(one): one for encoder in encoders for one in encoder.modules() if isinstance(one, Sharded)}
    sharded = list(parts.values())
    for one in sharded:
        one._pace = sharded
    try:
        yield
        if sharded:
            wait_for_call(sharded, 0, device)
    finally:
        for one in sharded:
            one._pace = []


def wait_for_call(sharded: Sequence[Sharded], turn: int, device: torch.device) -> None:
    """Hear silence with the others until it is the turn of the encoder of that number, or for 0 until all are done."""
    while (called := first_called(turn, device)) != turn:
        sharded[called - 1].hear_silence(device)


def first_called(turn: int, device: torch.device) -> int:
    """Tell all processes which encoder this one calls next, 0 for none any more; the first that any of them calls."""
    mine = torch.tensor([turn], device=device)
    told = [torch.zeros_like(mine) for _ in range(distributed.get_world_size())]
    distributed.all_gather(told, mine)
    return min(set(torch.cat(told).tolist()) - {0}, default=0)


def whole(module: nn.Module):
    """While this lasts, every process holds all weights of a module, as `with whole(layer): layer.state_dict()`."""
    dealt = [weight for weight in module.parameters() if "ds_id" in vars(weight)]
    if not dealt:
        return nullcontext()
    import deepspeed  # here, so that `runtime.quiet` can come before what it says when it is imported

    return deepspeed.zero.GatheredParameters(dealt)


def held(module: nn.Module) -> int:
    """Bytes of a module's weights and buffers that lie in this process."""
    dealt = [vars(weight).get("ds_tensor", weight) for weight in module.parameters()]
    return sum(one.untyped_storage().nbytes() for one in (*dealt, *module.buffers()))
