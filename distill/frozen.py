"""Frozen: any Encoder made a teacher."""

import torch
from torch import Tensor

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
        self.eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Eval mode for good: `mode` changes nothing."""
        return super().train(False)

    def frames(self, samples_B: Tensor) -> Tensor:
        """Valid frames of clips of so many samples: (B,) -> (B,)."""
        return self.encoder.frames(samples_B)

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        """The encoder's features, without a gradient."""
        with torch.no_grad():
            return self.encoder(audio_BN, lengths_B)
