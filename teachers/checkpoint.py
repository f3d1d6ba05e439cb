"""Opening a checkpoint, folder and Hub by the same code, or saying at once why it cannot be opened."""

import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar, cast

import torch
from huggingface_hub import constants, get_session
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers.feature_extraction_utils import FeatureExtractionMixin

from teachers.published import published_config

PATIENCE = 5  # seconds to find out whether the Hub answers; its client would retry each file for 23
RANDOM = "random:"  # before a name: its architecture, none of its weights
UNUSED = {"masked_spec_embed"}  # weights that only masking in training needs

Model = TypeVar("Model", bound=PreTrainedModel)
Extractor = TypeVar("Extractor", bound=FeatureExtractionMixin)


class CheckpointError(ValueError):
    """A checkpoint that cannot be found, read or used."""


def open_checkpoint(
    name: str,
    model_class: type[Model],
    extractor_class: type[Extractor],
    dtype: torch.dtype,
    renamed: Mapping[str, str] | None = None,
) -> tuple[Model, Extractor]:
    """The model with weights of a dtype, and its feature extractor; `name` is a folder or a repository on the Hub.

    renamed: what to replace in the names of weights, for a model that is part of the one saved: pattern -> text.
    Attention is PyTorch's scaled_dot_product_attention where the architecture has it, as transformers chooses.

    safetensors where there is one. Older checkpoints on the Hub (microsoft/wavlm-base-plus among them) are
    only a .bin: those go through torch.load(weights_only=True), which reads tensors and runs no code. Never
    remote code. Raises CheckpointError.
    """
    if name.startswith(RANDOM):
        return untrained(shipped(name.removeprefix(RANDOM)), model_class, extractor_class, dtype)
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # else a .bin makes transformers call a bot on the Hub
    name = shipped(name)
    local = is_folder(name) or not hub_answers()
    config_class = model_class.config_class
    assert config_class is not None  # of a concrete class
    try:
        settings, _ = config_class.get_config_dict(name, local_files_only=local)
        demand_type(name, settings, config_class.model_type)
        extractor = extractor_class.from_pretrained(name, local_files_only=local)
        opened = model_class.from_pretrained(
            name,
            dtype=dtype,
            key_mapping=dict(renamed) if renamed else None,
            weights_only=True,
            trust_remote_code=False,
            local_files_only=local,
            output_loading_info=True,
        )
    except CheckpointError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(explain(name, error, offline=local)) from error
    model, report = cast(tuple[Model, dict], opened)
    demand_weights(name, set(report["missing_keys"]) - UNUSED)
    return model, extractor


def untrained(
    name: str, model_class: type[Model], extractor_class: type[Extractor], dtype: torch.dtype
) -> tuple[Model, Extractor]:
    """The architecture of a folder or a published checkpoint with random weights, always the same; for rehearsals."""
    config_class = model_class.config_class
    assert config_class is not None  # of a concrete class
    if is_folder(name):
        try:
            config = config_class.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise CheckpointError(explain(name, error, offline=True)) from error
        demand_type(name, config.to_dict(), config_class.model_type)
    else:
        config = published_config(name, config_class)
    mels = config.to_dict().get("num_mel_bins")
    extractor = extractor_class(feature_size=mels) if mels else extractor_class()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).eval()
    if dtype != torch.float32:  # which fake tensors could not become
        nn.Module.to(model, dtype)
    return model, extractor


def shipped(name: str) -> str:
    """The folder of a checkpoint shipped beside this module, wherever the command runs; other names as they are."""
    top, _, rest = name.partition("/mini/")
    return str(Path(__file__).parent / "mini" / rest) if top == "teachers" and rest else name


def keep_layers(name: str, layers: nn.ModuleList, depth: int) -> nn.ModuleList:
    """The first `depth` of a checkpoint's layers, all for 0; CheckpointError where it has not so many."""
    if depth > len(layers):
        raise CheckpointError(f"{name} has {len(layers)} transformer layers, teacher.depth asks for {depth} of them")
    return layers[:depth] if depth else layers


def demand_settings(name: str, extractor: FeatureExtractionMixin, wanted: Mapping[str, object]) -> None:
    """CheckpointError unless the feature extractor hears as this code does."""
    settings = extractor.to_dict()
    for key, value in wanted.items():
        if settings[key] != value:
            raise CheckpointError(
                f"{name}: preprocessor_config.json says {key}={settings[key]}, the log-mel here has {value}; "
                f"use a checkpoint with its family's own log-mel"
            )


def is_folder(name: str) -> bool:
    """Whether a name means a folder, there or not: the Hub's are `owner/name`."""
    return Path(name).is_dir() or name.startswith((".", "~", "/")) or name.count("/") > 1


def hub_answers() -> bool:
    """Whether the Hub can be reached now; False too where HF_HUB_OFFLINE forbids to try."""
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # the client's library and its exceptions depend on the version of huggingface_hub
        return False
    return True


def demand_type(name: str, settings: dict, model_type: str) -> None:
    """CheckpointError if a config.json is of another kind of model, OSError if it says nothing."""
    if "model_type" not in settings:
        raise OSError("there is no config.json in it, or none that names a model_type")
    if settings.get("model_type") != model_type:
        raise CheckpointError(
            f"{name} holds a model of type {settings.get('model_type')!r}, wanted {model_type!r}; "
            f"name a {model_type} checkpoint"
        )


def demand_weights(name: str, missing: set[str]) -> None:
    """CheckpointError if weights are missing: transformers would make them up at random."""
    if missing:
        some = ", ".join(sorted(missing)[:3])
        raise CheckpointError(
            f"{name} lacks {len(missing)} of the model's weights ({some}, ...); download or save it again"
        )


def explain(name: str, error: Exception, *, offline: bool) -> str:
    """What could not be opened, why, and what to do instead."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if is_folder(name):
        reason = reason if Path(name).is_dir() else "there is no such folder"
        return (
            f"cannot open the checkpoint in the folder {name}: {reason}\n"
            f"such a folder holds config.json, model.safetensors and preprocessor_config.json as "
            f"save_pretrained writes them; scale=mini uses the checkpoints shipped with FuseDistill"
        )
    if offline:
        reason = f"{constants.ENDPOINT} cannot be reached (HF_HUB_OFFLINE={int(constants.HF_HUB_OFFLINE)})"
    return (
        f"cannot open the checkpoint {name}: {reason}\n"
        f"it is neither a folder nor whole in the cache {constants.HF_HUB_CACHE}\n"
        f"connect once to download it, or use scale=mini, whose checkpoints are shipped and need no network"
    )
