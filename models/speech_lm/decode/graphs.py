"""CUDA graphs of a decoding step: launched kernel by kernel, a step costs a GPU many times its arithmetic."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

Step = Callable[[int], None]
"""A step that attends to a window of so many columns."""
Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Records what a function does to its tensors, without doing it; returns what does it again."""

_FIRST = 128
_WARM_UPS = 1


def slot_bucket(wanted: int) -> int:
    """Return the number of slots that so many sequences are decoded in: a power of two, from 8 on a multiple of 8.

    >>> [slot_bucket(wanted) for wanted in (1, 3, 8, 9, 30)]
    [1, 4, 8, 16, 32]
    """
    return -(-wanted // 8) * 8 if wanted > 8 else 1 << (wanted - 1).bit_length()


def window_bucket(wanted: int) -> int:
    """Return the window that so many columns are attended in: 128, 192, 256, 384 ... times 2.

    At most half of a window is more than was asked for, and 16,384 columns take 15 graphs.

    >>> [window_bucket(wanted) for wanted in (1, 128, 129, 200, 257, 1000)]
    [128, 128, 192, 256, 384, 1024]
    """
    size = _FIRST
    while size < wanted:
        size *= 2
    return size // 4 * 3 if size > _FIRST and size // 4 * 3 >= wanted else size


@dataclass(frozen=True)
class Pace:
    """How decoding is scheduled on a kind of device; changes no result beyond rounding."""

    look_every: int = 1
    """Steps between looks at which answers have ended: each look waits for the device."""
    in_buckets: bool = False
    """Whether slots and windows are rounded up, so that few shapes occur."""
    capture: Capture | None = None
    """What captures a step."""


def pace_of(device_type: str) -> Pace:
    """Return how a kind of device decodes: a CPU loses nothing by looking, nor gains anything by fixed shapes."""
    return Pace(look_every=16, in_buckets=True, capture=_CudaCapture()) if device_type == "cuda" else Pace()


class _CudaCapture:
    """Captures into graphs that share one pool of memory, for they never run at once."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # What other threads do on the device, such as copying a batch there, is no part of a step and spoils none.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            function()
        return graph.replay


@dataclass
class Runner:
    """Runs a step in windows; each size is run plainly at first, which loads its kernels, and captured the second time.

    Where a capture fails, steps are run plainly from then on, with a warning.
    """

    step: Step
    pace: Pace
    most: int
    """Longest window: the capacity of the cache."""
    replays: dict[int, Callable[[], None]] = field(default_factory=dict)
    """By window."""
    _runs: dict[int, int] = field(default_factory=dict)
    _fails: bool = False

    def __call__(self, wanted: int) -> None:
        """Run one step that attends to at least so many columns."""
        window = min(window_bucket(wanted), self.most) if self.pace.in_buckets else wanted
        if self.pace.capture is None or self._fails:
            self.step(window)
            return
        if window not in self.replays:
            if self._runs.setdefault(window, 0) < _WARM_UPS:
                self._runs[window] += 1
                self.step(window)
                return
            try:
                self.replays[window] = self.pace.capture(lambda: self.step(window))
            except Exception as error:  # noqa: BLE001 - whatever a driver or an operation of another build raises
                self._fails = True
                first = str(error).splitlines()[0] if str(error) else ""
                warnings.warn(f"decoding without CUDA graphs: {type(error).__name__}: {first}", stacklevel=2)
                self.step(window)
                return
        self.replays[window]()
