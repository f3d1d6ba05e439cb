"""Upstreams and students on fake tensors, to be counted and not to be heard."""

from typing import cast

import torch
from torch import Tensor, nn, randn
from transformers import PreTrainedModel

from distill.encoders.frozen import Frozen
from distill.encoders.waveform import ClipNorm, Waveform, stacked_positions
from distill.features import SAMPLE_RATE, Encoder
from distill.planning import Listener
from teachers.seamless import Adapted


def listener(name: str, encoder: Encoder, dtype: torch.dtype) -> Listener:
    """The stock model inside an encoder, in so fine a type; call it in FakeTensorMode."""
    inside = encoder.encoder if isinstance(encoder, Frozen) else encoder
    inside = inside.conformer if isinstance(inside, Adapted) else inside
    model = cast(PreTrainedModel, inside.get_submodule("model"))
    if isinstance(inside, Waveform):
        unclip(inside)

    convert(model, dtype)

    def inputs(clips: int, seconds: float) -> dict[str, Tensor]:
        samples = round(seconds * SAMPLE_RATE)
        settings = model.config.to_dict()
        if model.main_input_name == "input_values":
            return {"input_values": randn(clips, samples, dtype=dtype)}
        if settings["model_type"] == "whisper":  # a whole window, however short the clip
            window = 2 * settings["max_source_positions"]
            return {"input_features": randn(clips, settings["num_mel_bins"], window, dtype=dtype)}
        frames = round(seconds * inside.grid.rate)
        return {"input_features": randn(clips, frames, settings["feature_projection_input_dim"], dtype=dtype)}

    return Listener(name, model, inputs, encoder.layers, encoder.width, encoder.grid.rate)


def unclip(encoder: Waveform) -> None:
    """Put back what the stock model has: fake clips have no lengths, and it costs the same."""
    first = encoder.model.feature_extractor.conv_layers[0]
    if isinstance(first.layer_norm, ClipNorm):
        first.layer_norm = nn.GroupNorm(first.layer_norm.groups, len(first.layer_norm.weight))
    for layer in stacked_positions(encoder.model):
        layer.padding = layer.get_submodule("padding.trim")


def convert(model: nn.Module, dtype: torch.dtype) -> None:
    """What `model.to(dtype)` would do if fake weights could be swapped in place."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(weight.detach().to(dtype), requires_grad=weight.requires_grad))
