"""Muon in arithmetic that suits the processor: torch's own is in bfloat16, which most CPUs emulate, 50 times slower."""

import math
from typing import Any

import torch


class Muon(torch.optim.Muon):
    """torch's Muon, its orthogonalization in float32 on a CPU and in bfloat16 on a GPU; state and groups are the same.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982, section 2.2.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do one step; a closure is not taken."""
        if closure is not None:
            raise ValueError("this Muon takes no closure")
        for group in self.param_groups:
            lr, momentum = float(group["lr"]), group["momentum"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                mean = state["momentum_buffer"]
                mean.lerp_(gradient, 1 - momentum)
                update = gradient.lerp(mean, momentum) if group["nesterov"] else mean
                update = orthogonalized(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                parameter.mul_(1 - lr * group["weight_decay"])
                # As large as AdamW's updates.
                parameter.add_(update, alpha=-lr * 0.2 * math.sqrt(max(parameter.shape)))


def orthogonalized(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Return a matrix (A, B) with singular values near 1 by Newton-Schulz iterations, in float32 on a CPU.

    >>> values = torch.linalg.svdvals(orthogonalized(torch.randn(8, 5), (3.4445, -4.775, 2.0315), 5, 1e-7))
    >>> bool(((values > 0.3) & (values < 1.3)).all())
    True
    """
    a, b, c = coefficients
    kind = torch.float32 if matrix.device.type == "cpu" else torch.bfloat16
    is_tall = matrix.shape[0] > matrix.shape[1]
    found = (matrix.T if is_tall else matrix).to(kind, copy=True)
    found.div_(found.norm().clamp(min=eps))
    for _ in range(steps):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return (found.T if is_tall else found).to(matrix.dtype)
