"""Whisper's encoder as an upstream: supervised, with a fixed window of log-mel."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import WhisperFeatureExtractor, WhisperModel

from distill.features import SAMPLE_RATE, Encoder, Features, Grid, demand_frames, frame_mask, zero_padding
from distill.logmel import HOP, WINDOW, log_mel
from teachers.checkpoint import CheckpointError, open_checkpoint

FRAME = 2 * HOP  # samples per frame: the encoder halves the rate of the log-mel
SIZES = {
    "mini": str(Path(__file__).parent / "mini" / "whisper"),
    "base": "openai/whisper-small",
    "large": "openai/whisper-medium",
}


class WhisperEncoder(Encoder):
    """The encoder of a WhisperModel; every clip is heard in a whole window of silence, as in its training.

    Frame t is centred on sample 320 t: log-mel and convolutions are padded on both sides.
    """

    def __init__(self, model: WhisperModel):
        super().__init__()
        self.model = model.get_encoder()  # the decoder is let go
        self.channels = model.config.num_mel_bins
        self.window = model.config.max_source_positions * FRAME  # samples
        self.grid = Grid(SAMPLE_RATE / FRAME, 0.0)
        self.layers = model.config.encoder_layers + 1
        self.width = model.config.d_model
        self.train(model.training)

    def frames(self, samples_B: Tensor) -> Tensor:
        """Frames centred inside clips of so many samples: (B,) -> (B,)."""
        return -(-samples_B // FRAME)

    def forward(self, audio_BN: Tensor, lengths_B: Tensor) -> Features:
        """Features up to the longest clip of the batch; ValueError for a clip longer than the window."""
        frames_B = demand_frames(self, lengths_B)
        self._demand_window(lengths_B)
        audio_BN = audio_BN.masked_fill(~frame_mask(lengths_B, audio_BN.shape[1]), 0.0)
        window_BN = F.pad(audio_BN, (0, self.window - audio_BN.shape[1]))
        mel_BMT = log_mel(window_BN, self.channels).to(self.model.dtype)
        stack = self.model(mel_BMT, output_hidden_states=True).hidden_states
        heard = int(frames_B.max())
        hidden_BLTD = torch.stack([hidden_BTD[:, :heard] for hidden_BTD in stack], dim=1)
        return Features(zero_padding(hidden_BLTD, frames_B), frames_B, self.grid)

    def _demand_window(self, lengths_B: Tensor) -> None:
        longest, seconds = int(lengths_B.argmax()), int(lengths_B.max()) / SAMPLE_RATE
        if seconds > self.window / SAMPLE_RATE:
            raise ValueError(
                f"Whisper takes {self.window / SAMPLE_RATE:.1f} s at most, got {seconds:.1f} s in clip "
                f"{longest} of the batch; cut it or leave it out"
            )


def load_whisper(checkpoint: str) -> WhisperEncoder:
    """Whisper: transcription of 680,000 h of labelled speech (arXiv 2212.04356)."""
    model, extractor = open_checkpoint(checkpoint, WhisperModel, WhisperFeatureExtractor)
    wanted = {"sampling_rate": SAMPLE_RATE, "hop_length": HOP, "n_fft": WINDOW, "dither": 0.0}
    settings = extractor.to_dict()
    for key, value in (wanted | {"feature_size": model.config.num_mel_bins}).items():
        if settings[key] != value:
            raise CheckpointError(
                f"{checkpoint}: preprocessor_config.json says {key}={settings[key]}, the log-mel here has "
                f"{value}; use a checkpoint with Whisper's own log-mel"
            )
    return WhisperEncoder(model)
