"""What parts are given and what they yield: the device, how large to measure, figures with their targets."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import torch

from tests.bench.clocks import timed

Value = float | int | str | bool


@dataclass(frozen=True)
class Figure:
    """One measured figure."""

    name: str
    value: Value
    target: str = ""
    is_reached: bool | None = None
    """Whether the target is reached; None where it is not judged."""
    is_required: bool = False
    """Whether the part has failed where the target is not reached: what is computed is wrong, not slow."""


@dataclass(frozen=True)
class Setting:
    """Where and how large to measure."""

    device: str
    is_small: bool = False
    """Tiny sizes, as on a CPU: they show that the code runs, and that what it computes is right."""

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    def pick(self, real: Value, small: Value) -> Value:
        """Return a size."""
        return small if self.is_small else real

    def right(self, name: str, error: float, most: float) -> Figure:
        """Return an error that may not be larger."""
        return Figure(name, float(f"{error:.3g}"), f"at most {most:g}", error <= most, is_required=True)

    def holds(self, name: str, claim: bool, because: Value = "") -> Figure:
        """Return a claim that must hold."""
        value: Value = claim if because == "" else f"{'yes' if claim else 'no'}: {because}"
        return Figure(name, value, "must hold", claim, is_required=True)

    def speed(self, name: str, value: float, *, least: float | None = None, most: float | None = None) -> Figure:
        """Return a figure whose target is judged on a GPU, at real sizes."""
        target = f"at least {least:,g}" if least is not None else f"at most {most:,g}" if most is not None else ""
        is_reached = None
        if target and self.is_cuda and not self.is_small:
            is_reached = (least is None or value >= least) and (most is None or value <= most)
        return Figure(name, float(f"{value:.4g}"), target, is_reached)

    @cached_property
    def matmul_flop_per_s(self) -> float:
        """The rate of a square matrix product in bf16, measured."""
        size = 256 if self.is_small else 8192
        a, b = (torch.randn(size, size, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        return 2 * size**3 / median(timed(lambda: a @ b, self.device, rounds=10, calls=3).device_s)

    @cached_property
    def bytes_per_s(self) -> float:
        """The rate of a copy, reads and writes together, measured."""
        number = 2**20 if self.is_small else 2**30
        source = torch.ones(number, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * number / median(timed(lambda: target.copy_(source), self.device, rounds=10, calls=3).device_s)


Part = Callable[[Setting], Iterator[Figure]]


@contextmanager
def exact_float32() -> Iterator[None]:
    """Multiply float32 matrices in float32: TF32 keeps 10 bits of each factor."""
    kept = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(kept)


def far(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the distance of values to exact ones, relative to the exact ones' norm."""
    found, exact = found.detach().double(), exact.detach().double()
    return float((found - exact).norm() / exact.norm().clamp_min(1e-300))
