"""Clocks for work on a device: the host's, the device's own, and the share of the time in which the device is busy.

The same code runs on a CPU, where both clocks are one and the operators' own time counts as the device's.
"""

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

Work = Callable[[], object]


def wait(device: str) -> None:
    """Return when the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Times:
    """Seconds a call, an entry a round."""

    wall_s: list[float] = field(default_factory=list)
    """From the call until the device is done."""
    host_s: list[float] = field(default_factory=list)
    """Until the call returns: what the host needs to give the device its work."""
    device_s: list[float] = field(default_factory=list)
    """Between CUDA events before and after: the kernels, and the gaps in which the device waits for the host."""


@dataclass(frozen=True)
class Busy:
    """What a profile says of some work, a call."""

    kernel_s: float
    """Seconds in which at least one kernel ran (on a CPU: operator)."""
    wall_s: float
    num_kernels: float

    @property
    def share(self) -> float:
        """The share of the time in which the device is busy."""
        return self.kernel_s / self.wall_s


def one_round(work: Work, device: str, calls: int, into: Times) -> None:
    """Time some calls in a row, and enter their mean by each clock."""
    wait(device)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device == "cuda" else []
    started = time.perf_counter()
    if marks:
        marks[0].record()
    for _ in range(calls):
        work()
    if marks:
        marks[1].record()
    returned = time.perf_counter()
    wait(device)
    wall = time.perf_counter() - started
    into.wall_s.append(wall / calls)
    into.host_s.append((returned - started) / calls)
    into.device_s.append(marks[0].elapsed_time(marks[1]) / 1e3 / calls if marks else wall / calls)


def in_turn(
    works: Mapping[str, Work], device: str, *, rounds: int = 5, calls: int = 1, warm: int = 1
) -> dict[str, Times]:
    """Time several works in turn, so that a machine that slows down slows all of them.

    Args:
        works: by name.
        device: cpu or cuda.
        rounds: in each of which every work has a turn; another one begins each time.
        calls: a turn.
        warm: untimed calls that begin every turn.
    """
    found = {name: Times() for name in works}
    names = list(works)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            for _ in range(warm):
                works[name]()
            one_round(works[name], device, calls, found[name])
    return found


def timed(work: Work, device: str, *, rounds: int = 5, calls: int = 1, warm: int = 2) -> Times:
    """Time one work."""
    for _ in range(warm):
        work()
    return in_turn({"": work}, device, rounds=rounds, calls=calls, warm=0)[""]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length that spans cover together: kernels of two streams that overlap count once.

    >>> covered([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0)])
    4.0
    """
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


class Watch:
    """A profile of what a device does between `start` and `stop`."""

    def __init__(self, device: str) -> None:
        from torch.profiler import ProfilerActivity, profile

        self.device = device
        self._profile = profile(activities=[ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU])

    def start(self) -> None:
        """Begin."""
        wait(self.device)
        self._profile.start()
        self._started = time.perf_counter()

    def stop(self, calls: int = 1) -> Busy:
        """End; return what was done in each of some calls."""
        wait(self.device)
        wall = time.perf_counter() - self._started
        self._profile.stop()
        kind = torch.autograd.DeviceType.CUDA if self.device == "cuda" else torch.autograd.DeviceType.CPU
        spans = [
            (event.time_range.start, event.time_range.end)
            for event in self._profile.events()
            if event.device_type == kind and not getattr(event, "is_user_annotation", False)
        ]
        return Busy(covered(spans) / 1e6 / calls, wall / calls, len(spans) / calls)


def busy(work: Work, device: str, calls: int = 3) -> Busy:
    """Return how busy a work keeps the device; the profiler's own cost is in the wall time."""
    work()
    watch = Watch(device)
    watch.start()
    for _ in range(calls):
        work()
    return watch.stop(calls)


def memory_in_use(device: str) -> int:
    """Return the bytes in tensors on a GPU; on a CPU those of the process."""
    if device == "cuda":
        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_memory(work: Work, device: str) -> int:
    """Return the bytes that a work needs at most, on top of what was in use before it."""
    before = memory_in_use(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is of earlier work
    work()
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 - before


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and greatest of some values.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'low': 1.0, 'high': 3.0}
    """
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}
