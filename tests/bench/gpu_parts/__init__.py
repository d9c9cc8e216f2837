"""The parts of `make gpu-check`, each by itself: a function from a setting to figures, in the order of importance."""

from tests.bench.gpu_parts import arithmetic, encoders, environment, exact, memory, speed
from tests.bench.gpu_parts.setting import Part

PARTS: dict[str, tuple[float, Part]] = {
    "environment": (10, environment.environment),
    "defaults": (15, environment.defaults),
    "parity": (25, exact.parity),
    "resume": (25, exact.resume),
    "kernels": (30, arithmetic.kernels),
    "attention": (40, arithmetic.attention),
    "loss": (20, arithmetic.loss),
    "training": (80, speed.training),
    "transformers": (30, speed.transformers),
    "generation": (20, speed.generation),
    "memory": (20, memory.ceiling),
    "long_run": (30, exact.long_run),
    "encoders": (10, encoders.encoders),
}
"""Name to budget in seconds, on an H100, and function."""
