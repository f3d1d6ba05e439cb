"""Students: built from a seed, started from an upstream, trained without padding, published as stock."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from distill.encoders.waveform import Waveform
from students import build_student, initialise
from students.export import export

SIZES = {
    "architecture": "hubert",
    "layers": 2,
    "width": 32,
    "heads": 4,
    "feedforward": 64,
    "conv_channels": 16,
    "conv_kernel": [20, 6, 3, 2, 2],
    "conv_stride": [10, 4, 2, 2, 2],
    "positions": 16,
    "position_groups": 4,
    "dropout": 0.0,
    "seed": 1,
}


@pytest.mark.parametrize("architecture", ["hubert", "wavlm"])
def test_a_seed_gives_the_same_student_and_draws_nothing(architecture, build_tiny_student):
    before = torch.random.get_rng_state()
    one, same, other = (build_tiny_student(architecture, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = list(zip(one.parameters(), same.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def gradients(student: Waveform, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    student.zero_grad()
    for audio_BN, lengths_B in batches:
        student(audio_BN, lengths_B).hidden.square().sum().backward()
    found = [parameter.grad for parameter in student.parameters()]
    assert all(gradient is not None for gradient in found), "a parameter that nothing reaches"
    return [gradient.clone() for gradient in found if gradient is not None]


@pytest.mark.parametrize("architecture", ["hubert", "wavlm"])
def test_every_parameter_learns_and_padding_teaches_nothing(architecture, build_tiny_student, noise):
    student = build_tiny_student(architecture)
    assert student.training
    clips = [noise(9_000), noise(5_432), noise(2_345)]
    lengths_B = torch.tensor([len(clip) for clip in clips])
    batch = gradients(student, [(pad_sequence(clips, batch_first=True, padding_value=50.0), lengths_B)])
    singles = gradients(student, [(clip[None], lengths_B[i : i + 1]) for i, clip in enumerate(clips)])
    largest = max(gradient.abs().max() for gradient in singles)
    for together, alone in zip(batch, singles, strict=True):
        assert (together - alone).abs().max() < 1e-4 * largest


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("normalize", [True, False])
def test_an_upstreams_model_trains_without_padding_too(norm, normalize, build_model, noise):
    student = Waveform(build_model("hubert", norm=norm), normalize=normalize).train()
    del student.model.masked_spec_embed  # nothing masks
    clips, lengths_B = [noise(9_000), noise(5_432)], torch.tensor([9_000, 5_432])
    padded_BN = pad_sequence(clips, batch_first=True, padding_value=float("nan"))
    batch = gradients(student, [(padded_BN, lengths_B)])
    singles = gradients(student, [(clip[None], torch.tensor([len(clip)])) for clip in clips])
    largest = max(gradient.abs().max() for gradient in singles)
    assert all((a - b).abs().max() < 1e-4 * largest for a, b in zip(batch, singles, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "bert"}, r"architecture 'bert', known are hubert, wavlm"),
        ({"heads": 5}, r"width=32 must be a multiple of heads=5"),
        ({"position_groups": 3}, r"width=32 must be a multiple of position_groups=3"),
        ({"conv_stride": [10, 4]}, r"conv_kernel has 5 layers and conv_stride 2"),
    ],
)
def test_a_student_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build_student(**(SIZES | change))


@pytest.mark.parametrize("architecture", ["hubert", "wavlm"])
def test_started_from_the_first_layers_it_says_what_the_upstream_says(architecture, build_tiny_student, noise):
    upstream = build_tiny_student(architecture, layers=4, seed=1).eval()
    student = build_tiny_student(architecture, layers=2, seed=2).eval()
    initialise(student, upstream.model, [0, 1])
    batch = (noise(9_000)[None], torch.tensor([9_000]))
    assert torch.equal(student(*batch).hidden, upstream(*batch).hidden[:, :3])
    upstream.model.encoder.layers[0].attention.k_proj.weight.data.zero_()  # weights are copied, not shared
    assert not torch.equal(student(*batch).hidden, upstream(*batch).hidden[:, :3])


def test_started_from_late_layers_it_keeps_the_first_ones_relative_positions(build_tiny_student):
    upstream, student = build_tiny_student("wavlm", layers=4, seed=1), build_tiny_student("wavlm", seed=2)
    initialise(student, upstream.model, [1, 3])
    ours, theirs = student.model.encoder.layers, upstream.model.encoder.layers
    assert torch.equal(ours[0].attention.rel_attn_embed.weight, theirs[0].attention.rel_attn_embed.weight)
    assert torch.equal(ours[0].feed_forward.output_dense.weight, theirs[1].feed_forward.output_dense.weight)
    assert torch.equal(ours[1].attention.k_proj.weight, theirs[3].attention.k_proj.weight)


def test_an_upstream_of_another_shape_is_refused_by_name(build_tiny_student, build_model):
    student = build_tiny_student("hubert")
    with pytest.raises(ValueError, match=r"hidden_size 48, the student 32"):
        initialise(student, build_tiny_student("hubert", width=48).model, [0, 1])
    with pytest.raises(ValueError, match=r"model_type wavlm, the student hubert.*feat_extract_norm group"):
        initialise(student, build_model("wavlm", norm="group"), [0, 1])
    with pytest.raises(ValueError, match=r"has 2 layers and the upstream layers 0 to 3, got \[0, 4\]"):
        initialise(student, build_tiny_student("hubert", layers=4).model, [0, 4])
    with pytest.raises(ValueError, match=r"got \[0\]"):
        initialise(student, build_tiny_student("hubert", layers=4).model, [0])


STRANGER = """
import sys, numpy, torch
from transformers import AutoFeatureExtractor, AutoModel
clips = list(numpy.load("clips.npz").values())
for name in sys.argv[1:]:
    model, extractor = AutoModel.from_pretrained(name), AutoFeatureExtractor.from_pretrained(name)
    assert type(model).__name__ == {"hubert": "HubertModel", "wavlm": "WavLMModel"}[name]
    hidden = []
    for batch in [clips] + [[clip] for clip in clips]:
        inputs = extractor(batch, sampling_rate=16000, padding=True, return_tensors="pt")
        with torch.no_grad():
            hidden.append(torch.stack(model(**inputs, output_hidden_states=True).hidden_states, dim=1))
    torch.save(hidden, name + ".pt")
assert not {name.split(".")[0] for name in sys.modules} & {"distill", "teachers", "students"}
"""


def trained(student: Waveform) -> Waveform:
    """Every weight moved, as training does: direction and size of a weight-normed kernel move apart."""
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return student.eval()


def test_a_stranger_hears_the_same_from_the_folder(tmp_path, build_tiny_student, noise):
    clips = [noise(9_000), noise(5_432), noise(2_345)]
    np.savez(tmp_path / "clips.npz", *[clip.numpy() for clip in clips])
    students = {name: trained(build_tiny_student(name)) for name in ("hubert", "wavlm")}
    for name, student in students.items():
        export(student, {}, tmp_path / name, "# A card\n")
    subprocess.run([sys.executable, "-c", STRANGER, *students], cwd=tmp_path, check=True)
    for name, student in students.items():
        batch_BLTD, *singles = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for index, (clip, single_1LTD) in enumerate(zip(clips, singles, strict=True)):
            ours_1LTD = student(clip[None], torch.tensor([len(clip)])).hidden.detach()
            in_batch_LTD = batch_BLTD[index, :, : ours_1LTD.shape[2]]
            torch.testing.assert_close(single_1LTD, ours_1LTD, rtol=0, atol=1e-5)
            torch.testing.assert_close(in_batch_LTD, ours_1LTD[0], rtol=0, atol=1e-5)


def test_the_folder_holds_what_a_checkpoint_needs(tmp_path, build_tiny_student):
    export(build_tiny_student(), {}, tmp_path / "student", "# A card\n")
    names = {"config.json", "model.safetensors", "heads.safetensors", "preprocessor_config.json", "README.md"}
    assert {file.name for file in (tmp_path / "student").iterdir()} == names
    assert (tmp_path / "student" / "README.md").read_text() == "# A card\n"
    settings = json.loads((tmp_path / "student" / "preprocessor_config.json").read_text())
    assert settings["do_normalize"] and settings["return_attention_mask"]


def test_a_second_export_replaces_the_first_and_a_failed_one_leaves_it(tmp_path, build_tiny_student):
    folder = tmp_path / "student"
    export(build_tiny_student(), {}, folder, "first")
    export(build_tiny_student(), {}, folder, "second")
    with pytest.raises(UnicodeEncodeError):
        export(build_tiny_student(), {}, folder, "\ud800")  # no character, so the last file cannot be written
    assert (folder / "README.md").read_text() == "second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["student"]
