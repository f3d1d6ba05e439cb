"""Where the time goes: seconds by part of a step, and rates of work that is repeated."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter

import torch
from torch import nn

WARM, STEPS = 2, 5  # repetitions that are not counted, and those that medians are taken over


class Clock:
    """Seconds by part. Parts lie inside each other, and a second belongs to the innermost alone."""

    def __init__(self, device: torch.device):
        self.device, self.open, self.since = device, [], 0.0
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.enter(name)
        yield
        self.leave()

    def watch(self, name: str, module: nn.Module) -> None:
        """The forward passes of a module are a part."""
        module.register_forward_pre_hook(lambda module, inputs: self.enter(name))
        module.register_forward_hook(lambda module, inputs, output: self.leave())

    def enter(self, name: str) -> None:
        self._turn()
        self.open.append(name)

    def leave(self) -> None:
        self._turn()
        self.open.pop()

    def _turn(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = perf_counter()
        if self.open:
            self.seconds[self.open[-1]] += now - self.since
        self.since = now


def rate(audio: float, work: Callable[[], object]) -> float:
    """Audio seconds per second of some work that ends on the CPU."""
    times = []
    for _ in range(WARM + STEPS):
        started = perf_counter()
        work()
        times.append(perf_counter() - started)
    return audio / median(times[WARM:])
