"""Waveform: the Encoder around a stock transformers model that hears raw audio (WavLM, HuBERT, data2vec, ...)."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    Data2VecAudioModel,
    HubertModel,
    PretrainedConfig,
    UniSpeechSatModel,
    Wav2Vec2Model,
    WavLMModel,
)

from distill.features import SAMPLE_RATE, Encoder, Features, Grid, demand_frames, frame_mask, zero_padding
from distill.harder import Masking

StockModel = HubertModel | WavLMModel | Wav2Vec2Model | UniSpeechSatModel | Data2VecAudioModel


def front_end_grid(kernels: Sequence[int], strides: Sequence[int]) -> Grid:
    """Where stacked convolutions without padding put their frames: each in the middle of what it sees."""
    field, hop = 1, 1  # samples
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return Grid(SAMPLE_RATE / hop, field / 2 / SAMPLE_RATE)


def front_end_frames(samples_B: Tensor, kernels: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Frames stacked convolutions without padding give for so many samples: (B,) -> (B,)."""
    frames_B = samples_B
    for kernel, stride in zip(kernels, strides, strict=True):
        frames_B = ((frames_B - kernel).div(stride, rounding_mode="floor") + 1).clamp(min=0)
    return frames_B


def standardise_clips(audio_BN: Tensor, lengths_B: Tensor) -> Tensor:
    """Each clip at zero mean and unit variance over its own samples, as Wav2Vec2FeatureExtractor makes it."""
    mask_BN = frame_mask(lengths_B, audio_BN.shape[1])
    count_B1 = lengths_B[:, None]
    mean_B1 = audio_BN.masked_fill(~mask_BN, 0.0).sum(1, keepdim=True) / count_B1
    centred_BN = (audio_BN - mean_B1).masked_fill(~mask_BN, 0.0)
    variance_B1 = centred_BN.square().sum(1, keepdim=True) / count_B1
    return centred_BN / (variance_B1 + 1e-7).sqrt()


class ClipNorm(nn.Module):
    """The front end's group norm, its statistics taken over each clip's own frames.

    Holds the weight and bias of the norm it stands in for under the same names: the model saves as stock.
    """

    def __init__(self, norm: nn.GroupNorm):
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias
        self.frames: list[int] = []  # of each clip, set before every pass: transformers hands its norms no lengths

    def forward(self, hidden_BDT: Tensor) -> Tensor:
        # Joined once: writing each clip into one tensor makes the backward pass quadratic in the number of clips.
        total = hidden_BDT.shape[2]
        return torch.cat(
            [self._norm(own, count, total) for own, count in zip(hidden_BDT.split(1), self.frames, strict=True)]
        )

    def _norm(self, own_1DT: Tensor, frames: int, total: int) -> Tensor:
        normed_1DT = F.group_norm(own_1DT[:, :, :frames], self.groups, self.weight, self.bias, self.eps)
        return F.pad(normed_1DT, (0, total - frames))


class ClipEnd(nn.Module):
    """Zeros after each clip's own frames, for a convolution that comes after another one.

    data2vec stacks its positional convolutions; each must find the zeros that it finds after a clip alone.
    """

    def __init__(self, trim: nn.Module):
        super().__init__()
        self.trim = trim  # what stood here: drops the frame too many that an even kernel gives; holds no weights
        self.frames_B = torch.zeros(0, dtype=torch.int64)  # of each clip, set before every pass

    def forward(self, hidden_BDT: Tensor) -> Tensor:
        trimmed_BDT = self.trim(hidden_BDT)
        mask_BT = frame_mask(self.frames_B, trimmed_BDT.shape[2])
        return trimmed_BDT.masked_fill(~mask_BT[:, None], 0.0)


class Waveform(Encoder):
    """A stock model that hears raw audio; its stack is the embedding output and every transformer layer.

    `normalize` is `do_normalize` of the checkpoint's feature extractor. Takes over `model`: the group norm
    in its front end, where it has one, becomes a ClipNorm, and data2vec's positional convolutions get ClipEnds.
    masking: of frames in training, for which the model must have a mask embedding and apply_spec_augment.
    """

    def __init__(self, model: StockModel, *, normalize: bool, masking: Masking | None = None):
        super().__init__()
        demand_known(model.config)
        self.model = model
        self.normalize, self.masking = normalize, masking
        self.grid = front_end_grid(model.config.conv_kernel, model.config.conv_stride)
        self.layers = model.config.num_hidden_layers + 1
        self.width = model.config.hidden_size
        # else, for the sake of gradient checkpointing, transformers computes a gradient for the audio itself
        model.feature_extractor._requires_grad = False
        first = model.feature_extractor.conv_layers[0]
        if isinstance(first.layer_norm, nn.GroupNorm):
            first.layer_norm = ClipNorm(first.layer_norm)
        self._ends = [ClipEnd(layer.get_submodule("padding")) for layer in stacked_positions(model)]
        for layer, end in zip(stacked_positions(model), self._ends, strict=True):
            layer.register_module("padding", end)
        self.train(model.training)

    def frames(self, samples_B: Tensor) -> Tensor:
        """Valid frames of clips of so many samples: (B,) -> (B,)."""
        return front_end_frames(samples_B, self.model.config.conv_kernel, self.model.config.conv_stride)

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        """Features of the stock model for each clip alone; ValueError for a clip too short for one frame."""
        if self.training:
            demand_whole_stack(self.model.config, masked=self.masking is not None)
        frames_B = demand_frames(self, lengths_B)
        masked_BT = self._masked(audio_BN, frames_B)
        self._tell(lengths_B, frames_B)
        mask_BN = frame_mask(lengths_B, audio_BN.shape[1])
        values_BN = standardise_clips(audio_BN, lengths_B) if self.normalize else audio_BN.masked_fill(~mask_BN, 0.0)
        with warnings.catch_warnings():  # WavLM's attention joins a boolean mask with a float bias, rightly
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask and attn_mask")
            output = self.model(
                values_BN.to(self.model.dtype),
                attention_mask=mask_BN.long(),
                mask_time_indices=masked_BT,
                output_hidden_states=True,
            )
        hidden_BLTD = torch.stack(output.hidden_states, dim=1).float()
        return Features(zero_padding(hidden_BLTD, frames_B), frames_B, self.grid)

    def _masked(self, audio_BN: Tensor, frames_B: Tensor) -> Tensor | None:
        """Frames that are masked in this pass: (B, T), where it is trained so."""
        if self.masking is None or not self.training:
            return None
        return self.masking.draw(frames_B, int(self.frames(torch.tensor(audio_BN.shape[1]))))

    def _tell(self, lengths_B: Tensor, frames_B: Tensor) -> None:
        """Let the modules that transformers hands no lengths know where each clip ends."""
        norm, config = self.model.feature_extractor.conv_layers[0].layer_norm, self.model.config
        if isinstance(norm, ClipNorm):
            first_B = front_end_frames(lengths_B, config.conv_kernel[:1], config.conv_stride[:1])
            norm.frames = first_B.tolist()
        for end in self._ends:
            end.frames_B = frames_B


def stacked_positions(model: StockModel) -> list[nn.Module]:
    """The positional convolutions of a model that has one upon another; none where it has a single one."""
    return list(model.encoder.pos_conv_embed.layers) if isinstance(model, Data2VecAudioModel) else []


def demand_known(config: PretrainedConfig) -> None:
    """ValueError for the variants of these models whose padding Waveform cannot keep from mattering."""
    settings = config.to_dict()
    for name in ("conv_pos_batch_norm", "add_adapter"):
        if settings.get(name):
            raise ValueError(
                f"{config.model_type} with {name}=True is not supported: it mixes clips with their padding; "
                f"use a checkpoint without it"
            )


def demand_whole_stack(config: PretrainedConfig, *, masked: bool) -> None:
    """ValueError where training would drop layers or mask frames behind the caller's back; masked: at his wish."""
    drawn = config.mask_time_prob > 0 and not masked
    masks = config.apply_spec_augment and (drawn or config.mask_feature_prob > 0)
    if config.layerdrop > 0 or masks:
        raise ValueError(
            f"Waveform trains with every layer and every frame, got layerdrop={config.layerdrop}, "
            f"mask_time_prob={config.mask_time_prob}, mask_feature_prob={config.mask_feature_prob}; "
            f"set layerdrop=0.0 and apply_spec_augment=False in the model's config"
        )
