"""What a stage is: one entry of the tuple `pipelines.stages.STAGES`; and planning, a loop over the tuple.

A stage decides which partitions its data set must hold (`partitions`, on the driver, before anything is started) and
makes one of them (`make`, on a worker). Planning, running, lineage, clean-up and displays read the tuple; none of them
names a stage. Every key follows from the keys upstream, so all that is stale is known before any worker starts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from models.training.mirror import Mirror
from operators.corpus.splits import Splits
from operators.digest import digest
from operators.scoring import VERSION as SCORING_VERSION
from operators.store.dataset import Dataset, Partition, Receipt, Snapshot, stale_reason
from pipelines.plan.context import RunContext
from pipelines.plan.job import Job, PlannedPartition
from pipelines.plan.output import Output
from pipelines.plan.planning import Planning
from pipelines.plan.trained import BEST, evaluated_name, last_name, located, training_committed
from pipelines.recipes.recipe import Recipe


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
    partitions: Callable[[Planning], Sequence[PlannedPartition]]
    """Decides what the data set must hold."""
    make: Callable[[Job], Receipt] | None = None
    """Makes one partition; None where `run` does all."""
    run: Callable[[RunContext, "Plan", "StagePlan"], None] | None = None
    """Makes what is stale and takes the snapshot; by default Ray Data calls `make` for every stale partition."""
    check: Callable[[Recipe], None] | None = None
    """Checks before anything is made what the stage would stop at."""
    is_used: Callable[[Recipe], bool] = _always
    """Whether a recipe has this stage."""
    committed: Callable[[Recipe, Output, Sequence[Partition]], frozenset[str]] | None = None
    """Keys that are done; by default those with a receipt in the data set."""
    index: Callable[[RunContext, "StagePlan"], None] | None = None
    """Makes it on the driver before the other stages are planned, for planning reads its rows."""
    reason: Callable[[Output, Partition], str] | None = None
    """Tells why a partition is stale; by default from the receipts of the newest snapshot."""
    expected_seconds: Callable[[Recipe, Output], float | None] | None = None
    """Estimates what making it takes; by default from the receipts of the newest snapshot."""
    uses_gpu: Callable[[Recipe], bool] = _never
    """Whether a partition is made on a GPU where there are any."""
    keeps_model: bool = False
    """Whether a GPU's worker keeps a loaded model from one partition to the next."""
    remarks: Callable[[RunContext, Snapshot], Remarks] | None = None
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
    folder: Output | None = None
    """Where the data set is, for stages that tell their own reasons."""
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
        if self.stage.reason is not None and self.folder is not None:
            return {p.partition_id: self.stage.reason(self.folder, p) for p in self.stale}
        return {p.partition_id: stale_reason(p, self.before.get(p.partition_id)) for p in self.stale}

    def jobs(self, recipe: Recipe, output: Output, roots: Mapping[str, Path]) -> list[Job]:
        """Return a job for every stale partition."""
        return [Job(recipe, output, p, self.payloads[p.partition_id], roots) for p in self.stale]


@dataclass(frozen=True)
class Plan:
    """What every stage must hold for one recipe and one output folder."""

    recipe: Recipe
    """The recipe, with the numbers that it leaves to the corpus."""
    output: Output
    stages: tuple[StagePlan, ...]
    splits: Splits
    checkpoint: Path | None = None
    """Checkpoint to evaluate instead of the recipe's own."""
    fitting: str = ""
    """What the recipe leaves to the corpus, and what it became."""

    def stage(self, dataset: str) -> StagePlan:
        """Return a stage's plan by the name of its data set."""
        return next(stage for stage in self.stages if stage.dataset == dataset)

    @property
    def training_key(self) -> str:
        """Key of the recipe's own training."""
        return self.stage("training").partitions[0].key

    @cached_property
    def evaluation_key(self) -> str:
        """Key of the evaluation: of everything that is transcribed for it, and of how it is scored."""
        return digest([self.answers_digest, self.scoring])

    @property
    def answers_digest(self) -> str:
        """Digest of the keys of everything that is transcribed for the evaluation."""
        return digest([partition.key for partition in self.stage("hypotheses").partitions])[:32]

    @property
    def scoring(self) -> dict[str, str]:
        """How transcripts are scored, whatever they are."""
        options = self.recipe.evaluate
        settings: dict[str, str] = {"normalizer": options.normalizer}
        settings |= {"slices": " ".join(options.slices), "baselines": " ".join(options.baselines)}
        return {"version": SCORING_VERSION, **settings}

    def checkpoint_of(self, which: str) -> Path:
        """Return the folder of the trained checkpoint that is evaluated, or of the untrained one."""
        if self.checkpoint is not None:
            return self.checkpoint
        return self._trained("step-000000" if which == "untrained" else evaluated_name(self.recipe))

    def last_checkpoint(self) -> Path:
        """Return the folder of the checkpoint after the last step; training is done."""
        return self._trained(last_name(self.recipe))

    def best_checkpoint(self) -> Path | None:
        """Return the folder of the checkpoint with the lowest validation loss, where it is kept; training is done."""
        has_best = "validation" in self.stage("training").partitions[0].depends and self.recipe.train.keep_best
        return self._trained(BEST) if has_best else None

    def _trained(self, name: str) -> Path:
        key = self.training_key
        return located(self.output.training(key) / name, self.output.training_url(key))

    def training_done(self) -> bool:
        """Return whether training is done, here or in the store."""
        return bool(training_committed(self.recipe, self.output, self.training_key))

    def fetch_training(self) -> None:
        """Fetch a finished training from the store, where this machine lacks it."""
        url = self.output.training_url(self.training_key)
        if url is not None:
            for name in ("step-000000", last_name(self.recipe)):
                self._trained(name)
            self.best_checkpoint()
            Mirror(self.output.training(self.training_key), url).fetch_loose()

    def evaluation_done(self) -> bool:
        """Return whether the metrics exist."""
        return (self.output.evaluation(self.evaluation_key) / "metrics.json").exists()


def plan_stage(stage: Stage, planning: Planning) -> StagePlan:
    """Plan one stage, whose upstream stages are planned already."""
    planned = planning.planned[stage.dataset] = stage.partitions(planning)
    dataset = planning.output.dataset(stage.dataset)
    partitions = tuple(one.partition for one in planned)
    if stage.committed is not None:
        fresh = stage.committed(planning.recipe, planning.output, partitions)
    else:
        committed = dataset.committed_names()
        fresh = frozenset(p.key for p in partitions if f"{p.partition_id}-{p.key}" in committed)
    payloads = {one.partition.partition_id: one.payload for one in planned}
    return StagePlan(stage, partitions, fresh, dataset, planning.output, payloads)


def make_plan(stages: Sequence[Stage], recipe: Recipe, output: Output, checkpoint: Path | None = None) -> Plan:
    """Plan every stage; a given checkpoint is evaluated instead of the recipe's own.

    Raises:
        InputError: the corpus is not indexed yet, or cannot make the conversations that the recipe needs.
    """
    planning = Planning(recipe, output, checkpoint)
    used = [s for s in stages if s.is_used(recipe) and not (s.for_training and checkpoint is not None)]
    plans = [plan_stage(stage, planning) for stage in used if stage.index is not None]
    fitting = planning.fit()
    plans += [plan_stage(stage, planning) for stage in used if stage.index is None]
    return Plan(planning.recipe, output, tuple(plans), planning.splits, checkpoint, fitting)
