"""ONNX: onnxruntime equals torch over lengths and batches; int8 is smaller and near; an encoder like any other."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import datasets
import numpy as np
import onnx
import pytest
import torch
from conftest import tiny_model
from sounds import sound
from transformers import AutoModel

from distill.data.clips import Clips
from distill.encoders.cost import cost
from distill.encoders.frozen import Frozen
from distill.encoders.waveform import Waveform
from students.deployment import FLOAT, INT8, MissingOnnxError, OnnxEncoder, export_onnx, open_session
from students.export import export, open_student

KINDS = ["hubert group", pytest.param("wavlm layer", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def export_kind(tmp_path_factory) -> Callable[[str], Path]:
    """kind -> a folder with the checkpoint and its ONNX files; made once, as tracing takes seconds."""

    @cache
    def make(kind: str) -> Path:
        family, norm = kind.split()
        folder = tmp_path_factory.mktemp("onnx")
        model = tiny_model(family, norm=norm, stable=family == "wavlm")
        export(Waveform(model, normalize=True), {}, folder / "student", "# A card\n")
        export_onnx(folder / "student", folder / "onnx")
        return folder

    return make


@pytest.fixture(params=KINDS)
def exported(request, export_kind) -> Path:
    return export_kind(request.param)


@pytest.mark.parametrize(("clips", "samples"), [(1, 400), (1, 8_123), (3, 12_345), (2, 50_000)])
def test_onnxruntime_equals_torch(exported, clips, samples):
    session = open_session(exported / "onnx" / FLOAT, threads=1)
    values_BN = torch.randn(clips, samples, generator=torch.Generator().manual_seed(samples))
    last, stack = session.run(None, {"input_values": values_BN.numpy()})
    stock = AutoModel.from_pretrained(exported / "student").eval()
    for row in range(clips):
        with torch.no_grad():
            heard = stock(values_BN[row : row + 1], output_hidden_states=True)
        np.testing.assert_allclose(last[row], heard.last_hidden_state[0].numpy(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(stack[row], torch.stack(heard.hidden_states, 1)[0].numpy(), rtol=0, atol=1e-4)
    assert stack.shape == (clips, stock.config.num_hidden_layers + 1, last.shape[1], 32)


def test_the_encoder_hears_each_clip_as_the_student_does(exported, noise):
    student = open_student(exported / "student")
    encoder = Frozen(OnnxEncoder(exported / "onnx" / FLOAT, student, threads=1))
    audio_BN = torch.nn.utils.rnn.pad_sequence([noise(9_000), noise(16_000), noise(2_345)], batch_first=True)
    lengths_B = torch.tensor([9_000, 16_000, 2_345])
    ours, theirs = encoder(audio_BN, lengths_B), student(audio_BN, lengths_B)
    assert torch.equal(ours.lengths, theirs.lengths) and ours.grid == theirs.grid
    torch.testing.assert_close(ours.hidden, theirs.hidden, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="too short for one frame"):
        encoder(audio_BN[:, :100], torch.tensor([100, 100, 100]))


def test_int8_is_near_and_its_weights_are_bytes(exported, noise):
    student = open_student(exported / "student")
    whole, small = (OnnxEncoder(exported / "onnx" / name, student, threads=1) for name in (FLOAT, INT8))
    batch = (noise(16_000)[None], torch.tensor([16_000]))
    off = (small(*batch).hidden - whole(*batch).hidden).norm() / whole(*batch).hidden.norm()
    assert 0 < off < 0.1
    matrices = [one for one in onnx.load(exported / "onnx" / INT8).graph.initializer if len(one.dims) == 2]
    assert sum(one.data_type == onnx.TensorProto.INT8 for one in matrices) > 10


def test_its_cost_is_measured_like_any_encoders(exported, tmp_path):
    student, path = open_student(exported / "student"), str(sound(tmp_path / "noise.wav", 1.0))
    rows = [{"id": str(n), "audio": {"path": path, "bytes": None}, "samples": 16_000} for n in range(3)]
    clips = Clips(datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False)))
    ours = cost(OnnxEncoder(exported / "onnx" / INT8, student), clips, 2.0, torch.device("cpu"))
    assert ours["parameters"] == sum(weight.numel() for weight in student.parameters())
    assert 0 < ours["real_time_factor"] < 1


def test_a_failed_export_leaves_nothing(exported, tmp_path, monkeypatch):
    monkeypatch.setattr("students.deployment.quantise", lambda source, target: 1 / 0)
    monkeypatch.setattr("students.deployment.write_graph", lambda stack, path: path.touch())
    with pytest.raises(ZeroDivisionError):
        export_onnx(exported / "student", tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_without_the_packages_it_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingOnnxError, match=r"pip install 'fusedistill\[onnx\]'.*publish.onnx=false"):
        export_onnx(tmp_path, tmp_path / "onnx")
