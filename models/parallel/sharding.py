"""Parameters sharded over ranks (FSDP2)."""

from typing import Any

import torch

from models.speech_lm.model import SpeechLM


def shard(model: SpeechLM, dtype: torch.dtype) -> None:
    """Shard every parameter over ranks; whole parameters are gathered block by block, in a type, when they are needed.

    Gradients are summed over ranks, not averaged: the loss is divided once, by the weight of the global batch.
    Source: Zhao et al. 2023, "PyTorch FSDP", arXiv:2304.11277, section 3.2; `torch.distributed.fsdp.fully_shard`.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if dtype is torch.bfloat16
        else MixedPrecisionPolicy()
    )
    for block in model.blocks:
        fully_shard(block, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(enable=True)


def reshard(model: SpeechLM) -> None:
    """Free whole parameters that were gathered for a pass without a backward pass."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _is_spread(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is a DTensor, without half a second of imports where there is none."""
    return hasattr(tensor, "full_tensor")


def first_row(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view (1, ...) of a tensor's first row; (0, ...) on a rank that does not hold it."""
    if not _is_spread(tensor):
        return tensor[:1]
    from torch.distributed.tensor import DTensor

    assert isinstance(tensor, DTensor)
    local = tensor.to_local()
    return local[:1] if tensor.device_mesh.get_local_rank() == 0 else local[:0]


def gather_full(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of a tensor on the CPU, gathered from all ranks' shards: every rank must call this."""
    full: torch.Tensor = tensor.full_tensor() if _is_spread(tensor) else tensor  # type: ignore[attr-defined]
    return full.detach().to("cpu", copy=True).contiguous()


def shard_like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor sharded as a parameter is."""
    value = value.to(parameter.device)
    if _is_spread(parameter):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value


def local_value(tensor: Any) -> float:
    """Return the value of a scalar that may be sharded over ranks."""
    return float(tensor.full_tensor() if _is_spread(tensor) else tensor)
