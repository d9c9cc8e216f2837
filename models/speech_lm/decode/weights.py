"""A model's weights as decoding reads them: cast once, not by autocast in every step, low-rank updates merged."""

import copy
from typing import Any

import torch
from torch import nn

from models.speech_lm.compiled import uncompile_blocks
from models.speech_lm.lora import LoRALinear
from models.speech_lm.model import SpeechLM

Versions = tuple[tuple[int, int], ...]


def versions_of(model: SpeechLM) -> Versions:
    """Return what changes whenever a parameter does."""
    return tuple((parameter.data_ptr(), parameter._version) for parameter in model.parameters())  # noqa: SLF001


@torch.no_grad()
def decoding_copy(model: SpeechLM, dtype: torch.dtype) -> SpeechLM:
    """Return a model of the same function, for decoding only, whose weights are of a type.

    A speech encoder is shared, for steps do not read it.
    """

    def cast(tensor: torch.Tensor) -> nn.Parameter:
        return nn.Parameter(tensor.detach().to(dtype, copy=True), requires_grad=False)

    memo: dict[int, Any] = {}
    replaced: list[nn.Module] = []
    if model.front_end is not None:
        memo[id(model.front_end)] = model.front_end
        replaced.append(model.front_end)
    for module in model.blocks.modules():
        if isinstance(module, LoRALinear):
            merged = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
            merged.weight = cast(module.merged())
            if module.bias is not None:
                merged.bias = cast(module.bias)
            memo[id(module)] = merged
            replaced.append(module)
    apart = {id(parameter) for module in replaced for parameter in module.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in apart:
            memo[id(parameter)] = cast(parameter)
    made: SpeechLM = copy.deepcopy(model, memo)
    uncompile_blocks(made)
    if made.text_update_up is not None:
        made.text_embedding.weight = cast(model.text_table)
        made.text_update_up = None
    if made.text_head is not None and made.head_update_up is not None:
        made.text_head.weight = cast(model.text_weight)
        made.head_update_up = None
    return made.eval()
