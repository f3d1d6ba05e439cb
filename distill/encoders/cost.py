"""What an encoder costs: parameters, multiply-adds, time and memory on the device at hand."""

from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from distill.data.clips import Clips, pad
from distill.encoders.frames import by_length
from distill.encoders.live import Live
from distill.encoders.sharding import held
from distill.features import SAMPLE_RATE, Encoder, parameters

REPEATS = 5  # of which the median counts


def cost(encoder: Encoder, clips: Clips, seconds: float, device: torch.device) -> dict:
    """Parameters, multiply-adds per second of audio, real-time factors and peak memory.

    A real-time factor is seconds of work per second of audio: of one clip of median length, and of a full batch,
    `seconds` of audio padding included, where the padding is not counted as audio. Matrix products and convolutions
    are counted as multiply-adds, as the literature does; a Fourier transform is not.
    """
    encoder.eval()
    typical = [int(np.argsort(clips.samples)[len(clips) // 2])]
    batches = list(by_length(clips.samples, seconds))
    full = batches[(len(batches) - 1) // 2].tolist()  # neither the longest clips nor the rest
    return {
        "parameters": parameters(encoder),
        "macs": macs(encoder, clips.audio(typical[0]), device),
        "real_time_factor": real_time_factor(encoder, clips, typical, device),
        "real_time_factor_batch": real_time_factor(encoder, clips, full, device),
        "batch_clips": len(full),
        "peak_memory": peak_memory(encoder, *pad([clips.audio(row) for row in full]), device),
    }


@torch.no_grad()
def macs(encoder: Encoder, audio_N: np.ndarray, device: torch.device) -> float:
    """Multiply-adds in a second of audio, counted on one clip."""
    audio_BN, lengths_B = (tensor.to(device) for tensor in pad([audio_N]))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder(audio_BN, lengths_B)
    return counter.get_total_flops() / 2 / (len(audio_N) / SAMPLE_RATE)


@torch.no_grad()
def real_time_factor(encoder: Encoder, clips: Clips, rows: list[int], device: torch.device) -> float:
    """Seconds in which a second of these clips' audio is heard, in one batch."""
    audio_BN, lengths_B = (tensor.to(device) for tensor in pad([clips.audio(row) for row in rows]))
    seconds = float(lengths_B.sum()) / SAMPLE_RATE
    times = []
    for _ in range(REPEATS):
        started = perf_counter()
        encoder(audio_BN, lengths_B).hidden.cpu()  # waits for an accelerator
        times.append(perf_counter() - started)
    return median(times) / seconds


@torch.no_grad()
def peak_memory(encoder: Encoder, audio_BN: Tensor, lengths_B: Tensor, device: torch.device) -> int:
    """Bytes of weights in this process, and of the tensors alive at once while a batch is heard, at most.

    Counted alike on every device, and the same every time; what a kernel takes for itself is not seen.
    """
    audio_BN, lengths_B = audio_BN.to(device), lengths_B.to(device)
    with Live() as live:
        encoder(audio_BN, lengths_B)
    return held(encoder) + audio_BN.nbytes + live.peak
