"""LoRA: a frozen matrix plus a trained low-rank update; and which parts of a model are trained.

Source: Hu et al. 2021, "LoRA", arXiv:2106.09685, section 4.1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from models.config.options import PartName


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


def part_of(name: str) -> PartName:
    """Return the part of a speech-LLM that a parameter belongs to.

    >>> part_of("front_end.projector.inner.weight"), part_of("blocks.0.attention.qkv.update_up"), part_of("norm.weight")
    ('projector', 'lora', 'llm')
    """
    if name.startswith("front_end.hearing."):
        return "encoder"
    if name.startswith(("front_end.", "audio_")):
        return "projector"
    if name in ("text_update_up", "head_update_up"):
        return "tokens"
    return "lora" if name.endswith(("update_up", "update_down")) else "llm"


def train_only(model: nn.Module, parts: Sequence[PartName]) -> None:
    """Freeze all other parts of a speech-LLM; with no parts, nothing more than is frozen already.

    Raises:
        ValueError: there is nothing to train in one of them.
    """
    if not parts:
        return
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = {part_of(name) for name in trained}
    for part in parts:
        if part not in found:
            raise ValueError(
                f"train.only names {part}, of which the model trains nothing; it trains {', '.join(sorted(found))}"
            )
    for name, parameter in trained.items():
        parameter.requires_grad_(part_of(name) in parts)
