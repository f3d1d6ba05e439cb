"""The plan counts what a run performs: bytes, multiply-adds and parameters equal those of real tensors."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModel, WhisperModel

import distill as package
from distill import planning
from distill.encoders.cost import macs
from distill.encoders.live import Live
from distill.features import parameters
from distill.loading import load
from distill.planning import Listener, Load, trained
from distill.runtime import BUCKET
from teachers import FAMILIES, build_teacher, build_upstream
from teachers.checkpoint import CheckpointError
from teachers.published import CONFIGS
from teachers.rehearsal import listener

ROOT = Path(package.__file__).parents[1]
MACHINE, MINI = ROOT / "accelerate_config.yaml", ROOT / "teachers" / "mini"
PUBLISHED = {  # millions of parameters, as the model pages say
    "microsoft/wavlm-base-plus": 94.4,
    "microsoft/wavlm-large": 315.5,
    "facebook/hubert-base-ls960": 94.4,
    "facebook/hubert-large-ll60k": 315.4,
    "facebook/hubert-xlarge-ll60k": 962.5,
    "facebook/wav2vec2-xls-r-300m": 315.4,
    "facebook/wav2vec2-xls-r-2b": 2159.3,
    "facebook/data2vec-audio-base": 93.2,
    "facebook/w2v-bert-2.0": 580.5,
    "openai/whisper-small": 241.7,
    "openai/whisper-large-v3": 1543.5,
    "openai/whisper-large-v3-turbo": 808.9,
}


def megabytes(count: int) -> torch.Tensor:
    return torch.empty(count * 2**20, dtype=torch.uint8)


@pytest.mark.parametrize("mode", [FakeTensorMode, torch.no_grad])
def test_live_counts_what_is_there_at_once(mode):
    with mode(), Live() as live:
        first, second = megabytes(3), megabytes(4)
        view = first[:10]
        del first  # its memory stays with the view
        third = megabytes(2)
        del view, second
        fourth = megabytes(5)
        assert live.now == 7 * 2**20
        del third, fourth
    assert live.peak == 9 * 2**20


def test_live_does_not_count_what_was_there_before():
    weights = megabytes(7)
    with Live() as live:
        kept = weights[:5].t() if weights.ndim > 1 else weights[:5]
    assert live.peak == 0 and len(kept) == 5


def test_a_fake_pass_takes_the_bytes_of_a_real_one():
    layers = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))

    def peak(model, audio):
        with Live() as live:
            model(audio).square().sum().backward()
        return live.peak

    real = peak(layers, torch.zeros(32, 64))
    with FakeTensorMode():
        fake = peak(nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)), torch.zeros(32, 64))
    assert fake == real > 4 * (32 * 256 + 2 * 64 * 256)


@pytest.mark.parametrize("family", ["wavlm", "hubert", "whisper"])
def test_parameters_and_multiply_adds_are_those_of_the_evaluation(family):
    real = build_upstream(family, "mini")
    seconds = 2.0
    measured = macs(real, np.zeros(round(seconds * 16_000), np.float32), torch.device("cpu"))
    with FakeTensorMode():
        one = listener(family, build_upstream(family, "", f"random:{MINI}/{family}"), torch.float32)
        assert one.weights() == parameters(real)
        assert one.macs(seconds) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize(
    ("zero", "processes", "bytes_each"),
    [(0, 4, 16), (1, 1, 20), (1, 4, 4 + 4 + 3), (2, 4, 4 + 1 + 3), (3, 4, 1 + 1 + 3)],
)
def test_zero_shares_out_optimizer_then_gradients_then_weights(zero, processes, bytes_each):
    assert trained(1000, zero, processes) == 1000 * bytes_each


def test_a_shared_teacher_takes_a_share_of_itself_and_what_a_pass_gathers(monkeypatch):
    with FakeTensorMode():
        names = {family: f"random:{MINI}/{family}" for family in ("wavlm", "whisper")}
        both = [listener(one, build_upstream(one, "", name), torch.float32) for one, name in names.items()]
    weights = [one.weights() for one in both]
    assert planning.at_hand(both, 1) == sum(weights)
    assert planning.at_hand(both, 4) == pytest.approx(sum(weights) / 4 + max(weights)), "one upstream at a time"
    monkeypatch.setattr(planning, "LIVE", 1000)
    assert planning.at_hand(both, 4) == pytest.approx(sum(weights) / 4 + 1000)


@pytest.mark.parametrize(
    ("zero", "processes", "collecting", "stepping"),
    [(0, 1, 0, 0), (1, 1, 4 * BUCKET, 12), (2, 4, 4 * BUCKET, 3), (3, 4, 4 * BUCKET, 3)],
)
def test_zero_collects_gradients_and_flattens_a_share_of_them(zero, processes, collecting, stepping):
    assert planning.bucket(zero) == collecting
    assert planning.stepping(1000, zero, processes) == 1000 * stepping


def test_only_the_largest_of_what_comes_one_after_the_other_counts():
    load_ = Load(clips=2, seconds=1.0, pairs=2, zero=2, processes=1, shares=1)
    with FakeTensorMode():
        upstreams = ((name, build_upstream(name, "", f"random:{MINI}/{name}")) for name in ("whisper", "hubert"))
        heard, student = (listener(name, upstream, torch.float32) for name, upstream in upstreams)
        student.model.requires_grad_(True)

        def count(load: Load, half: bool = False) -> dict[str, float]:
            return planning.memory([heard], student, 100, load, planning.LOSSES["l1_cosine"], half=half)

        parts, again, copies = count(load_), count(load_), count(load_, half=True)
        fewer, shorter = count(replace(load_, zero=0)), count(replace(load_, clips=8, seconds=0.25))
    assert parts == again, "a count depends on the one before it"
    passing = [value for name, value in parts.items() if name.startswith("while")]
    held = [value for name, value in parts.items() if not name.startswith(("while", "most"))]
    assert len(passing) == 3 and parts["most at once"] == sum(held) + max(passing)
    assert parts["while the student learns"] - fewer["while the student learns"] == 4 * BUCKET
    assert fewer["while the optimizer steps"] == 0 == copies["a copy of them, on the CPU"]
    listening_ = "while the teacher listens"
    assert shorter[listening_] > 2 * parts[listening_], "a clip takes a whole window of Whisper, however short it is"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_architectures_have_the_published_parameters(name):
    config_class, settings = CONFIGS[name]
    with FakeTensorMode():
        assert parameters(AutoModel.from_config(config_class(**settings))) / 1e6 == pytest.approx(
            PUBLISHED[name], abs=0.06
        )


NORMS = {  # as config.json on the Hub says: norm of the front end, whether norms precede blocks, front end's biases
    "microsoft/wavlm-base-plus": ("group", False, False),
    "microsoft/wavlm-large": ("layer", True, False),
    "facebook/hubert-base-ls960": ("group", False, False),
    "facebook/hubert-large-ll60k": ("layer", True, True),
    "facebook/hubert-xlarge-ll60k": ("layer", True, True),
    "facebook/wav2vec2-base": ("group", False, False),
    "facebook/wav2vec2-large-lv60": ("layer", True, True),
    "facebook/wav2vec2-large-xlsr-53": ("layer", True, True),
    "facebook/wav2vec2-xls-r-300m": ("layer", True, True),
    "facebook/mms-1b": ("layer", True, True),
}


@pytest.mark.parametrize("name", NORMS)
def test_published_architectures_have_the_published_norms(name):
    """Which hardly show in the number of parameters."""
    config_class, settings = CONFIGS[name]
    config = config_class(**settings)
    assert (config.feat_extract_norm, config.do_stable_layer_norm, config.conv_bias) == NORMS[name]


def test_every_size_of_every_family_can_be_planned():
    names = {name for family in FAMILIES.values() for name in family.sizes.values()}
    assert {name for name in names if not name.startswith("teachers/mini/")} == CONFIGS.keys()


def test_whisper_encoders_are_counted_without_their_decoder():
    config_class, settings = CONFIGS["openai/whisper-small"]
    with FakeTensorMode():
        assert parameters(WhisperModel(config_class(**settings)).get_encoder()) == 88_154_112


def test_random_weights_are_always_the_same_and_none_of_the_shipped():
    name = f"{MINI}/wavlm"
    first, second = (build_upstream("wavlm", "", f"random:{name}").state_dict() for _ in range(2))
    trained_ones = build_upstream("wavlm", "", name).state_dict()
    assert first.keys() == trained_ones.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(
        first["encoder.model.encoder.layers.0.attention.k_proj.weight"],
        trained_ones["encoder.model.encoder.layers.0.attention.k_proj.weight"],
    )


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("wavlm", "random:some/where", "the architecture of some/where is not known here"),
        ("wavlm", "random:openai/whisper-small", "is a whisper, wanted wavlm"),
        ("wavlm", "random:./nowhere", "no such folder"),
    ],
)
def test_random_weights_of_an_unknown_architecture_are_an_error(family, name, message):
    with pytest.raises(ValueError, match=message):
        build_upstream(family, "", name)
    assert issubclass(CheckpointError, ValueError)


@pytest.fixture
def outlook():
    """The plan of a command line, as distill.py makes it."""

    def make(*words: str) -> str:
        recipe = load(list(words), FAMILIES)

        def parts(dtype):
            teacher = build_teacher(recipe.teacher, recipe.seed)
            named = zip(recipe.teacher.upstreams, teacher.encoders(), strict=True)
            upstreams = [listener(name, encoder, dtype) for name, encoder in named]
            return upstreams[:-1], upstreams[-1], parameters(teacher.fusion)

        with FakeTensorMode():
            return planning.outlook(recipe, parts, MACHINE)

    return make


class Doubling(nn.Module):
    """A million weights on one frame, which hardly needs memory beside them."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(1000, 1000, bias=False)

    def forward(self, audio, output_hidden_states=True):
        return SimpleNamespace(hidden_states=(self.map(audio),))


def doubling(dtype: torch.dtype = torch.float32) -> Listener:
    model = Doubling().to(dtype)
    return Listener(
        "one", model, lambda clips, seconds: {"audio": torch.zeros(clips, 1, 1000, dtype=dtype)}, 1, 1000, 1.0
    )


def test_gradients_of_weights_are_no_part_of_a_pass():
    """They stand with the weights, whatever ZeRO makes of them."""
    assert doubling().learning(1, 1.0, lambda hidden: hidden[0].sum()) < 100_000


def test_the_plan_adds_up_and_halves_what_is_bfloat16():
    load_ = Load(clips=1, seconds=1.0, pairs=1, zero=0, processes=1, shares=1)
    loss = planning.LOSSES["mse"]
    found = {}
    for half, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        parts = planning.memory([doubling(dtype)], doubling(), 7, load_, loss, half=half)
        weights, student, copy, heard, learned, stepped, most = parts.values()
        found[half] = weights
        assert student == 16 * (1_000_000 + 1001 * 1000)  # the student and one head to the target's width
        assert most == weights + student + copy + max(heard, learned, stepped)
    assert found == {False: 4e6 + 28, True: 2e6 + 28}, "the fusion stays float32"


def test_the_plan_names_every_model_and_needs_no_network(outlook):
    said = outlook("recipe=hubert+wavlm+whisper", "scale=base", "teacher.weights=random", "distill.steps=10")
    assert "94.37 M" in said and "94.38 M" in said and "88.15 M" in said
    assert "float32" in said and "bfloat16" in said and "ZeRO 2" in said
    assert "distillation hears 4.4 h of audio" in said and "most at once, of 405 clips of 1 s" in said
    assert "evaluation, superb heads: asr, sv on librispeech" in said
    assert "features of an hour of audio: 3.59 GB on the disk; 28539 clips at most learn" in said  # 50 Hz x 13 x 768


def test_the_plan_says_which_task_hears_which_corpus(outlook):
    words = ["corpora.iemocap.fold=2", "evaluate.corpora.er=iemocap", "evaluate.tasks=[asr,er,lid]"]
    said = outlook("recipe=hubert+wavlm", "teacher.weights=random", *words)
    assert "evaluation, light heads: asr, lid on embedded; er on iemocap" in said


def test_more_audio_in_a_pass_takes_more_memory():
    def learned(seconds: float) -> float:
        recipe = load(["recipe=wavlm", f"distill.forward_seconds={seconds}", "distill.batch_seconds=80"], FAMILIES)
        load_ = Load.of(recipe, MACHINE)
        with FakeTensorMode():
            one = listener("wavlm", build_upstream("wavlm", "", f"random:{MINI}/wavlm"), torch.float32)
            one.model.requires_grad_(True)
            return planning.learning(one, load_, 160, planning.LOSSES["l1_cosine"], half=False)

    assert learned(80.0) == pytest.approx(2 * learned(40.0), rel=0.05)


def test_the_plan_is_of_the_launch_where_the_file_says_one_process(monkeypatch):
    recipe = load(["recipe=wavlm+whisper", "scale=base", "teacher.shard=true"], FAMILIES)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    found = Load.of(recipe, MACHINE)
    assert (found.processes, found.shares, found.zero) == (8, 8, 3)
