"""Gradients summed over ranks while the backward pass still runs, bucket by bucket."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist


class OverlappedSums:
    """Sums gradients over ranks in buckets; a bucket leaves when the last of its gradients is there.

    Buckets leave in one order on every rank, as collectives must: one whose gradients are there early waits for those
    before it. What has not left when the passes end, since a parameter had no part in them or the rank had no pass,
    leaves then.
    Source: Li et al. 2020, "PyTorch Distributed", arXiv:2006.15704, section 3.2 (buckets, in reverse order).
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], bucket_bytes: float) -> None:
        """Cut parameters into buckets, the last ones first: their gradients are there first.

        Args:
            parameters: in the same order on every rank; each has a gradient when the sums are finished.
            bucket_bytes: of float32 gradients; a larger parameter is a bucket of its own.
        """
        self.buckets: list[list[torch.nn.Parameter]] = []
        size = bucket_bytes
        for parameter in reversed(list(parameters)):
            if size + 4 * parameter.numel() > bucket_bytes:
                self.buckets.append([])
                size = 0
            self.buckets[-1].append(parameter)
            size += 4 * parameter.numel()
        self._begin()

    def _begin(self) -> None:
        self._missing = [len(bucket) for bucket in self.buckets]
        self._sent: list[tuple[torch.Tensor, dist.Work]] = []

    @contextmanager
    def during_backward(self) -> Iterator[None]:
        """Send buckets from the backward passes in this block, of which there is one, or none."""
        handles = [
            parameter.register_post_accumulate_grad_hook(partial(self._is_there, number))  # type: ignore[no-untyped-call]
            for number, bucket in enumerate(self.buckets)
            for parameter in bucket
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _is_there(self, number: int, _: torch.Tensor) -> None:
        """Count a gradient of a bucket; send the buckets whose turn it is."""
        self._missing[number] -= 1
        while len(self._sent) < len(self.buckets) and not self._missing[len(self._sent)]:
            self._send()

    def _send(self) -> None:
        flat = torch.cat([one.flatten().float() for one in self._gradients(len(self._sent))])
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None
        self._sent.append((flat, work))

    def _gradients(self, number: int) -> list[torch.Tensor]:
        found = [parameter.grad for parameter in self.buckets[number]]
        return [one.detach() for one in found if one is not None]

    def finish(self) -> None:
        """Send what has not left; replace every gradient by its sum over ranks. Every rank must call this."""
        while len(self._sent) < len(self.buckets):
            self._send()
        for number, (flat, work) in enumerate(self._sent):
            work.wait()
            gradients = self._gradients(number)
            parts = torch.split(flat, [one.numel() for one in gradients])
            torch._foreach_copy_(gradients, [part.view_as(one) for part, one in zip(parts, gradients, strict=True)])
        self._begin()
