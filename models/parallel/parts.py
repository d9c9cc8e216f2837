"""Tensors in one file or in parts: each rank writes the rows that it holds, and any rank reads the rows that it needs.

Parts are safetensors; row by row, in order of their names, they make the whole. torch's distributed checkpoints do the
same, but their metadata is a pickle.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open

from models.config.header import check_checkpoint_files, tensor_files
from models.parallel.sharding import with_rows


class StoredTensors:
    """The tensors of a kind in a checkpoint, read by rows; files are memory-mapped."""

    def __init__(self, path: Path, stem: str) -> None:
        """Open a checkpoint's files of a kind: `model`, `raw` or `optimizer`.

        Raises:
            InputError: one is missing or damaged.
            OSError: one cannot be read.
            SafetensorError: one is not what its name says.
        """
        names = tensor_files(path, stem)
        check_checkpoint_files(path, *names)
        self._files: list[Any] = [safe_open(path / name, "pt") for name in names]
        self._of: dict[str, list[Any]] = {}
        for file in self._files:
            for name in file.keys():  # noqa: SIM118 - it is not a mapping
                self._of.setdefault(name, []).append(file)

    def __iter__(self) -> Iterator[str]:
        """Yield the tensors' names."""
        yield from self._of

    def __contains__(self, name: str) -> bool:
        """Return whether there is a tensor of a name."""
        return name in self._of

    def shape(self, name: str) -> torch.Size:
        """Return the shape of a whole tensor."""
        shapes = [file.get_slice(name).get_shape() for file in self._of[name]]
        return torch.Size((sum(one[0] for one in shapes), *shapes[0][1:]) if shapes[0] else ())

    def rows(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Return rows [first, last) of a tensor; all of a scalar."""
        files = self._of[name]
        if not self.shape(name):
            scalar: torch.Tensor = files[0].get_tensor(name)
            return scalar
        found, start = [], 0
        for file in files:
            part = file.get_slice(name)
            size = part.get_shape()[0]
            begin, end = max(first - start, 0), size if last is None else min(last - start, size)
            if begin < end:
                found.append(part[begin:end])
            start += size
        if len(found) != 1:
            return torch.cat(found) if found else files[0].get_tensor(name)[:0]
        one: torch.Tensor = found[0]
        return one

    def like(self, name: str, parameter: torch.Tensor) -> torch.Tensor:
        """Return a tensor on a parameter's device; where that is sharded, only this rank's rows are read."""
        return with_rows(parameter, lambda first, last: self.rows(name, first, last))

    @torch.no_grad()
    def fill(self, targets: Mapping[str, torch.Tensor], optional: frozenset[str] = frozenset()) -> None:
        """Copy every tensor into the one of its name, one after the other.

        Args:
            targets: whole tensors, or sharded ones.
            optional: names that may be missing, whose targets stay as they are.

        Raises:
            RuntimeError: names or shapes differ.
        """
        missing = [name for name in targets if name not in self and name not in optional]
        unexpected = [name for name in self if name not in targets]
        if missing or unexpected:
            raise RuntimeError(f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unexpected) or 'none'}")
        for name, target in targets.items():
            if name not in self:
                continue
            if self.shape(name) != target.shape:
                raise RuntimeError(f"{name} has shape {tuple(self.shape(name))}, not {tuple(target.shape)}")
            target.copy_(self.like(name, target))


class PartWriters:
    """The ranks that write a checkpoint together; in the background, apart from the collectives of training."""

    def __init__(self, size: int) -> None:
        """Make the first so many ranks a group; every rank must call this, whether it is one of them or not."""
        self.size, self.rank = size, dist.get_rank()
        self._group = dist.new_group(list(range(size)), backend="gloo")

    @property
    def is_one(self) -> bool:
        """Whether this rank writes."""
        return self.rank < self.size

    @property
    def suffix(self) -> str:
        """What follows the kind in the name of this rank's files."""
        return f"-{self.rank + 1:05d}-of-{self.size:05d}"

    def exchange(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what every writer says, by rank, once all have said it: JSON values."""
        text = json.dumps(message).encode()
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(text)]), group=self._group)
        longest = int(max(lengths))
        given = torch.zeros(longest, dtype=torch.uint8)
        given[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        found = [torch.zeros_like(given) for _ in range(self.size)]
        dist.all_gather(found, given, group=self._group)
        return [json.loads(bytes(one[: int(n)].numpy())) for one, n in zip(found, lengths, strict=True)]
