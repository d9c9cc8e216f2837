"""Several ranks: sums over them, and parameters sharded over them (FSDP2)."""

import torch
import torch.distributed as dist

from models.speech_lm.model import SpeechLM


def sum_over_ranks(tensors: list[torch.Tensor]) -> None:
    """Replace tensors of any shape by their sums over all ranks, in one collective; a single rank changes nothing."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return
    flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def broadcast_from_first_rank(number: int) -> int:
    """Return rank 0's number on every rank."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    shared = torch.tensor([number], device=device)
    dist.broadcast(shared, 0)
    return int(shared)


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
    return whole(tensor).detach().to("cpu", copy=True).contiguous()


def shard_like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor sharded as a parameter is."""
    value = value.to(parameter.device)
    if _is_spread(parameter):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor on its device, gathered where it is sharded over ranks: every rank must call this."""
    full: torch.Tensor = tensor.full_tensor() if _is_spread(tensor) else tensor  # type: ignore[attr-defined]
    return full
