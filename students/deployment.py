"""The student in ONNX: float32 and int8, any number of clips of any length, and an Encoder that listens through it."""

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import AutoModel

from distill.encoders.waveform import Waveform, standardise_clips
from distill.features import Encoder, Features, demand_frames

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FLOAT, INT8 = "model.onnx", "model_int8.onnx"
FILES = {"onnx": FLOAT, "onnx-int8": INT8}  # rows of the evaluation
EXAMPLE = (2, 16_000)  # clips and samples of the pass that is traced; neither number stays in the graph


class MissingOnnxError(ValueError):
    """The optional packages are not installed."""


class Stack(nn.Module):
    """What the graph computes: the last layer as transformers gives it, and all of them as (B, L, T, D)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_values: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(input_values, output_hidden_states=True)
        return output.last_hidden_state, torch.stack(output.hidden_states, dim=1)


def demand_onnx() -> None:
    """MissingOnnxError that says how to install them."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingOnnxError(
            f"ONNX needs {error.name}: pip install 'fusedistill[onnx]'; or leave it out: publish.onnx=false"
        ) from None


def export_onnx(student: Path, folder: Path) -> None:
    """Write `model.onnx` and `model_int8.onnx` of the checkpoint in `student`.

    Input: `input_values` (B, N) float32, each clip at zero mean and unit variance, no padding: the graph takes
    no mask, and a front end with group norm would hear the padding. Clips of unlike length go one by one.
    """
    demand_onnx()
    model = AutoModel.from_pretrained(student).eval()
    parametrize.remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")  # a product made for training
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_graph(Stack(model).eval(), partial / FLOAT)
    quantise(partial / FLOAT, partial / INT8)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def quantise(source: Path, target: Path) -> None:
    """Weights of matrix products in int8 for good, their inputs as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(  # matrix products alone: int8 convolutions took nearly twice the time of float32
            source,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )


def write_graph(stack: Stack, path: Path) -> None:
    """Trace the stack into one ONNX file."""
    dynamic = torch.export.Dim.DYNAMIC
    with quiet():
        torch.onnx.export(
            stack,
            (torch.randn(EXAMPLE, generator=torch.Generator().manual_seed(0)),),
            path,
            input_names=["input_values"],
            output_names=["last_hidden_state", "hidden_states"],
            dynamic_shapes={"input_values": {0: dynamic, 1: dynamic}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters say about torchvision, pytrees and preprocessing, none of which is the caller's."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx._internal.exporter._registration", "root")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class OnnxEncoder(Encoder):
    """The student as onnxruntime hears it, one clip at a time; for inference on a CPU."""

    def __init__(self, path: Path, student: Waveform, threads: int = 0):
        super().__init__()
        self.session = open_session(path, threads)
        self.student = student  # knows its frames and counts the parameters, which are those of the graph
        self.grid, self.layers, self.width = student.grid, student.layers, student.width

    def frames(self, samples_B: Tensor) -> Tensor:
        """Valid frames of clips of so many samples: (B,) -> (B,)."""
        return self.student.frames(samples_B)

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        """Features of each clip alone, on the device of `audio_BN`."""
        frames_B = demand_frames(self, lengths_B)
        hidden_BLTD = torch.zeros(len(audio_BN), self.layers, int(frames_B.max()), self.width)
        for row, (clip_N, length) in enumerate(zip(audio_BN, lengths_B.tolist(), strict=True)):
            hidden_LTD = self._hear(clip_N[None, :length])
            hidden_BLTD[row, :, : hidden_LTD.shape[1]] = hidden_LTD
        return Features(hidden_BLTD.to(audio_BN.device), frames_B, self.grid)

    def _hear(self, clip_1N: Tensor) -> Tensor:
        if self.student.normalize:
            clip_1N = standardise_clips(clip_1N, torch.tensor([clip_1N.shape[1]], device=clip_1N.device))
        (hidden_1LTD,) = self.session.run(["hidden_states"], {"input_values": clip_1N.float().cpu().numpy()})
        return torch.from_numpy(np.asarray(hidden_1LTD))[0]


def open_session(path: Path, threads: int = 0) -> "InferenceSession":
    """onnxruntime on the CPU with so many threads; 0: as many as torch uses."""
    demand_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
