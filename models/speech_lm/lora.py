"""LoRA: a frozen matrix plus a trained low-rank update.

Source: Hu et al. 2021, "LoRA", arXiv:2106.09685, section 4.1.
"""

import torch
import torch.nn.functional as F
from torch import nn


class LoRALinear(nn.Linear):
    """W x + (alpha / rank) B A x, of which only A and B are trained; B starts as zero.

    >>> layer = LoRALinear(4, 3, rank=2, alpha=4.0)
    >>> [name for name, parameter in layer.named_parameters() if parameter.requires_grad]
    ['update_down', 'update_up']
    """

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float, *, bias: bool = False) -> None:
        """Make the matrices; the weight itself is frozen."""
        super().__init__(inputs, outputs, bias=bias)
        self.scale = alpha / rank
        self.update_down = nn.Parameter(torch.randn(rank, inputs) * inputs**-0.5)
        self.update_up = nn.Parameter(torch.zeros(outputs, rank))
        self.weight.requires_grad_(False)
        if bias:
            self.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs)."""
        update = F.linear(F.linear(x, self.update_down), self.update_up)
        return F.linear(x, self.weight, self.bias) + self.scale * update

    @torch.no_grad()
    def merged(self) -> torch.Tensor:
        """Return the single matrix (D_out, D_in) that is equivalent."""
        return self.weight + self.scale * (self.update_up @ self.update_down)


def freeze_all_but_updates(module: nn.Module) -> None:
    """Leave only the low-rank updates of a module to be trained."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.endswith(("update_down", "update_up")))
