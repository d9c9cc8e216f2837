"""Partitions built by Ray Data: one row a partition, few blocks, committed by whoever makes it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from operators.digest import to_jsonable
from operators.errors import InputError, UnusableRowError
from operators.schema import Operator
from operators.store.dataset import Partition, Quarantined, Receipt, RowWriter
from pipelines.plan.road import Output, StagePlan
from pipelines.recipes.files import from_mapping
from pipelines.recipes.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """One partition to be made, wherever a worker runs."""

    recipe: Recipe
    output: Output
    dataset: str
    partition: Partition
    payload: Any
    roots: dict[str, str]
    """Folder of each corpus."""

    @property
    def corpus_roots(self) -> dict[str, Path]:
        """Folder of each corpus, as paths."""
        return {name: Path(path) for name, path in self.roots.items()}


def to_row(job: Job) -> dict[str, str]:
    """Write a job as a row of Ray Data."""
    return {
        "job": json.dumps(
            {
                "recipe": to_jsonable(job.recipe),
                "output": str(job.output.folder.absolute()),
                "store": job.output.store,
                "dataset": job.dataset,
                "partition": to_jsonable(job.partition),
                "payload": job.payload,
                "roots": job.roots,
            }
        )
    }


def from_row(text: str) -> Job:
    """Read a job back."""
    data = json.loads(text)
    return Job(
        recipe=from_mapping(Recipe, data["recipe"], "job"),
        output=Output(Path(data["output"]), data["store"]),
        dataset=data["dataset"],
        partition=Partition(**{**data["partition"], "row_ids": tuple(data["partition"]["row_ids"])}),
        payload=data["payload"],
        roots=data["roots"],
    )


def usable(operator: Operator, rows: pa.Table, writer: RowWriter, id_column: str = "conversation_id") -> pa.Table:
    """Apply an operator; rows that it cannot use go to quarantine with the reason, and the rest goes on."""
    try:
        return operator(rows)
    except UnusableRowError as error:
        if rows.num_rows == 1:
            writer.quarantined.append(Quarantined(row_id=rows[id_column][0].as_py(), reason=str(error)))
            return operator.writes.empty_table()
    made = [usable(operator, rows.slice(i, 1), writer, id_column) for i in range(rows.num_rows)]
    return pa.concat_tables([part for part in made if part.num_rows] or made[:1])


def make(job: Job) -> Receipt:
    """Make one partition and commit it; what each data set holds is said in the stage's own file."""
    from pipelines.stages import evaluate, pack, simulate, tokenize

    build: dict[str, Callable[[Job], Receipt]] = {
        "conversations": simulate.make_conversations,
        "audio": simulate.make_audio,
        "codes": tokenize.make_codes,
        "packs": pack.make_packs,
        "hypotheses": evaluate.make_hypotheses,
    }
    return build[job.dataset](job)


class MakePartitions:
    """What a Ray Data worker runs: jobs in, receipts out; a user's mistake comes back as a line, not a trace."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the partitions of one batch of jobs."""
        receipts, errors = [], []
        for text in batch["job"]:
            try:
                receipt = make(from_row(str(text)))
                receipts.append(json.dumps({**to_jsonable(receipt), "depends": {}}))
                errors.append("")
            except InputError as error:
                receipts.append("")
                errors.append(str(error))
            except OSError as error:
                receipts.append("")
                errors.append(f"{error.filename or 'writing'}: {error.strerror or error}; nothing made before is lost")
        return {"receipt": receipts, "error": errors}


def build(
    plan: StagePlan, recipe: Recipe, output: Output, roots: dict[str, Path], *, num_gpus: float = 0
) -> Iterator[Receipt]:
    """Make a stage's stale partitions on the cluster; yield receipts as they are committed.

    Raises:
        InputError: a worker met something that the user can mend; partitions already made stay.
    """
    if not plan.stale:
        return
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    jobs = [
        to_row(
            Job(recipe, output, plan.dataset, p, plan.payloads[p.partition_id], {k: str(v) for k, v in roots.items()})
        )
        for p in plan.stale
    ]
    rows = ray.data.from_items(jobs, override_num_blocks=len(jobs))  # a partition a block: retried alone
    if num_gpus and plan.dataset == "codes":
        # An actor a GPU keeps the codec loaded from one partition to the next; the code is the same as a task's.
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, int(ray.cluster_resources().get("GPU", 1))))
        receipts = rows.map_batches(
            MakePartitions, batch_size=1, batch_format="numpy", num_cpus=1, num_gpus=num_gpus, compute=pool
        )
    else:
        receipts = rows.map_batches(MakePartitions(), batch_size=1, batch_format="numpy", num_cpus=1, num_gpus=num_gpus)
    for row in receipts.iter_rows():
        if row["error"]:
            raise InputError(row["error"])
        yield Receipt.from_json(json.loads(row["receipt"]))
