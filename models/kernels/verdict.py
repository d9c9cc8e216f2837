"""Which Triton kernels a device is to use: those that are right, and no slower than torch's own operations.

Found by one trial, and remembered by device and versions in the user's cache.
"""

import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import torch

from models.config.folders import cache_folder
from models.kernels import plain
from models.kernels.kernel_trial import disagreements
from models.kernels.plain import Kind

_SLACK = 1.02
"""A kernel that takes this share of torch's own time is still used: the two are as fast."""


@dataclass(frozen=True)
class Tried:
    """The kernels, and which of them are used."""

    kernels: ModuleType
    faster: frozenset[str]


@dataclass(frozen=True)
class Verdict:
    """What a trial found."""

    failures: tuple[str, ...]
    """What was wrong; none of the kernels is used then."""
    faster: tuple[str, ...]
    """Kinds of operations whose kernel is not slower."""
    seconds: dict[str, tuple[float, float]]
    """By kind: of the kernel, and of torch's own."""


def verdict(kernels: ModuleType, device: torch.device) -> Verdict:
    """Return what a trial found on a device, now or before with the same device, driver, torch, Triton and kernels."""
    path = _path(kernels, device)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        if path is not None:
            held = json.loads(path.read_text())
            pairs = {str(kind): (float(one), float(other)) for kind, (one, other) in held["seconds"].items()}
            return Verdict(tuple(map(str, held["failures"])), tuple(map(str, held["faster"])), pairs)
    failures = tuple(disagreements(kernels, device))
    seconds: dict[str, tuple[float, float]] = {}
    if not failures:
        seconds |= {str(kind): pair for kind, pair in compared(kernels, device)}
    found = Verdict(failures, tuple(kind for kind, pair in seconds.items() if is_worth_it(*pair)), seconds)
    with contextlib.suppress(OSError):  # the next process tries again
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            staged = path.with_suffix(f".{os.getpid()}")
            staged.write_text(json.dumps(asdict(found)))
            staged.replace(path)
    return found


def is_worth_it(kernel_s: float, plain_s: float) -> bool:
    """Return whether a kernel that takes so long is used.

    >>> is_worth_it(1.0, 1.0), is_worth_it(0.3, 0.6), is_worth_it(0.66, 0.35)
    (True, True, False)
    """
    return kernel_s <= _SLACK * plain_s


def compared(
    kernels: ModuleType, device: torch.device, rows: int = 8192, width: int = 1024, ids: int = 2048, repeats: int = 15
) -> Iterator[tuple[Kind, tuple[float, float]]]:
    """Yield each kind of operation, and seconds of its kernel and of torch's own, forward and backward, in turn.

    The seconds are the host's or the device's, whichever is longer: that is what a step waits for. The sizes are those
    of a model of 0.6 B parameters in bf16.

    Args:
        kernels: the module of the kernels.
        device: where they run.
        rows: columns of a batch.
        width: of the model, in steps of 16.
        ids: of each of eight streams; text has 16 times as many.
        repeats: rounds, of which the median counts.
    """
    with torch.inference_mode(mode=False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for kind, works in _works(kernels, device, rows, width, ids):
            for work in works:
                work()  # compiles
            rounds = [[_seconds(work, device) for work in works] for _ in range(repeats)]
            one, other = (statistics.median(column) for column in zip(*rounds, strict=True))
            yield kind, (one, other)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Return how long some work takes the host to launch, or the device to do: the longer of both."""
    if device.type != "cuda":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    begin.record()
    work()
    end.record()
    host_s = time.perf_counter() - started
    torch.cuda.synchronize(device)
    device_s: float = begin.elapsed_time(end) / 1e3
    return max(host_s, device_s)


def _works(
    kernels: ModuleType, device: torch.device, rows: int, width: int, ids: int
) -> Iterator[tuple[Kind, tuple[Callable[[], None], Callable[[], None]]]]:
    """Yield each kind, and what its kernel and torch's own do to the same inputs."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()

    def both(
        run: Callable[[ModuleType], tuple[torch.Tensor, ...]], inputs: list[torch.Tensor]
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        slopes = [torch.ones_like(one) for one in run(plain)]

        def of(ops: ModuleType) -> Callable[[], None]:
            return lambda: torch.autograd.backward(run(ops), slopes, inputs=inputs)

        return of(kernels), of(plain)

    num_q, num_k, head = 16, 8, width // 8
    x, scale = draw(rows, width), draw(width, dtype=torch.float32)
    yield "norm", both(lambda ops: (ops.rms_norm(x, scale, 1e-6),), [x, scale])
    angles = draw(rows, 1, head // 2, dtype=torch.float32).detach()
    qkv, scales = draw(rows, (num_q + 2 * num_k) * head), [draw(head, dtype=torch.float32) for _ in range(2)]
    turns = angles.cos(), angles.sin()
    yield "heads", both(lambda ops: ops.heads(qkv, tuple(scales), *turns, (num_q, num_k), 1e-6), [qkv, *scales])
    gate_up = draw(rows, 6 * width)
    yield "swiglu", both(lambda ops: (ops.swiglu(gate_up),), [gate_up])
    streams, size = 8, ids + 1
    table, offsets = draw(streams * size, width, dtype=torch.float32), torch.arange(streams) * size
    cells = (torch.randint(0, size, (rows, streams), generator=generator) + offsets).to(device)
    pads = (offsets + size - 1).to(device)
    yield "embedding sum", both(lambda ops: (ops.embedding_sum(table, cells, pads),), [table])
    logits, shares = draw(rows // 8, 16 * ids).detach(), torch.rand(rows // 8, generator=generator).to(device)
    targets = torch.randint(0, 16 * ids, (rows // 8,), generator=generator).to(device)

    def losses(ops: ModuleType) -> Callable[[], None]:
        kind = shares.dtype if ops is plain else logits.dtype  # torch's own computes in float32
        return lambda: ops.cross_entropy_(logits.to(kind, copy=True), targets, shares, 0.0, gradient=True)

    yield "cross-entropy", (losses(kernels), losses(plain))


def _path(kernels: ModuleType, device: torch.device) -> Path | None:
    """Return where what was found is remembered; None where there is no such place."""
    source = Path(str(kernels.__file__)).read_bytes() + Path(plain.__file__).read_bytes()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    parts = (name, torch.__version__, str(torch.version.cuda), version("triton"))
    key = blake2b("\n".join(parts).encode() + source, digest_size=12).hexdigest()
    try:
        return cache_folder() / "kernels" / f"{key}.json"
    except RuntimeError:
        return None
