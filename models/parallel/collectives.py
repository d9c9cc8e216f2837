"""Sums over ranks, and what rank 0 tells the others."""

import torch
import torch.distributed as dist


def has_others() -> bool:
    """Return whether there is more than one rank."""
    return dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(tensors: list[torch.Tensor]) -> None:
    """Replace tensors of any shape by their sums over all ranks, in one collective; a single rank changes nothing."""
    if not has_others():
        return
    flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def broadcast_from_first_rank(number: int) -> int:
    """Return rank 0's number on every rank."""
    if not has_others():
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    shared = torch.tensor([number], device=device)
    dist.broadcast(shared, 0)
    return int(shared)
