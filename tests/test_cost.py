"""What an encoder costs: multiply-adds, parameters and bytes are those worked out by hand."""

import io

import datasets
import numpy as np
import soundfile
import torch
from spoken import Levels

from distill.data.clips import Clips
from distill.encoders.cost import cost, peak_memory
from distill.encoders.live import Live

CPU = torch.device("cpu")


def test_multiply_adds_and_parameters_are_those_worked_out_by_hand():
    measured = cost(Levels(), seconds_of(1, count=4), 3.0, CPU)
    assert measured["parameters"] == 2 * 12 + 12
    assert measured["macs"] == 50 * 2 * 12  # frames, inputs, outputs
    assert measured["real_time_factor"] > 0 and measured["real_time_factor_batch"] > 0
    assert measured["batch_clips"] == 3


def seconds_of(seconds: int, count: int) -> Clips:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16_000 * seconds), 16_000, format="WAV", subtype="FLOAT")
    row = {"id": "a", "audio": {"bytes": file.getvalue(), "path": None}, "samples": 16_000 * seconds}
    return Clips(datasets.Dataset.from_list([row] * count).cast_column("audio", datasets.Audio(decode=False)))


def test_memory_is_counted_while_it_is_held():
    with Live() as live:
        first = torch.zeros(1000)  # 4 kB
        second = first + 1
        view = second.view(10, 100)
        view.add_(1)  # nothing new
        del first
        third = view * 2
        del second
        assert live.now == 8000  # the view holds the second
        del view, third
    assert (live.now, live.peak) == (0, 8000)


def test_peak_memory_is_weights_audio_and_what_a_pass_holds_at_once():
    class Chain(Levels):
        """Two maps of a 4 kB clip to 40 kB, the first gone when the third is made."""

        def forward(self, audio_BN, lengths_B):
            once = audio_BN.repeat(1, 10)
            twice = once + 1
            del once
            return (twice * 2).sum()

    weights = 4 * (2 * 12 + 12)
    assert peak_memory(Chain(), torch.zeros(1, 1000), torch.tensor([1000]), CPU) == weights + 4000 + 80_000 + 4
