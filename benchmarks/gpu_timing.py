"""Times on a device that works on its own: by its clock, or by the host's for what the host has to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from timing import Method

STEPS = 5
"""In one measurement, so that what the host does for a step overlaps with the step before, as in training."""
COPIES = 20


def seconds_of_device(step: Callable[[], object]) -> float:
    """The time of one step between two events on the device."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(STEPS):
        step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / STEPS


def seconds_of_host(step: Callable[[], object], synchronize: Callable[[], object] = lambda: None) -> float:
    """The time of one step until the last is done."""
    synchronize()
    begin = time.perf_counter()
    for _ in range(STEPS):
        step()
    synchronize()
    return (time.perf_counter() - begin) / STEPS


@dataclass
class Timed(Method):
    """A method with a clock.

    Attributes:
        clock: takes a step and returns its time in seconds.
    """

    clock: Callable[[Callable[[], object]], float] = seconds_of_host

    def seconds(self) -> float:
        self.prepare()
        return self.clock(self.step)


def clock_of(device: str, host_bound: bool) -> Callable[[Callable[[], object]], float]:
    """How to time steps on this device."""
    if device == "cpu":
        return seconds_of_host
    return (lambda step: seconds_of_host(step, torch.cuda.synchronize)) if host_bound else seconds_of_device


def copy_bandwidth(device: str, elements: int) -> float:
    """Bytes per second, read and written, of the fastest of several copies of so many float32 numbers."""
    source = torch.ones(elements, device=device)
    target = torch.empty_like(source)
    clock = clock_of(device, host_bound=False)
    best = min(clock(lambda: target.copy_(source)) for _ in range(COPIES))
    return 2 * source.nbytes / best
