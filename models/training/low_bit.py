"""AdamW whose moments are stored in 8 bits."""

from typing import Any

import torch
from torchao.optim import AdamW8bit as TorchaoAdamW8bit
from torchao.optim.subclass_8bit import OptimState8bit


class AdamW8bit(TorchaoAdamW8bit):  # type: ignore[misc]
    """AdamW with moments in 8 bits, scaled by blocks of 256; those of small tensors stay in float32.

    Source: Dettmers et al. 2021, "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861, section 2.
    """

    def kept(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what a checkpoint stores of a parameter's moments: codes and scales, or float32, by name."""
        found: dict[str, torch.Tensor] = {}
        for moment, value in self.state[parameter].items():
            if isinstance(value, OptimState8bit):
                found |= {f"{moment}.codes": value.codes, f"{moment}.scale": value.scale}
            else:
                found[moment] = value
        return found

    def restore(self, parameter: torch.Tensor, name: str, value: torch.Tensor) -> None:
        """Take up a part of what `kept` has returned."""
        state: dict[str, Any] = self.state[parameter]
        moment, _, part = name.partition(".")
        if not part:
            state[moment] = value.cpu() if moment == "step" else value
            return
        if moment not in state:
            state[moment] = self._new_buffer(parameter, moment == "exp_avg")
        getattr(state[moment], part).copy_(value)
