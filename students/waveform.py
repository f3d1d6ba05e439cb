"""Thin stock students that hear raw audio, random or started from an upstream's layers."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import HubertConfig, HubertModel, PretrainedConfig, WavLMConfig, WavLMModel

from distill.encoders.frozen import Frozen
from distill.encoders.sharding import Sharded, whole
from distill.encoders.waveform import StockModel, Waveform
from distill.features import Encoder
from distill.harder import Masking
from distill.recipe import Student

FRONT_END = ("conv_dim", "conv_kernel", "conv_stride", "conv_bias", "feat_extract_norm", "feat_extract_activation")
ARCHITECTURES = {"hubert": (HubertConfig, HubertModel), "wavlm": (WavLMConfig, WavLMModel)}
SHAPE = (  # settings in which a student and the upstream it starts from must agree
    "model_type",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "conv_dim",
    "conv_kernel",
    "conv_stride",
    "conv_bias",
    "feat_extract_norm",
    "feat_extract_activation",
    "feat_proj_layer_norm",
    "do_stable_layer_norm",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
    "num_buckets",
    "max_bucket_distance",
)


def build_student(
    *,
    architecture: str,
    layers: int,
    width: int,
    heads: int,
    feedforward: int,
    conv_channels: int,
    conv_kernel: Sequence[int],
    conv_stride: Sequence[int],
    positions: int,
    position_groups: int,
    dropout: float,
    seed: int,
    feat_extract_norm: str = "layer",
    do_stable_layer_norm: bool = False,
    masking: Masking | None = None,
) -> Waveform:
    """A random student in train mode; a seed gives the same weights and leaves torch's generator alone.

    `positions` frames are spanned by the positional convolution. With layer norm in the front end a padded
    batch means the same in plain transformers too; with group norm only here. Raises ValueError for an unknown
    architecture or sizes that do not divide.
    """
    demand_sizes(architecture, width, heads, position_groups, conv_kernel, conv_stride)
    config_class, model_class = ARCHITECTURES[architecture]
    config = config_class(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=feedforward,
        conv_dim=[conv_channels] * len(conv_kernel),
        conv_kernel=list(conv_kernel),
        conv_stride=list(conv_stride),
        num_feat_extract_layers=len(conv_kernel),
        feat_extract_norm=feat_extract_norm,
        do_stable_layer_norm=do_stable_layer_norm,
        num_conv_pos_embeddings=positions,
        num_conv_pos_embedding_groups=position_groups,
        hidden_dropout=dropout,
        attention_dropout=dropout,
        activation_dropout=dropout,
        feat_proj_dropout=dropout,
        layerdrop=0.0,
        apply_spec_augment=masking is not None,
        mask_time_prob=0.05 if masking else 0.0,  # at zero there is no mask embedding that no gradient would reach
        mask_feature_prob=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Waveform(model_class(config), normalize=True, masking=masking).train()


def demand_sizes(
    architecture: str,
    width: int,
    heads: int,
    position_groups: int,
    conv_kernel: Sequence[int],
    conv_stride: Sequence[int],
) -> None:
    """ValueError for what no student can be built of."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown student architecture {architecture!r}, known are {', '.join(ARCHITECTURES)}")
    for name, parts in (("heads", heads), ("position_groups", position_groups)):
        if width % parts:
            raise ValueError(f"width={width} must be a multiple of {name}={parts}")
    if len(conv_kernel) != len(conv_stride):
        raise ValueError(
            f"conv_kernel has {len(conv_kernel)} layers and conv_stride {len(conv_stride)}; "
            f"give one of each for every layer"
        )


def initialise(student: Waveform, upstream: StockModel, layers: Sequence[int]) -> None:
    """Copy an upstream's front end, projection, positions and the named transformer layers into the student.

    `upstream` is the stock model inside its encoder; `layers` counts its transformer layers from 0, one for
    each of the student's. Raises ValueError that names what differs.
    """
    model = student.model
    demand_same_shape(model.config, upstream.config)
    demand_layers(layers, model.config.num_hidden_layers, upstream.config.num_hidden_layers)
    copy(upstream.feature_extractor, model.feature_extractor)
    copy(upstream.feature_projection, model.feature_projection)
    copy(upstream.encoder.pos_conv_embed, model.encoder.pos_conv_embed)
    copy(upstream.encoder.layer_norm, model.encoder.layer_norm)
    first = relative_positions(upstream.encoder.layers[0])
    for index, (chosen, layer) in enumerate(zip(layers, model.encoder.layers, strict=True)):
        source = upstream.encoder.layers[chosen]
        table = relative_positions(source)
        with whole(source):
            own = {name: value for name, value in source.state_dict().items() if name not in table}
            layer.load_state_dict(own | first if index == 0 else own)


def copy(source: nn.Module, target: nn.Module) -> None:
    """The same weights in another module of the same shape."""
    with whole(source):
        target.load_state_dict(source.state_dict())


def relative_positions(layer: nn.Module) -> dict[str, torch.Tensor]:
    """WavLM's table of relative positions: its first layer holds it for all of them."""
    with whole(layer):
        return {name: value.clone() for name, value in layer.state_dict().items() if "rel_attn_embed" in name}


def demand_same_shape(student: PretrainedConfig, upstream: PretrainedConfig, names: Sequence[str] = SHAPE) -> None:
    """ValueError that names every setting in which the two differ."""
    ours, theirs = student.to_dict(), upstream.to_dict()
    differ = [
        f"{name} {plain(theirs.get(name))}, the student {plain(ours.get(name))}"
        for name in names
        if plain(theirs.get(name)) != plain(ours.get(name))
    ]
    if differ:
        raise ValueError(
            "the student cannot start from this upstream, they differ: the upstream has " + "; ".join(differ) + ". "
            "Give the student the upstream's sizes, or let it start at random: student.front_end= student.initialise="
        )


def plain(value: object) -> object:
    """Lists for tuples, which a configuration read from a file does not have."""
    return list(value) if isinstance(value, tuple) else value


def demand_layers(chosen: Sequence[int], ours: int, theirs: int) -> None:
    """ValueError unless there is an existing upstream layer for each of the student's."""
    if len(chosen) != ours or not all(0 <= index < theirs for index in chosen):
        raise ValueError(
            f"the student has {ours} layers and the upstream layers 0 to {theirs - 1}, got {list(chosen)}; "
            f"name one upstream layer for each of the student's"
        )


def make_student(settings: Student, seed: int, masking: Masking | None = None) -> Waveform:
    """The random student of a recipe; masking: of what it hears while it learns."""
    return build_student(
        architecture=settings.architecture,
        layers=settings.layers,
        width=settings.width,
        heads=settings.heads,
        feedforward=settings.feedforward,
        conv_channels=settings.conv_channels,
        conv_kernel=settings.conv_kernel,
        conv_stride=settings.conv_stride,
        positions=settings.positions,
        position_groups=settings.position_groups,
        dropout=settings.dropout,
        seed=seed,
        feat_extract_norm=settings.feat_extract_norm,
        do_stable_layer_norm=settings.do_stable_layer_norm,
        masking=masking,
    )


def start(student: Waveform, settings: Student, upstreams: Mapping[str, Encoder]) -> None:
    """Let the student begin with an upstream's front end, or layers too, where the recipe wants that.

    `upstreams` by name. Raises ValueError for one that does not hear raw audio or is of another shape.
    """
    if settings.front_end == "first":
        hearing = [name for name, upstream in upstreams.items() if isinstance(unfrozen(upstream), Waveform)]
        source = hearing[0] if hearing else ""
    else:
        source = settings.front_end
    if source:
        front_end = waveform(source, upstreams[source]).model
        demand_same_shape(student.model.config, front_end.config, FRONT_END)
        copy(front_end.feature_extractor, student.model.feature_extractor)
    if settings.initialise:
        encoder = waveform(settings.initialise, upstreams[settings.initialise])
        ours, theirs = student.layers - 1, encoder.layers - 1
        spaced = [(index + 1) * theirs // ours - 1 for index in range(ours)]
        initialise(student, encoder.model, settings.initial_layers or spaced)


def unfrozen(upstream: Encoder) -> Encoder:
    """The encoder that learned, under those that keep it from learning more and share it out."""
    inside = upstream.encoder if isinstance(upstream, Frozen) else upstream
    return inside.encoder if isinstance(inside, Sharded) else inside


def waveform(name: str, upstream: Encoder) -> Waveform:
    """ValueError unless the upstream hears raw audio, as the student does."""
    encoder = unfrozen(upstream)
    if not isinstance(encoder, Waveform):
        raise ValueError(f"a student cannot start from {name}, which does not hear raw audio; name another upstream")
    return encoder
