"""How cells are drawn, on the device that has the logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a cell is drawn from its distribution."""

    temperature: float = 1.0
    """Below 1 sharper, above flatter; 0 takes the likeliest."""
    top_p: float = 0.95
    """Nucleus: the likeliest ids that make up this share. Holtzman et al. 2020, arXiv:1904.09751, section 3.1."""
    repetition_window: int = 10
    """Columns in which an id may not come too often."""
    repetition_share: float = 0.5
    """Above this share of them it is drawn again, from all ids. Chen et al. 2024, "VALL-E 2", arXiv:2406.05370, 3.3."""
    seed: int = 0
    """Prompt number i has generator seed + i: what else is made at once changes nothing."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.repetition_window < 0:
            raise ValueError("sampling: temperature >= 0, 0 < top_p <= 1 and repetition_window >= 0 must hold")

    def uniforms(self, numbers: Sequence[int], columns: int, streams: int) -> torch.Tensor:
        """Return all numbers that answers can need, (n, columns, streams + 1, 2) in [0, 1), on the CPU.

        Args:
            numbers: of the prompts.
            columns: of the longest answer; each column's draws are its own, given or not.
            streams: cells in a column; the last draw is of the end.
        """
        generators = (torch.Generator().manual_seed(self.seed + number) for number in numbers)
        return torch.stack([torch.rand((columns, streams + 1, 2), generator=one) for one in generators])

    def draw(self, logits: torch.Tensor, uniforms: torch.Tensor, recent: torch.Tensor | None) -> torch.Tensor:
        """Return an id for each row.

        Args:
            logits: (B, V).
            uniforms: (B, 2) in [0, 1).
            recent: (B, W) ids that came before, where repetition counts; -1 where there is none.
        """
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        probabilities = torch.softmax(logits.double() / self.temperature, dim=-1)
        ranked, order = probabilities.sort(dim=-1, descending=True)
        kept = ranked.where(ranked.cumsum(dim=-1) - ranked < self.top_p, torch.zeros_like(ranked))
        chosen = order.gather(1, _inverse(kept, uniforms[:, 0])[:, None])[:, 0]
        if recent is None or not recent.shape[1]:
            return chosen
        often = (recent == chosen[:, None]).double().mean(dim=-1) > self.repetition_share
        return torch.where(often, _inverse(probabilities, uniforms[:, 1]), chosen)


def _inverse(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return where each row's running sum of weights passes a share of the whole."""
    running = weights.cumsum(dim=-1)
    passed = (running <= uniforms[:, None] * running[:, -1:]).sum(dim=-1)
    return passed.clamp(max=weights.shape[1] - 1)
