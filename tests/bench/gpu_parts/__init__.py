"""The parts of `make gpu-check`, each by itself: a function from a setting to figures, in the order of importance."""

from tests.bench.gpu_parts import arithmetic, encoders, environment, exact, memory, speed
from tests.bench.gpu_parts.setting import Part

PARTS: dict[str, tuple[float, Part]] = {
    "environment": (10, environment.environment),
    "defaults": (30, environment.defaults),
    "parity": (20, exact.parity),
    "resume": (20, exact.resume),
    "kernels": (25, arithmetic.kernels),
    "attention": (40, arithmetic.attention),
    "loss": (15, arithmetic.loss),
    "training": (100, speed.training),
    "transformers": (25, speed.transformers),
    "generation": (15, speed.generation),
    "memory": (15, memory.ceiling),
    "long_run": (30, exact.long_run),
    "encoders": (10, encoders.encoders),
}
"""Name to budget in seconds, on an H100, and function."""
