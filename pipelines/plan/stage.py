"""What a stage is: one entry of the tuple `pipelines.stages.STAGES`, and the types that pass between planning and work.

A stage decides which partitions its data set must hold (`partitions`, on the driver, before anything is started) and
makes one of them (`make`, on a worker). Planning, running, lineage, clean-up and the progress display are loops over
the tuple; none of them names a stage.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.store.dataset import Dataset, Partition, Receipt, Snapshot, stale_reason
from pipelines.plan.output import Output
from pipelines.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pipelines.execute.context import RunContext
    from pipelines.plan.planning import Plan, Planning


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


def _always(_: Recipe) -> bool:
    return True


def _never(_: Recipe) -> bool:
    return False


@dataclass(frozen=True)
class Remarks:
    """What a stage tells about its snapshot."""

    lines: Sequence[tuple[str, str]] = ()
    """Label and text of each line that is printed."""
    notices: Sequence[str] = ()
    """What a user should know but need not act on."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """For the tracking server."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the pipeline."""

    name: str
    """Verb, child run in MLflow and progress line: index, simulate, tokenize, pack, train or evaluate."""
    dataset: str
    """What it makes: a data set below `data/`, except `training`, whose partition is a folder of checkpoints."""
    upstream: tuple[str, ...]
    """Data sets that it reads."""
    about: str
    """One row of it, in a few words, for the documentation."""
    partitions: Callable[["Planning"], Sequence[PlannedPartition]]
    """Decides what the data set must hold."""
    make: Callable[[Job], Receipt] | None = None
    """Makes one partition; None where `run` does all."""
    run: Callable[["RunContext", "Plan", "StagePlan"], None] | None = None
    """Makes what is stale and takes the snapshot; by default Ray Data calls `make` for every stale partition."""
    check: Callable[[Recipe], None] | None = None
    """Checks before anything is made what the stage would stop at."""
    is_used: Callable[[Recipe], bool] = _always
    """Whether a recipe has this stage."""
    committed: Callable[[Recipe, Output, Sequence[Partition]], frozenset[str]] | None = None
    """Keys that are done; by default those with a receipt in the data set."""
    index: Callable[["RunContext", "StagePlan"], None] | None = None
    """Makes it on the driver before the other stages are planned, for planning reads its rows."""
    expected_seconds: Callable[[Recipe, Output], float | None] | None = None
    """Estimates what making it takes; by default from the receipts of the newest snapshot."""
    uses_gpu: Callable[[Recipe], bool] = _never
    """Whether a partition is made on a GPU where there are any."""
    keeps_model: bool = False
    """Whether a GPU's worker keeps a loaded model from one partition to the next."""
    remarks: Callable[["RunContext", Snapshot], Remarks] | None = None
    """What is worth telling about a snapshot once it is taken."""
    for_training: bool = False
    """Whether it is left out where a given checkpoint is evaluated."""


@dataclass(frozen=True)
class StagePlan:
    """What one stage must hold, and what of it is done."""

    stage: Stage
    partitions: tuple[Partition, ...]
    fresh: frozenset[str]
    """Keys that are done."""
    output: Dataset | None = None
    """The data set, to tell why something in it is stale."""
    payloads: Mapping[str, Any] = field(default_factory=dict)
    """By partition id."""

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self.stage.name

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.stage.dataset

    @cached_property
    def stale(self) -> tuple[Partition, ...]:
        """Partitions that must be made."""
        return tuple(p for p in self.partitions if p.key not in self.fresh)

    @cached_property
    def before(self) -> dict[str, Receipt]:
        """Receipts of the newest snapshot, by partition id; read only where something is stale."""
        newest = self.output.latest() if self.output else None
        return {receipt.partition_id: receipt for receipt in newest.receipts} if newest else {}

    def reasons(self) -> dict[str, str]:
        """Return why each stale partition is stale, by partition id."""
        return {p.partition_id: stale_reason(p, self.before.get(p.partition_id)) for p in self.stale}

    def jobs(self, recipe: Recipe, output: Output, roots: Mapping[str, Path]) -> list[Job]:
        """Return a job for every stale partition."""
        return [Job(recipe, output, p, self.payloads[p.partition_id], roots) for p in self.stale]
