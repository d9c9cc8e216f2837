"""Training by Ray Train: workers, restarts, and errors."""

import logging
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.session import Session
from models.training.mirror import Mirror
from models.training.order import Stream
from operators.errors import InputError, disk_fault
from operators.store.dataset import Snapshot
from operators.store.shards import PackShards
from pipelines.execute.memory import refused_memory
from pipelines.execute.train_worker import FAILURE, TrainingJob, train_worker, validation_packs
from pipelines.plan.context import resize_every_s
from pipelines.plan.header import header_of
from pipelines.plan.longer import take_over
from pipelines.plan.stage import Plan
from pipelines.plan.start import decide
from pipelines.plan.trained import remember_depends
from pipelines.plan.transcriber import validation_codes
from pipelines.reporting import console


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many workers train."""

    fewest: int
    """Training continues with no fewer while nodes are missing."""
    most: int

    @property
    def is_elastic(self) -> bool:
        """Whether the number may change while training."""
        return self.fewest < self.most


def fit(plan: Plan, snapshot: Snapshot, lineage: dict[str, Any], session: Session, workers: Workers) -> None:
    """Train to the last step, continuing where an earlier run stopped.

    Elastic training restarts from the last checkpoint with the remaining workers when a node is lost, and with more
    when one joins: the packs of a step stay the same.

    Raises:
        InputError: there are too few processors, the loss is not finite, or a file cannot be read or written.
    """
    if workers.fewest > max(session.num_cpus, session.num_gpus):
        raise InputError(f"{workers.fewest} training workers need as many CPUs or GPUs; there are {session.num_cpus}")
    _check_packs(plan, snapshot)
    job = _job(plan, snapshot, lineage)
    _run_trainer(_trainer(plan, job, session, workers))
    if job.url is not None:
        mirror = Mirror(job.folder, job.url)
        mirror.fetch([0, *mirror.steps()])
        mirror.fetch_loose()
    if (job.folder / FAILURE).exists():
        raise InputError(f"{(job.folder / FAILURE).read_text()}; lower --train.lr, or inspect those packs")


def _check_packs(plan: Plan, snapshot: Snapshot) -> None:
    """Check that every shard can be read and that the mixture fits the packs.

    Raises:
        InputError: one cannot, or it does not.
    """
    config, dataset = plan.recipe.train, plan.output.dataset("packs")
    shards = PackShards(dataset, snapshot, config.on_bad_shard)
    validation = validation_packs(dataset, snapshot, plan.recipe)
    if validation is None and config.patience:
        raise InputError("train.patience goes by the validation loss, but no validation pack holds a document")
    for fault in {**shards.skipped, **(validation.skipped if validation else {})}.values():
        console.notice(f"{fault}; training continues without it (train.on_bad_shard skip)")
    try:
        Stream(shards.components, plan.recipe.seed, config.mixture, config.packs_per_step, config.steps)
    except ValueError as error:
        raise InputError(str(error)) from error


def _job(plan: Plan, snapshot: Snapshot, lineage: dict[str, Any]) -> TrainingJob:
    """Prepare the training's folder; decide what it starts from."""
    folder, url = plan.output.training(plan.training_key), plan.output.training_url(plan.training_key)
    folder.mkdir(parents=True, exist_ok=True)
    if url:
        Mirror(folder, url).forget(FAILURE)
    start = decide(plan.recipe, folder, header_of(plan.recipe, {}), url)
    if plan.recipe.train.start_from is not None:
        console.line("start", ", ".join(str(value) for value in start.values()))
        lineage = {**lineage, "started_from": start}
    (folder / FAILURE).unlink(missing_ok=True)
    depends = plan.stage("training").partitions[0].depends
    if url is None and (taken := take_over(folder, depends, plan.recipe.train)):
        console.line("start", f"step {taken} of a training that was to have fewer or more steps")
    remember_depends(folder, depends)
    return TrainingJob(
        recipe=plan.recipe,
        packs=snapshot,
        data=plan.output.data if plan.output.store else str(Path(plan.output.data).absolute()),
        folder=folder.absolute(),
        url=url,
        lineage=lineage,
        judged=validation_codes(plan.stage("codes").partitions),
        start=start,
    )


def _trainer(plan: Plan, job: TrainingJob, session: Session, workers: Workers) -> Any:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    return TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=(workers.fewest, workers.most) if workers.is_elastic else workers.most,
            elastic_resize_monitor_interval_s=resize_every_s(),
            use_gpu=session.num_gpus >= workers.fewest,
            resources_per_worker={"CPU": max(1, session.num_cpus // workers.most)},
        ),
        run_config=RunConfig(
            name=plan.training_key[:12],
            **_ray_storage(plan),
            failure_config=failure_config(),
        ),
    )


def failure_config() -> Any:
    """Return how often Ray Train begins anew: after three failures, and after any number of preemptions."""
    from ray.train import FailureConfig

    return FailureConfig(max_failures=3, max_preemption_failures=-1)


def _run_trainer(trainer: Any) -> None:
    """Train to the end; turn what the user can fix into an InputError."""
    from ray.train import WorkerGroupError

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with refused_memory(
            "fewer packs in one pass (--train.packs-per-pass 1) or shorter ones (--pack.capacity) need less"
        ):
            trainer.fit()
    except SystemExit as error:  # Ray Train handles Ctrl-C itself, and exits
        raise KeyboardInterrupt from error
    except WorkerGroupError as error:
        for cause in error.worker_failures.values():
            if isinstance(cause, InputError):
                raise InputError(str(cause)) from error
            if isinstance(cause, OSError) or disk_fault(cause) is not None:
                raise InputError(f"training stopped: {cause}; run again to resume from the last checkpoint") from error
        raise
    finally:
        signal.signal(signal.SIGINT, handler)


def _ray_storage(plan: Plan) -> dict[str, Any]:
    """Return where Ray Train keeps its own state: storage that all of its workers see."""
    if not plan.output.store:
        return {"storage_path": str(plan.output.folder.absolute() / "ray")}
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem, path = fsspec.core.url_to_fs(f"{plan.output.store.rstrip('/')}/ray")
    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(filesystem))}
