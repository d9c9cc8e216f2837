"""Tests the Triton kernels on the device at hand: values and gradients against the plain references, at odd shapes."""

from collections.abc import Callable, Iterator
from types import ModuleType

import torch
import torch.nn.functional as F

from models.kernels import plain

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Largest error, relative to the largest value: kernels round once, the references after every operation."""

Work = Callable[..., tuple[torch.Tensor, ...]]
Case = tuple[str, Work, Work, list[torch.Tensor]]


def _cases(kernels: ModuleType, many: int, draw: Callable[..., torch.Tensor]) -> Iterator[Case]:
    """Yield a name, the kernel, its reference, and the inputs that get gradients."""
    eps = 1e-5
    for rows, width in ((1, 8), (many, 24), (3, 1000)):
        yield (
            f"norm {rows} x {width}",
            lambda x, w: (kernels.rms_norm(x, w, eps),),
            lambda x, w: (plain.rms_norm(x, w, eps),),
            [draw(rows, width), draw(width, dtype=torch.float32)],
        )
    for rows, num_q, num_k, width, normed in ((many, 4, 2, 12, True), (5, 6, 1, 64, True), (3, 3, 3, 8, False)):
        angles = draw(rows, 1, width // 2, dtype=torch.float32).detach()
        cos, sin, sizes = angles.cos(), angles.sin(), [num_q, num_k, num_k]

        def of(
            ops: ModuleType,
            turn: tuple[torch.Tensor, torch.Tensor] = (cos, sin),
            counts: tuple[int, int] = (num_q, num_k),
        ) -> Work:
            return lambda x, *w: ops.heads(x, w or (None, None), *turn, counts, eps)

        scales = [draw(width, dtype=torch.float32) for _ in range(2 * normed)]
        yield f"heads {sizes} of {width}", of(kernels), of(plain), [draw(rows, sum(sizes) * width), *scales]
    for rows, width in ((1, 13), (4, 1500)):
        yield (
            f"swiglu {rows} x {width}",
            lambda x: (kernels.swiglu(x),),
            lambda x: (plain.swiglu(x),),
            [draw(rows, 2 * width)],
        )
    for rows, streams, width in ((50, 3, 6), (1, 40, 130)):
        ids = (torch.arange(rows * streams) * 7 % 5).view(rows, streams).to(draw(1).device)
        offsets = torch.arange(streams, device=ids.device) * 5
        yield (
            f"embedding sum {rows} x {streams}",
            lambda t, at=ids + offsets, frozen=offsets + 4: (kernels.embedding_sum(_zeroed(t, frozen), at, frozen),),
            lambda t, at=ids + offsets, frozen=offsets + 4: (plain.embedding_sum(_zeroed(t, frozen), at, frozen),),
            [draw(streams * 5, width)],
        )
    for cells, size in ((9, 7), (3, 5000)):
        targets = torch.arange(cells, device=draw(1).device) * 3 % size
        shares = draw(cells, dtype=torch.float32).detach().abs()
        yield (
            f"cross-entropy {cells} x {size}",
            lambda x, t=targets, s=shares: _kernel_losses(kernels, x, t, s),
            lambda x, t=targets, s=shares: _reference_losses(x, t, s),
            [draw(cells, size)],
        )


def _zeroed(table: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
    """Return the table (R, d) with frozen rows zero and without gradient."""
    kept = torch.ones(len(table), 1, dtype=table.dtype, device=table.device)
    return table * kept.index_fill(0, frozen, 0.0)


def _kernel_losses(
    kernels: ModuleType, logits: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return losses with and without gradient, and the gradient; adding 0 * logits lets autograd differentiate them."""
    logits_gradient = logits.detach().clone()
    losses = kernels.cross_entropy_(logits_gradient, targets, shares, 0.1, gradient=True)
    losses_only = kernels.cross_entropy_(logits.detach().clone(), targets, shares, 0.1, gradient=False)
    return losses + 0 * logits.sum(), losses_only, logits_gradient


def _reference_losses(logits: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor) -> tuple[torch.Tensor, ...]:
    exact = logits.detach().float().requires_grad_()
    losses = F.cross_entropy(exact, targets, reduction="none") + 0.1 * exact.logsumexp(-1).square()
    (slope,) = torch.autograd.grad((losses * shares).sum(), exact)
    losses = (losses * shares).detach()
    return losses + 0 * logits.sum(), losses, slope.to(logits.dtype)


def disagreements(kernels: ModuleType, device: torch.device, many: int = 700, kind: str = "") -> list[str]:
    """Return a line for each result of a kernel that differs from its reference; empty where all agree.

    Args:
        kernels: the module of the kernels.
        device: where they run.
        many: number of rows of the larger cases; above the number of programs, to test partial sums.
        kind: test only cases whose name starts with this.
    """
    # The first use may be in the middle of a step: under autocast, or without gradients.
    with torch.inference_mode(mode=False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        return _disagreements(kernels, device, many, kind)


def _disagreements(kernels: ModuleType, device: torch.device, many: int, kind: str) -> list[str]:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int, dtype: torch.dtype = dtype, generator: torch.Generator = generator) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()

        for name, kernel, reference, inputs in _cases(kernels, many, draw):
            if not name.startswith(kind):
                continue
            results = []
            for work in (kernel, reference):
                out = work(*inputs)
                slopes = [torch.linspace(-1, 1, one.numel(), device=device).view_as(one) for one in out]
                loss = sum((one * slope).sum() for one, slope in zip(out, slopes, strict=True))
                assert isinstance(loss, torch.Tensor)
                results.append([*out, *torch.autograd.grad(loss, inputs)])
            for number, (one, other) in enumerate(zip(*results, strict=True)):
                one, other = one.detach().float(), other.detach().float()  # noqa: PLW2901
                scale = max(float(other.abs().max()), 1e-6)
                error = float((one - other).abs().max()) / scale
                if not error <= TOLERANCE[dtype]:
                    found.append(f"{name}, {dtype}, result {number}: off by {error:.1e} of its largest value")
    return found
