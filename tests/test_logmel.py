"""Log-mel against transformers' own, and the baseline encoder's frames."""

import pytest
import torch
from transformers import WhisperFeatureExtractor

from distill.encoders.logmel import LogMel, log_mel
from distill.features import SAMPLE_RATE


@pytest.mark.parametrize("channels", [80, 128])
def test_log_mel_is_whispers(channels, noise):
    clips = [noise(31_000), noise(9_001) * torch.linspace(0, 3, 9_001), torch.zeros(16_000)]
    extractor = WhisperFeatureExtractor(feature_size=channels, chunk_length=2)
    wanted_BMT = extractor([clip.numpy() for clip in clips], sampling_rate=SAMPLE_RATE, return_tensors="pt")
    window_BN = torch.stack([torch.nn.functional.pad(clip, (0, 2 * SAMPLE_RATE - len(clip))) for clip in clips])
    torch.testing.assert_close(log_mel(window_BN, channels), wanted_BMT.input_features, rtol=0, atol=1e-4)


def test_the_baseline_stacks_two_windows_of_its_own_clip(noise):
    clip = noise(16_000)
    hidden_TD = LogMel()(clip[None], torch.tensor([16_000])).hidden[0, 0]
    assert hidden_TD.shape == (49, 160)
    assert LogMel().frames(torch.tensor([559, 560, 879, 880])).tolist() == [0, 1, 1, 2]
    # log_mel centres window j on sample 160 j: in audio that lacks 40 samples, window j + 1 begins there
    late_TM = log_mel(clip[None, 40:], 80)[0].T
    torch.testing.assert_close(hidden_TD[1:40, :80], late_TM[3:81:2], rtol=0, atol=1e-4)
    torch.testing.assert_close(hidden_TD[1:40, 80:], late_TM[4:82:2], rtol=0, atol=1e-4)


def test_digital_silence_is_finite():
    features = LogMel()(torch.zeros(1, 8_000), torch.tensor([8_000]))
    assert features.hidden.eq(-1.5).all()  # (log10(1e-10) + 4) / 4
