"""Upstreams that are conformers over a filter bank: w2v-BERT 2.0 and the speech encoder of SeamlessM4T v2."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertModel
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2SpeechEncoder

from distill.family import Family, Options
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
def recording(layers: nn.ModuleList) -> Iterator[list[Tensor]]:
    """What each layer gives while this lasts, in their order."""
    given: list[Tensor] = []
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


class Adapted(Encoder):
    """SeamlessM4T's speech encoder to its end: one layer at 6.25 frames per second, what its decoder attends to."""

    def __init__(self, model: SeamlessM4Tv2SpeechEncoder):
        super().__init__()
        if model.adapter is None:
            raise ValueError("this SeamlessM4T has no adaptor; use teacher.seamless_states=conformer")
        self.conformer, self.adapter = Conformer(model), model.adapter
        self.grid = self.conformer.grid
        for layer in self.adapter.layers:
            middle = (layer.kernel_size - 1) / 2 - layer.stride // 2  # of frame 0's window, in frames before it
            first = self.grid.first + middle / self.grid.rate
            self.grid = Grid(self.grid.rate / layer.stride, first)
        self.layers, self.width = 1, self.conformer.width
        self.train(model.training)

    def frames(self, samples_B: Tensor) -> Tensor:
        """Frames after the adaptor, whose convolutions pad: (B,) -> (B,)."""
        frames_B = self.conformer.frames(samples_B)
        some_B = frames_B > 0
        for layer in self.adapter.layers:
            frames_B = (frames_B + 2 * (layer.stride // 2) - layer.kernel_size) // layer.stride + 1
        return frames_B * some_B

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        """The stock model's last hidden state for each clip alone: (B, 1, T, D)."""
        frames_B = demand_frames(self, lengths_B)
        before = self.conformer(audio_BN, lengths_B)
        own = [last_TD[:count] for last_TD, count in zip(before.hidden[:, -1], before.lengths.tolist(), strict=True)]
        # Clip by clip: the adaptor's convolutions would hear the padding, and it is one layer of 25.
        adapted = [self._adapt(last_TD[None])[0] for last_TD in own]
        hidden_BTD = torch.nn.utils.rnn.pad_sequence(adapted, batch_first=True)
        return Features(hidden_BTD[:, None].float(), frames_B, self.grid)

    def _adapt(self, last_1TD: Tensor) -> Tensor:
        model = self.conformer.model
        hidden_1TD = last_1TD.to(model.dtype)
        hidden_1TD = hidden_1TD + 0.5 * model.intermediate_ffn(hidden_1TD)
        return model.inner_layer_norm(self.adapter(hidden_1TD, attention_mask=None))


def load_w2v_bert(checkpoint: str, options: Options) -> Conformer:
    """w2v-BERT 2.0: contrastive and masked prediction in 143 languages (arXiv 2312.05187)."""
    model, extractor = open_checkpoint(checkpoint, Wav2Vec2BertModel, SeamlessM4TFeatureExtractor, options.dtype)
    demand_settings(checkpoint, extractor, EXTRACTOR)
    model.encoder.layers = keep_layers(checkpoint, model.encoder.layers, options.depth)
    return Conformer(model)


def load_seamless(checkpoint: str, options: Options) -> Conformer | Adapted:
    """The speech encoder of SeamlessM4T v2, w2v-BERT 2.0 trained on to translate (arXiv 2312.05187).

    Of a whole SeamlessM4T only the speech encoder is read.
    """
    model, extractor = open_checkpoint(
        checkpoint,
        SeamlessM4Tv2SpeechEncoder,
        SeamlessM4TFeatureExtractor,
        options.dtype,
        renamed={r"^speech_encoder\.": ""},
    )
    demand_settings(checkpoint, extractor, EXTRACTOR)
    if options.seamless_states == "adaptor":
        if options.depth:
            raise ValueError("the adaptor comes after the last layer; leave teacher.depth out, or the adaptor")
        return Adapted(model)
    kept = keep_layers(checkpoint, model.encoder.layers, options.depth)
    if len(kept) < len(model.encoder.layers):
        model.encoder.layers, model.encoder.layer_norm = kept, nn.Identity()  # the norm is the last layer's
    return Conformer(model)


FAMILIES = {  # one size is published of each: `base` and `large` both mean it
    "seamless": Family(load_seamless, dict.fromkeys(("base", "large"), "facebook/seamless-m4t-v2-large")),
    "w2v-bert": Family(load_w2v_bert, dict.fromkeys(("base", "large"), "facebook/w2v-bert-2.0")),
}
