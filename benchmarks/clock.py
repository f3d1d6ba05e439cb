"""Where the time goes: seconds by part of a step, and rates of work that is repeated."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

BACKWARD = "backward"  # the part of a step that is split
WARM, STEPS = 2, 5  # repetitions that are not counted, and those that medians are taken over


class Clock:
    """Seconds by part. Parts lie inside each other, and a second belongs to the innermost alone.

    now: what tells the seconds; `process_time` where other work is on the machine.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = perf_counter):
        self.device, self.now, self.open, self.since = device, now, [], 0.0
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

    def split_backward(self, name: str, output: Tensor) -> None:
        """What is left of the part `backward` once the gradient has come back to this output is a part of its own."""
        if output.requires_grad:
            output.register_hook(lambda gradient: self._become(name))

    def enter(self, name: str) -> None:
        self._turn()
        self.open.append(name)

    def leave(self) -> None:
        self._turn()
        self.open.pop()

    def _become(self, name: str) -> None:
        if self.open and self.open[-1].startswith(BACKWARD):  # else a gradient that a loss asks for on its way
            self._turn()
            self.open[-1] = name

    def _turn(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = self.now()
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
