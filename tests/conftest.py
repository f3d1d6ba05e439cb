"""Tiny random encoders, one of every kind, the noise they listen to, and what else several files of tests need."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import datasets
import pytest
import spoken
import torch
import toy
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from miniature import Miniature, write_upstreams
from small_checkpoints import KINDS, save, whisper_config
from sounds import shards
from torch import Tensor, nn
from toy import PLAN, Toy
from transformers import (
    HubertConfig,
    HubertModel,
    WavLMConfig,
    WavLMModel,
    WhisperModel,
)

from distill.data.clips import Clips
from distill.encoders.family import Options
from distill.encoders.frozen import Frozen
from distill.encoders.logmel import LogMel
from distill.encoders.waveform import StockModel, Waveform
from distill.features import Encoder
from distill.harder import Masking
from distill.loop import Plan, optimizer, train
from distill.teacher import FusedTeacher
from students import build_student
from teachers import build_upstream
from teachers.whisper import WhisperEncoder

torch.set_num_threads(1)  # faster for tensors as small as ours

STOCK: dict[str, tuple[type, type[StockModel]]] = {
    "wavlm": (WavLMConfig, WavLMModel),
    "hubert": (HubertConfig, HubertModel),
}


def tiny_model(family: str, *, norm: str, stable: bool = False, layers: int = 2) -> StockModel:
    """A thin stock WavLM or HuBERT, its front end as published, its weights such that attention matters."""
    config_class, model_class = STOCK[family]
    config = config_class(
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm=norm,
        do_stable_layer_norm=stable,
        initializer_range=0.2,
        layerdrop=0.0,
        apply_spec_augment=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
    )
    torch.manual_seed(3)
    return model_class(config).eval()


def tiny_whisper_model() -> WhisperModel:
    """A stock Whisper with a window of two seconds."""
    torch.manual_seed(3)
    return WhisperModel(whisper_config(2, layers=2)).eval()


def tiny_student(
    architecture: str = "hubert",
    *,
    layers: int = 2,
    width: int = 32,
    seed: int = 5,
    masking: Masking | None = None,
    halved: bool = False,
) -> Waveform:
    """A student no wider than it must be; halved: of 25 frames a second, and not 50."""
    return build_student(
        architecture=architecture,
        layers=layers,
        width=width,
        heads=4,
        feedforward=64,
        conv_channels=16,
        conv_kernel=[20, 6, 3, 2, 2] + [2] * halved,
        conv_stride=[10, 4, 2, 2, 2] + [2] * halved,
        positions=16,
        position_groups=4,
        dropout=0.0,
        seed=seed,
        masking=masking,
    )


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "log-mel": LogMel,
    "wavlm group norm": lambda: Waveform(tiny_model("wavlm", norm="group"), normalize=False),
    "wavlm layer norm": lambda: Waveform(tiny_model("wavlm", norm="layer"), normalize=True),
    "wavlm stable layer norm": lambda: Waveform(tiny_model("wavlm", norm="layer", stable=True), normalize=True),
    "hubert group norm": lambda: Waveform(tiny_model("hubert", norm="group"), normalize=True),
    "hubert layer norm": lambda: Waveform(tiny_model("hubert", norm="layer"), normalize=True),
    "hubert stable layer norm": lambda: Waveform(tiny_model("hubert", norm="layer", stable=True), normalize=True),
    "whisper, fast": lambda: WhisperEncoder(tiny_whisper_model(), "fast"),
    "student": lambda: tiny_student("hubert").eval(),
    "student of half the rate": lambda: tiny_student("hubert", halved=True).eval(),
    "wavlm student": lambda: tiny_student("wavlm").eval(),
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Callable[[str], str]:
    """Gives the folder of a small checkpoint, written once: one of small_checkpoints.KINDS."""
    top = tmp_path_factory.mktemp("checkpoints")

    @cache
    def write(kind: str) -> str:
        save(kind, top / kind)
        return str(top / kind)

    return write


@pytest.fixture
def open_small(checkpoint) -> Callable[..., Encoder]:
    """Opens a small checkpoint from its folder as the recipe does: (kind, options of the upstream)."""

    def build(kind: str, **options) -> Encoder:
        return build_upstream(KINDS[kind][0], "", checkpoint(kind), Options(**options)).encoder

    return build


@pytest.fixture(params=[*ENCODERS, *KINDS, "seamless, adaptor"])
def encoder(request, open_small) -> Encoder:
    """Every kind of encoder in turn, tiny, random and in eval mode."""
    if request.param == "seamless, adaptor":
        return open_small("seamless", seamless_states="adaptor")
    return ENCODERS[request.param]() if request.param in ENCODERS else open_small(request.param)


@pytest.fixture
def build_model() -> Callable[..., StockModel]:
    """Makes a stock WavLM or HuBERT: (family, norm=, stable=, layers=)."""
    return tiny_model


@pytest.fixture
def build_whisper() -> Callable[[], WhisperModel]:
    """Makes a stock Whisper with a window of two seconds."""
    return tiny_whisper_model


@pytest.fixture
def build_tiny_student() -> Callable[..., Waveform]:
    """Makes a student: (architecture, layers=, width=, seed=)."""
    return tiny_student


@pytest.fixture
def noise() -> Callable[[int], Tensor]:
    """Makes a clip of so many samples, the same for the same number."""

    def make(samples: int) -> Tensor:
        return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))

    return make


@pytest.fixture(scope="session")
def miniature(tmp_path_factory) -> Miniature:
    """The command at its smallest, with upstreams and a cache for this session."""
    folder = tmp_path_factory.mktemp("miniature")
    write_upstreams(folder)
    return Miniature(folder)


@pytest.fixture(scope="session")
def launched(miniature, tmp_path_factory) -> tuple[Path, str]:
    """The README's command, really launched and never disturbed: its run folder and what it said; only read it."""
    runs = tmp_path_factory.mktemp("launched")
    said = miniature.launch([], miniature.words(runs))
    return runs / "run", said


@pytest.fixture(scope="session")
def splits() -> dict[str, Clips]:
    """Clips whose labels can be heard, in three splits."""
    return {"train": spoken.speak(60, 0), "validation": spoken.speak(30, 1), "test": spoken.speak(36, 2)}


@pytest.fixture
def offline(monkeypatch, tmp_path_factory) -> None:
    """`datasets` without a network, and with a cache of this test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def four(tmp_path_factory) -> Path:
    """Four parquet files of ten clips."""
    return shards(tmp_path_factory.mktemp("four"), 4, 10)


@pytest.fixture
def pair(build_model, build_whisper) -> Callable[[str], FusedTeacher]:
    """A random WavLM, whose front end has this norm, and a random Whisper, fused."""

    def build(norm: str) -> FusedTeacher:
        upstreams = {
            "wavlm": Frozen(Waveform(build_model("wavlm", norm=norm), normalize=True)),
            "whisper": Frozen(WhisperEncoder(build_whisper())),
        }
        return FusedTeacher(upstreams, "sum", 0, "hconv", 0)

    return build


@pytest.fixture
def own_cache(monkeypatch, tmp_path) -> Path:
    """Where the manifests of this test's corpora are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fusedistill" / "manifests"


@pytest.fixture(scope="session")
def noises() -> Clips:
    """Two dozen clips with labels for every task."""
    return toy.speak(24)


@pytest.fixture
def accelerator() -> Iterator[Callable[[int], Accelerator]]:
    """Makes a plain one with so many passes a step; DeepSpeed's is tested by the command itself."""

    def make(passes: int = PLAN.passes) -> Accelerator:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        return Accelerator(cpu=True, gradient_accumulation_steps=passes)

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def learn(accelerator, noises) -> Callable[..., tuple[dict[str, Tensor], Toy]]:
    """Trains the toy from its first weights: (folder, plan=, spoil=); what it learned, and the toy."""

    def go(folder: Path, plan: Plan = PLAN, spoil=lambda call: False) -> tuple[dict[str, Tensor], Toy]:
        folder.mkdir(exist_ok=True)
        machine, toy = accelerator(plan.passes), Toy(noises, spoil)
        torch.manual_seed(1)
        module = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.2))
        model, trainer = machine.prepare(module, optimizer(module, 0.1))
        train(machine, model, trainer, toy, plan, folder)
        return {name: value.clone() for name, value in module.state_dict().items()}, toy

    return go
