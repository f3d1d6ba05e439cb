"""Conformers over a filter bank: w2v-BERT 2.0, and the anatomy that SeamlessM4T v2 has in common with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertModel
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2SpeechEncoder

from distill.encoders.family import Family, Options
from distill.features import SAMPLE_RATE, Encoder, Features, Grid, demand_frames, frame_mask, zero_padding
from teachers import fbank
from teachers.checkpoint import demand_settings, keep_layers, open_checkpoint

EXTRACTOR = {
    "sampling_rate": SAMPLE_RATE,
    "feature_size": fbank.CHANNELS,
    "num_mel_bins": fbank.CHANNELS,
    "stride": fbank.STACK,
}


@contextmanager
def recording(layers: nn.ModuleList) -> Iterator[list[Any]]:
    """What each layer gives while this lasts, in their order: tensors."""
    given: list[Any] = []
    hooks = [layer.register_forward_hook(lambda _, __, output: given.append(output)) for layer in layers]
    try:
        yield given
    finally:
        for hook in hooks:
            hook.remove()


class Conformer(Encoder):
    """A stock conformer; its stack is the projected filter bank and every layer, at 50 frames per second.

    Frame t sees samples 320 t to 320 t + 560. SeamlessM4T's last layer comes normed, as what follows hears it.
    """

    def __init__(self, model: Wav2Vec2BertModel | SeamlessM4Tv2SpeechEncoder):
        super().__init__()
        self.model = model
        self.grid = Grid(SAMPLE_RATE / (fbank.STACK * fbank.HOP), fbank.SPAN / 2 / SAMPLE_RATE)
        self.layers = len(model.encoder.layers) + 1
        self.width = model.config.hidden_size
        self.train(model.training)

    def frames(self, samples_B: Tensor) -> Tensor:
        """Frames that lie wholly inside clips of so many samples: (B,) -> (B,)."""
        return fbank.frames(samples_B)

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        """Features of the stock model for each clip alone."""
        frames_B = demand_frames(self, lengths_B)
        values_BTM = fbank.stacked_fbank(audio_BN, lengths_B).to(self.model.dtype)
        mask_BT = frame_mask(frames_B, values_BTM.shape[1])
        projected = self.model.feature_projection(values_BTM)
        hidden_BTD = projected[0] if isinstance(projected, tuple) else projected  # w2v-BERT's gives the input too
        with recording(self.model.encoder.layers) as states:
            output = self.model.encoder(hidden_BTD, attention_mask=mask_BT.long())
        last_BTD = output if isinstance(output, Tensor) else output.last_hidden_state
        hidden_BLTD = torch.stack([hidden_BTD, *states[:-1], last_BTD], dim=1).float()
        return Features(zero_padding(hidden_BLTD, frames_B), frames_B, self.grid)


def load_w2v_bert(checkpoint: str, options: Options) -> Conformer:
    """w2v-BERT 2.0: contrastive and masked prediction in 143 languages (arXiv 2312.05187)."""
    model, extractor = open_checkpoint(checkpoint, Wav2Vec2BertModel, SeamlessM4TFeatureExtractor, options.dtype)
    demand_settings(checkpoint, extractor, EXTRACTOR)
    model.encoder.layers = keep_layers(checkpoint, model.encoder.layers, options.depth)
    return Conformer(model)


FAMILIES = {  # one size is published: `base` and `large` both mean it
    "w2v-bert": Family(load_w2v_bert, dict.fromkeys(("base", "large"), "facebook/w2v-bert-2.0")),
}
