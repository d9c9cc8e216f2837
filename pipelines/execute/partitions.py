"""Partitions made by Ray Data: one row a partition, a block each, committed by the worker that makes it."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from operators.errors import InputError
from operators.store.dataset import Receipt, Snapshot
from pipelines.execute.memory import refused_memory
from pipelines.plan.context import RunContext, describe, refuse_above, report_stage, take_snapshot
from pipelines.plan.job import Job, Made
from pipelines.plan.sources import audio_roots
from pipelines.plan.stage import Plan, Remarks, StagePlan
from pipelines.reporting import console


class MakePartitions:
    """What a Ray Data worker runs: jobs in, receipts out; what the user can fix comes back as text."""

    def __init__(self, make: Callable[[Job], Receipt]) -> None:
        """Take the stage's function, a worker imports it by its name."""
        self._make = make

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the partitions of one batch of jobs."""
        made = np.empty(len(batch["job"]), dtype=object)
        for number, job in enumerate(batch["job"]):
            try:
                made[number] = Made(self._make(job))
            except InputError as error:
                made[number] = Made(None, str(error))
            except OSError as error:
                reason = f"{error.filename or 'writing'}: {error.strerror or error}"
                made[number] = Made(None, f"{reason}; nothing made before is lost")
        return {"made": made}


def submit(stage: StagePlan, jobs: list[Job], *, num_gpus: float = 0.0) -> Iterator[Receipt]:
    """Make partitions on the cluster; yield receipts as they are committed.

    Raises:
        InputError: a worker met something that the user can fix, or a node has too little memory; partitions already
            made stay.
    """
    import ray

    make = stage.stage.make
    assert make is not None, f"{stage.dataset} is not made by partitions"
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = ray.data.from_items([{"job": job} for job in jobs], override_num_blocks=len(jobs))  # each retried alone
    options: dict[str, Any] = {"batch_size": 1, "batch_format": "numpy", "num_cpus": 1, "num_gpus": num_gpus}
    if num_gpus and stage.stage.keeps_model:
        # An actor a GPU keeps the model loaded from one partition to the next.
        gpus = max(1, int(ray.cluster_resources().get("GPU", 1)))
        options["compute"] = ray.data.ActorPoolStrategy(min_size=1, max_size=gpus)
        made = rows.map_batches(MakePartitions, fn_constructor_args=(make,), **options)
    else:
        made = rows.map_batches(MakePartitions(make), **options)
    with refused_memory("fewer processes (--workers 1) or smaller partitions (--partitions.*) need less"):
        for row in made.iter_rows():
            done: Made = row["made"]
            if done.receipt is None:
                raise InputError(done.error)
            yield done.receipt


def build(context: RunContext, stage: StagePlan) -> float:
    """Make a stage's stale partitions, with a progress bar; return the seconds of audio in what was made.

    Raises:
        InputError: a worker met something that the user can fix; partitions already made stay.
    """
    if not stage.stale:
        return 0.0
    session = context.session()
    jobs = stage.jobs(context.recipe, context.output, audio_roots(context.recipe, context.output))
    num_gpus = 1.0 if session.num_gpus and stage.stage.uses_gpu(context.recipe) else 0.0
    started, audio_s, num_rows = time.monotonic(), 0.0, 0
    with console.bar(stage.dataset, len(jobs)) as bar:
        for done, receipt in enumerate(submit(stage, jobs, num_gpus=num_gpus), 1):
            audio_s += receipt.counts.get("audio_s", 0.0)
            num_rows += receipt.num_rows
            minutes = (time.monotonic() - started) / 60
            speed = (
                f"{audio_s / 3600 / minutes:.2f} h of audio/min" if audio_s else f"{num_rows / minutes:.0f} rows/min"
            )
            bar.to(done, speed)
    return audio_s


def run_partitions(context: RunContext, _: Plan, stage: StagePlan) -> None:
    """Make a stage's stale partitions, take its snapshot, record both, and report."""
    dataset, stale = context.output.dataset(stage.dataset), stage.stale
    read = [name for name in stage.stage.upstream if name in context.snapshots]
    inputs = {name: context.snapshots[name].merkle_root for name in read}
    if stale or stage.name in context.unrecorded:
        with context.stage(stage.name) as run:
            started = time.monotonic()
            audio_s = build(context, stage)
            seconds = time.monotonic() - started
            if audio_s:
                run.metrics({"audio_hours_per_s": audio_s / 3600 / seconds})
            snapshot = close(context, stage, inputs)
            remarks = _remarks(context, stage, snapshot)
            run.reads([(context.snapshots[name], context.output.dataset(name).url()) for name in read])
            run.wrote(snapshot)
            run.metrics({"seconds": time.monotonic() - started, "partitions_made": len(stale)})
            run.metrics(remarks.figures)
    else:
        snapshot = close(context, stage, inputs)
        remarks = _remarks(context, stage, snapshot)
    report_stage(dataset.name, not stale, describe(snapshot) + (f"; made {len(stale)}" if stale else ""))
    for label, text in remarks.lines:
        console.line(label, text)
    for notice in remarks.notices:
        console.notice(notice)


def _remarks(context: RunContext, stage: StagePlan, snapshot: Snapshot) -> Remarks:
    return stage.stage.remarks(context, snapshot) if stage.stage.remarks else Remarks()


def close(context: RunContext, stage: StagePlan, inputs: dict[str, str]) -> Snapshot:
    """Take the snapshot of a stage whose partitions are all committed.

    Args:
        context: of the run.
        stage: whose partitions.
        inputs: Merkle roots of the data sets upstream, by name.

    Raises:
        InputError: a partition is missing, or more rows are quarantined than the recipe allows.
    """
    dataset = context.output.dataset(stage.dataset)
    receipts = [receipt for p in stage.partitions if (receipt := dataset.committed(p)) is not None]
    if len(receipts) != len(stage.partitions):
        raise InputError(
            f"{len(stage.partitions) - len(receipts)} partitions of {dataset.url()} are missing; run again"
        )
    bad = [q for receipt in receipts for q in receipt.quarantined]
    refuse_above(bad, sum(r.num_rows for r in receipts) + len(bad), context.recipe.corpus.max_bad_share, context)
    context.quarantined += bad
    return take_snapshot(context, dataset, receipts, inputs)
