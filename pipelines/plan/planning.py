"""Planning: which partitions every stage must hold, their keys, and which are stale. Nothing is started.

Every key follows from the keys upstream, so all that is stale is known before any worker starts.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from models.training.mirror import Mirror
from operators.corpus import cast
from operators.corpus.cast import Cast, Splits
from operators.digest import digest
from operators.errors import InputError
from operators.store.dataset import Partition
from pipelines.plan.output import Output
from pipelines.plan.stage import PartitionRef, PlannedPartition, Stage, StagePlan
from pipelines.recipes.recipe import Recipe


@dataclass
class Planning:
    """What stages read to decide which partitions they must hold."""

    recipe: Recipe
    output: Output
    checkpoint: Path | None = None
    """Checkpoint to evaluate instead of the recipe's own."""
    planned: dict[str, Sequence[PlannedPartition]] = field(default_factory=dict)
    """Partitions of the data sets planned so far, by data set."""

    def of(self, dataset: str) -> list[Partition]:
        """Return the partitions of a data set upstream."""
        return [one.partition for one in self.planned[dataset]]

    def ref(self, dataset: str) -> PartitionRef:
        """Return the one partition of an index."""
        (partition,) = self.of(dataset)
        return PartitionRef(partition.partition_id, partition.key)

    @cached_property
    def utterances(self) -> pa.Table:
        """The indexed utterances.

        Raises:
            InputError: they are not indexed yet.
        """
        dataset = self.output.dataset("utterances")
        receipt = dataset.committed(self.of("utterances")[0])
        if receipt is None:
            raise InputError("the corpus is not indexed yet")
        self.index_digest = receipt.content_digest
        return dataset.open(receipt).read_all()

    @cached_property
    def splits(self) -> Splits:
        """Rows of the utterances by split."""
        return cast.split_rows(self.utterances, self.recipe.casting, self.recipe.seed)

    @cached_property
    def casts(self) -> list[Cast]:
        """Who takes part in every conversation; read from the last plan where nothing that counts has changed.

        Planning a million casts takes minutes, reading them a second.
        """
        utterances, recipe = self.utterances, self.recipe
        values = {"casting": recipe.casting, "seed": recipe.seed, "index": self.index_digest, "version": cast.VERSION}
        path = self.output.folder / "plans" / f"casts-{digest(values)[:16]}.arrow"
        if path.exists():
            with pa.memory_map(str(path)) as source:
                columns = pa.ipc.open_file(source).read_all().to_pydict()
            return [Cast(i, s, tuple(who), tuple(rows)) for i, s, who, rows in zip(*columns.values(), strict=True)]
        casts = cast.plan_casts(utterances, self.splits, recipe.casting, recipe.seed)
        if len(casts) >= 2000:
            _keep_casts(casts, path)
        return casts


def _keep_casts(casts: Sequence[Cast], path: Path) -> None:
    names = ("conversation_id", "split", "speakers", "rows")
    kinds = (pa.string(), pa.string(), pa.list_(pa.string()), pa.list_(pa.int64()))
    columns = {name: pa.array([getattr(c, name) for c in casts], kind) for name, kind in zip(names, kinds, strict=True)}
    table = pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with pa.ipc.new_file(str(staged), table.schema) as writer:
        writer.write_table(table)
    os.replace(staged, path)


@dataclass(frozen=True)
class Plan:
    """What every stage must hold for one recipe and one output folder."""

    recipe: Recipe
    output: Output
    stages: tuple[StagePlan, ...]
    splits: Splits
    checkpoint: Path | None = None
    """Checkpoint to evaluate instead of the recipe's own."""

    def stage(self, dataset: str) -> StagePlan:
        """Return a stage's plan by the name of its data set."""
        return next(stage for stage in self.stages if stage.dataset == dataset)

    @property
    def training_key(self) -> str:
        """Key of the recipe's own training."""
        return self.stage("training").partitions[0].key

    @cached_property
    def evaluation_key(self) -> str:
        """Key of the evaluation: of everything that is transcribed for it."""
        return digest([partition.key for partition in self.stage("hypotheses").partitions])

    def checkpoint_of(self, which: str) -> Path:
        """Return the folder of the trained or the untrained checkpoint."""
        if self.checkpoint is not None:
            return self.checkpoint
        step = self.recipe.train.steps if which == "trained" else 0
        return self.output.training(self.training_key) / f"step-{step:06d}"

    def training_done(self) -> bool:
        """Return whether the last checkpoint exists, here or in the store."""
        return bool(training_committed(self.recipe, self.output, self.training_key))

    def fetch_training(self) -> None:
        """Fetch a finished training from the store, where this machine lacks it."""
        url = self.output.training_url(self.training_key)
        if url is not None:
            mirror = Mirror(self.output.training(self.training_key), url)
            mirror.fetch([0, self.recipe.train.steps])
            mirror.fetch_loose()

    def evaluation_done(self) -> bool:
        """Return whether the metrics exist."""
        return (self.output.evaluation(self.evaluation_key) / "metrics.json").exists()


def training_committed(recipe: Recipe, output: Output, key: str) -> bool:
    """Return whether a training's last checkpoint exists, here or in the store."""
    folder, step = output.training(key), recipe.train.steps
    url = output.training_url(key)
    here = (folder / f"step-{step:06d}" / "checkpoint.json").exists()
    return here or (url is not None and step in Mirror(folder, url).steps())


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
    return StagePlan(stage, partitions, fresh, dataset, payloads)


def make_plan(stages: Sequence[Stage], recipe: Recipe, output: Output, checkpoint: Path | None = None) -> Plan:
    """Plan every stage; a given checkpoint is evaluated instead of the recipe's own.

    Raises:
        InputError: the corpus is not indexed yet, or cannot make the conversations that the recipe needs.
    """
    planning = Planning(recipe, output, checkpoint)
    used = [s for s in stages if s.is_used(recipe) and not (s.for_training and checkpoint is not None)]
    plans = tuple(plan_stage(stage, planning) for stage in used)
    return Plan(recipe, output, plans, planning.splits, checkpoint)
