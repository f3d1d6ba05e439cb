"""Frozen: any Encoder made a teacher; and `once`, within which those that several encoders share listen once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from distill.features import Encoder, Features


class Frozen(Encoder):
    """An encoder that learns nothing and says the same thing, bit for bit, every time.

    No parameter requires a gradient, no pass records one, and it stays in eval mode whatever `train()` it
    or its parent is given. Its features are ordinary tensors: what is computed from them may be trained.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.grid, self.layers, self.width = encoder.grid, encoder.layers, encoder.width
        self._said: list[tuple[Tensor, Tensor, Features]] | None = None  # of every batch, while `once` lasts
        self.eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Eval mode for good: `mode` changes nothing."""
        return super().train(False)

    def frames(self, samples_B: Tensor) -> Tensor:
        """Valid frames of clips of so many samples: (B,) -> (B,)."""
        return self.encoder.frames(samples_B)

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        """The encoder's features, without a gradient."""
        for audio, lengths, features in self._said or ():
            if audio is audio_BN and lengths is lengths_B:
                return features
        with torch.no_grad():
            features = self.encoder(audio_BN, lengths_B)
        if self._said is not None:
            self._said.append((audio_BN, lengths_B, features))
        return features


def frozen_parts(encoder: nn.Module) -> set[Frozen]:
    """Every Frozen that an encoder listens through, itself among them where it is one."""
    return {one for one in encoder.modules() if isinstance(one, Frozen)}


@contextmanager
def once(encoders: Sequence[nn.Module]) -> Iterator[None]:
    """While this lasts, a Frozen that several of these encoders listen through hears the same tensors once for all.

    It keeps what it said until the end, and hands the same features to each: nobody may change them in place.
    """
    times = Counter(one for encoder in encoders for one in frozen_parts(encoder))
    shared = [one for one, number in times.items() if number > 1]
    for one in shared:
        one._said = []
    try:
        yield
    finally:
        for one in shared:
            one._said = None
