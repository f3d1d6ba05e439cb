"""What the ready-made students cost: parameters, multiply-adds and time on one core, as a table.

python -m benchmarks.presets [preset ...]

Real-time factors are seconds of processor time per second of audio, by a student as it is published (plain float32
on one thread); processor time, so that other work on the machine does not count.
"""

import sys
from statistics import median
from time import process_time

import torch

from distill.encoders.cost import macs
from distill.features import SAMPLE_RATE, Encoder, parameters
from distill.loading import RECIPES, load, menu
from students import make_student
from teachers import FAMILIES

SECONDS, CLIPS, REPEATS = 10, 6, 3  # of a clip, in a full batch, of which the median counts


def main(names: list[str]) -> None:
    """A line for each preset, smallest first."""
    torch.set_num_threads(1)
    print(f"| preset | parameters | MACs/s | RTF, a clip of {SECONDS} s | RTF, {CLIPS} of them |")
    print("|---|---|---|---|---|")
    for name in names or sorted(menu(RECIPES / "students"), key=lambda name: int(name.removesuffix("m"))):
        print("| " + " | ".join([name, *costs(name)]) + " |", flush=True)


def costs(preset: str) -> list[str]:
    """Parameters, multiply-adds, real-time factors."""
    student = make_student(load(["recipe=wavlm+whisper", f"student.preset={preset}"], FAMILIES).student, 0).eval()
    audio_N = torch.randn(SECONDS * SAMPLE_RATE, generator=torch.Generator().manual_seed(0)).numpy()
    millions = [parameters(student) / 1e6, macs(student, audio_N, torch.device("cpu")) / 1e6]
    factors = [real_time(student, clips) for clips in (1, CLIPS)]
    return [f"{millions[0]:.1f} M", f"{millions[1]:.0f} M", *(f"{factor:.4f}" for factor in factors)]


@torch.no_grad()
def real_time(student: Encoder, clips: int) -> float:
    """Seconds of processor time per second of audio, of so many clips at once."""
    audio_BN = 0.1 * torch.randn(clips, SECONDS * SAMPLE_RATE)
    lengths_B = torch.full((clips,), SECONDS * SAMPLE_RATE)
    student(audio_BN[:, :SAMPLE_RATE], lengths_B.clamp(max=SAMPLE_RATE))  # what is made ready once
    times = []
    for _ in range(REPEATS):
        started = process_time()
        student(audio_BN, lengths_B)
        times.append(process_time() - started)
    return median(times) / (clips * SECONDS)


if __name__ == "__main__":
    main(sys.argv[1:])
