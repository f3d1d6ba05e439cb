"""The speech encoder of SeamlessM4T v2: a conformer, and the adaptor that makes it slow for its decoder."""

import torch
from torch import Tensor, nn
from transformers import SeamlessM4TFeatureExtractor
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2SpeechEncoder

from distill.encoders.family import Family, Options
from distill.features import Encoder, Features, Grid, demand_frames
from teachers.checkpoint import demand_settings, keep_layers, open_checkpoint
from teachers.conformer import EXTRACTOR, Conformer


class Adapted(Encoder):
    """SeamlessM4T's speech encoder to its end: one layer at 6.25 frames per second, what its decoder attends to."""

    def __init__(self, model: SeamlessM4Tv2SpeechEncoder):
        super().__init__()
        if model.adapter is None:
            raise ValueError("this SeamlessM4T has no adaptor; use teacher.seamless_states=conformer")
        self.model, self.conformer, self.adapter = model, Conformer(model), model.adapter
        config, self.grid = model.config, self.conformer.grid
        self.steps = [(config.adaptor_kernel_size, config.adaptor_stride)] * config.num_adapter_layers
        for kernel, stride in self.steps:
            middle = (kernel - 1) / 2 - stride // 2  # of frame 0's window, in frames before this convolution
            self.grid = Grid(self.grid.rate / stride, self.grid.first + middle / self.grid.rate)
        self.layers, self.width = 1, self.conformer.width
        self.train(model.training)

    def frames(self, samples_B: Tensor) -> Tensor:
        """Frames after the adaptor, whose convolutions pad: (B,) -> (B,)."""
        frames_B = self.conformer.frames(samples_B)
        some_B = frames_B > 0
        for kernel, stride in self.steps:
            frames_B = (frames_B + 2 * (stride // 2) - kernel) // stride + 1
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
        hidden_1TD = last_1TD.to(self.model.dtype)
        hidden_1TD = hidden_1TD + 0.5 * self.model.intermediate_ffn(hidden_1TD)
        return self.model.inner_layer_norm(self.adapter(hidden_1TD, attention_mask=None))


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
        model.encoder.layers = kept
        model.encoder.register_module("layer_norm", nn.Identity())  # it is the last layer's
    return Conformer(model)


FAMILIES = {  # one size is published: `base` and `large` both mean it
    "seamless": Family(load_seamless, dict.fromkeys(("base", "large"), "facebook/seamless-m4t-v2-large")),
}
