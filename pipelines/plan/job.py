"""What passes between planning and work: partitions that must be held, jobs for workers, and what they give back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operators.store.dataset import Partition, Receipt
from pipelines.plan.output import Output
from pipelines.recipes.recipe import Recipe


@dataclass(frozen=True)
class PartitionRef:
    """A committed partition of a data set upstream."""

    partition_id: str
    key: str


@dataclass(frozen=True)
class PlannedPartition:
    """A partition that a stage must hold."""

    partition: Partition
    payload: Any = None
    """What `make` needs to know beyond the key: a frozen dataclass of the stage's own."""


@dataclass(frozen=True)
class Job:
    """One partition to be made, as a worker is given it."""

    recipe: Recipe
    output: Output
    partition: Partition
    payload: Any
    roots: Mapping[str, Path]
    """Folder of every audio source, by name."""


@dataclass(frozen=True)
class Made:
    """What a worker gives back for a job: a receipt, or what the user can fix."""

    receipt: Receipt | None
    error: str = ""
