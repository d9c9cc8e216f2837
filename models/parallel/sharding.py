"""Parameters sharded over ranks (FSDP2)."""

from collections.abc import Callable

import torch
import torch.distributed as dist

from models.speech_lm.model import SpeechLM


def shard(model: SpeechLM, dtype: torch.dtype, size: int = 0) -> None:
    """Shard every parameter over ranks; whole parameters are gathered block by block, in a type, when they are needed.

    Gradients are summed over ranks, not averaged: the loss is divided once, by the weight of the global batch.

    Args:
        model: on its device.
        dtype: that is computed in.
        size: ranks that hold all parameters together, 0 for all; every group of so many neighbours has a copy (HSDP).

    Source: Zhao et al. 2023, "PyTorch FSDP", arXiv:2304.11277, section 3.2; `torch.distributed.fsdp.fully_shard`.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if dtype is torch.bfloat16
        else MixedPrecisionPolicy()
    )
    ranks = dist.get_world_size()
    mesh = None
    if 0 < size < ranks:
        device_type = model.norm.weight.device.type
        mesh = init_device_mesh(device_type, (ranks // size, size), mesh_dim_names=("replicate", "shard"))
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
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
    return local[: max(0, 1 - rows_of(tensor)[0])]


def rows_of(tensor: torch.Tensor) -> tuple[int, int]:
    """Return which rows [first, last) of a sharded tensor this rank holds: FSDP2 cuts them as `torch.chunk` does."""
    from torch.distributed.tensor import DTensor

    assert isinstance(tensor, DTensor)
    mesh, number = tensor.device_mesh, len(tensor)
    size = -(-number // mesh.size(mesh.ndim - 1))
    first = min(mesh.get_local_rank(mesh.ndim - 1) * size, number)
    last = min(first + size, number)
    assert len(tensor.to_local()) == last - first
    return first, last


def own_part(tensor: torch.Tensor, rank: int) -> torch.Tensor | None:
    """Return a copy, on the CPU, of what this rank is to store of a tensor: its rows where they are sharded.

    None where there are none, or another rank stores them: rank 0 what every rank has, the first of several groups of
    ranks what each group has.
    """
    local = tensor.detach()
    if _is_spread(tensor):
        from torch.distributed.tensor import DTensor

        assert isinstance(tensor, DTensor)
        mesh, is_whole = tensor.device_mesh, not any(placement.is_shard() for placement in tensor.placements)
        local = tensor.to_local().detach()
        if (rank > 0) if is_whole else (rank >= mesh.size(mesh.ndim - 1) or not len(local)):
            return None
    elif rank > 0:
        return None
    return local.to("cpu", copy=True).contiguous()


def with_rows(parameter: torch.Tensor, read: Callable[[int, int | None], torch.Tensor]) -> torch.Tensor:
    """Return a tensor that is sharded as a parameter is, on its device.

    Args:
        parameter: whole or sharded.
        read: returns rows [first, last) of the whole tensor; None for its end.
    """
    if not _is_spread(parameter):
        return read(0, None).to(parameter.device)
    from torch.distributed.tensor import DTensor

    assert isinstance(parameter, DTensor)
    local = read(*rows_of(parameter)).to(parameter.device)
    shape = torch.Size((len(parameter), *local.shape[1:]))
    return DTensor.from_local(
        local, parameter.device_mesh, parameter.placements, run_check=False, shape=shape, stride=parameter.stride()
    )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor on its device, gathered where it is sharded over ranks: every rank must call this."""
    full: torch.Tensor = tensor.full_tensor() if _is_spread(tensor) else tensor  # type: ignore[attr-defined]
    return full
