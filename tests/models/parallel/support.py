"""Ranks of one training, as processes."""

import os
import socket
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _rank(rank, world_size, port, work, arguments, backend):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=timedelta(seconds=60))
    work(rank, world_size, *arguments)
    dist.destroy_process_group()


def on_ranks(world_size, work, *arguments, backend="gloo"):
    """Call `work(rank, world_size, *arguments)` in as many processes; with nccl, each has a GPU."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    mp.spawn(_rank, args=(world_size, port, work, arguments, backend), nprocs=world_size)
