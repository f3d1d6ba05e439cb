"""Whisper's encoder as an upstream: supervised, with a fixed window of log-mel."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperFeatureExtractor, WhisperModel

from distill.encoders.family import Family, Options
from distill.encoders.logmel import HOP, WINDOW, log_mel
from distill.features import SAMPLE_RATE, Encoder, Features, Grid, demand_frames, frame_mask
from teachers.checkpoint import demand_settings, keep_layers, open_checkpoint
from teachers.windows import windows

FRAME = 2 * HOP  # samples per frame: the encoder halves the rate of the log-mel
OVERLAP = 1 / 3  # share of a window that its neighbour hears too
SILENCE = 50  # frames heard behind a clip by the fast window
EXTRACTOR = {"sampling_rate": SAMPLE_RATE, "hop_length": HOP, "n_fft": WINDOW, "dither": 0.0}


class WhisperEncoder(Encoder):
    """The encoder of a WhisperModel. Frame t is centred on sample 320 t: log-mel and convolutions pad at both sides.

    `window` full: every clip is heard in a whole window of silence, as in Whisper's training. fast: with SILENCE
    behind it only, which costs less and says something else. A clip longer than the window is heard in several
    that overlap. Takes over the encoder of `model`; the decoder is let go.
    """

    def __init__(self, model: WhisperModel, window: str = "full"):
        super().__init__()
        self.model = model.encoder
        self.channels = model.config.num_mel_bins
        self.window = model.config.max_source_positions  # frames
        self.silence = {"full": self.window, "fast": SILENCE}[window]
        self.grid = Grid(SAMPLE_RATE / FRAME, 0.0)
        self.layers = len(self.model.layers) + 1
        self.width = model.config.d_model
        self.train(model.training)

    def frames(self, samples_B: Tensor) -> Tensor:
        """Frames centred inside clips of so many samples: (B,) -> (B,)."""
        return -(-samples_B // FRAME)

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        """Features up to the longest clip of the batch."""
        frames_B = demand_frames(self, lengths_B)
        audio_BN = audio_BN.masked_fill(~frame_mask(lengths_B, audio_BN.shape[1]), 0.0)
        overlap = int(self.window * OVERLAP)
        plan = [
            (clip, one) for clip, count in enumerate(frames_B.tolist()) for one in windows(count, self.window, overlap)
        ]
        heard_MLTD = self._hear([audio_BN[clip, one.start * FRAME : one.end * FRAME] for clip, one in plan])
        hidden_BLTD = heard_MLTD.new_zeros(len(audio_BN), self.layers, int(frames_B.max()), self.width)
        for (clip, one), heard_LTD in zip(plan, heard_MLTD, strict=True):
            hidden_BLTD[clip, :, one.first : one.stop] = heard_LTD[:, one.first - one.start : one.stop - one.start]
        return Features(hidden_BLTD, frames_B, self.grid)

    def _hear(self, parts: list[Tensor]) -> Tensor:
        """Every layer for parts (N,) that fit a window, up to the longest: (M, L, T, D) float32."""
        own = [-(-len(part) // FRAME) for part in parts]
        ends = [min(frames + self.silence, self.window) for frames in own]
        total = max(ends)
        samples = (total if self.silence == self.window else total + 1) * FRAME  # log_mel mirrors the end of a window
        window_MN = torch.stack([F.pad(part, (0, samples - len(part))) for part in parts])
        ends_M = torch.tensor(ends, device=window_MN.device)
        mel_MCT = log_mel(window_MN, self.channels)[..., : 2 * total]
        mel_MCT = mel_MCT.masked_fill(~frame_mask(2 * ends_M, 2 * total)[:, None], 0.0)
        stack = self._layers(mel_MCT.to(self.model.dtype), frame_mask(ends_M, total))
        return torch.stack([hidden_MTD[:, : max(own)] for hidden_MTD in stack], dim=1).float()

    def _layers(self, mel_MCT: Tensor, mask_MT: Tensor) -> list[Tensor]:
        """What the stock encoder does, for any length up to the window, blind to what the mask leaves out."""
        hidden_MDT = F.gelu(self.model.conv2(F.gelu(self.model.conv1(mel_MCT))))
        hidden_MTD = hidden_MDT.transpose(1, 2) + self.model.embed_positions.weight[: mask_MT.shape[1]]
        bias_M11T = None
        if not bool(mask_MT.all()):
            lowest = torch.finfo(hidden_MTD.dtype).min
            bias_M11T = torch.zeros_like(mask_MT, dtype=hidden_MTD.dtype).masked_fill(~mask_MT, lowest)[:, None, None]
        stack = [hidden_MTD]
        for layer in self.model.layers:
            stack.append(layer(stack[-1], bias_M11T))
        return [*stack[:-1], self.model.layer_norm(stack[-1])]


def load_whisper(checkpoint: str, options: Options) -> WhisperEncoder:
    """Whisper: transcription of 680,000 h of labelled speech (arXiv 2212.04356)."""
    model, extractor = open_checkpoint(checkpoint, WhisperModel, WhisperFeatureExtractor, options.dtype)
    demand_settings(checkpoint, extractor, EXTRACTOR | {"feature_size": model.config.num_mel_bins})
    layers = keep_layers(checkpoint, model.encoder.layers, options.depth)
    if len(layers) < len(model.encoder.layers):
        model.encoder.layers = layers
        model.encoder.register_module("layer_norm", nn.Identity())  # it is the last layer's
    return WhisperEncoder(model, options.whisper_window)


PUBLISHED = (
    *("tiny", "base", "large-v2", "large-v3", "large-v3-turbo"),
    *("tiny.en", "base.en", "small.en", "medium.en"),
)
SCALES = {  # of the depth and width that these scales have in other families
    "mini": "teachers/mini/whisper",
    "base": "openai/whisper-small",
    "large": "openai/whisper-medium",
}
FAMILIES = {
    "whisper": Family(load_whisper, SCALES | {f"whisper-{size}": f"openai/whisper-{size}" for size in PUBLISHED})
}
