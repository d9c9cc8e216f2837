"""train: packs -> checkpoints; `models.training.loop` run by Ray Train."""

import json
import logging
import signal
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from cluster.session import Session
from models.config.header import Header
from models.config.shape import Vocabulary
from models.training.metrics import StepRecord, read_metrics
from models.training.mirror import Mirror
from models.training.order import Stream
from operators.digest import to_jsonable
from operators.errors import InputError
from operators.store.dataset import Dataset, Snapshot
from operators.store.shards import PackShards
from pipelines.plan.context import resize_every_s
from pipelines.plan.road import Plan
from pipelines.plan.start import check_start, decide, load_start, shape_of
from pipelines.recipes.files import from_mapping
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console

_FAILURE = "failure.txt"
"""Why a training stopped for good, where its checkpoints are."""


def header_of(recipe: Recipe, lineage: dict[str, Any]) -> Header:
    """Return what every checkpoint of a recipe says of itself."""
    codec, tokenizer = recipe.encode.spec, recipe.compose.loaded_tokenizer
    layout = recipe.compose.layout_of(codec)
    return Header(
        shape=shape_of(recipe),
        vocabulary=Vocabulary(
            text_size=tokenizer.vocab_size,
            num_streams=layout.num_streams,
            codebook_size=layout.vocab_size,
            ordinal=codec.ordinal and layout.vocab_size == codec.codebook_size,
            depth=layout.is_depth,
            encoder_digest=_digest_of(recipe.model.encoder),
        ),
        codec=codec,
        codec_weights=recipe.encode.weights,
        layout=recipe.compose.layout,
        group=recipe.compose.group,
        tokenizer=tokenizer.name,
        tokenizer_digest=tokenizer.digest,
        tokenizer_file=None if tokenizer.file is None else str(tokenizer.file.absolute()),
        deduplicate=recipe.compose.deduplicate,
        lineage=lineage,
    )


@lru_cache(maxsize=4)
def _digest_of(encoder: str | None) -> str:
    if encoder is None:
        return ""
    from models.speech_lm.front_end import encoder_digest

    try:
        return encoder_digest(encoder)
    except ValueError as error:
        raise InputError(f"model.encoder: {error}") from error


class Preemption:
    """Asks now and then whether the machine is to be taken away: to ask is a message to every worker and back."""

    EVERY = 20

    def __init__(self) -> None:
        """Begin to count steps."""
        self._calls = 0

    def __call__(self) -> bool:
        """Tell whether it is; every worker asks after the same steps."""
        import ray.train

        self._calls += 1
        return self._calls % self.EVERY == 0 and ray.train.get_preemption_info() is not None


def train_worker(config: dict[str, Any]) -> None:
    """Train on one worker: what Ray Train runs on each."""
    import ray.train
    import torch

    from models.speech_lm.flops import peak_flops
    from models.speech_lm.model import SpeechLM
    from models.training.loop import train

    recipe: Recipe = from_mapping(Recipe, json.loads(config["recipe"]), "train")
    snapshot = Snapshot.from_json(json.loads(config["snapshot"]))
    shards = PackShards(Dataset(config["data"], "packs"), snapshot, recipe.train.on_bad_shard)
    header = header_of(recipe, json.loads(config["lineage"]))
    context = ray.train.get_context()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = SpeechLM(header.shape, header.vocabulary).initialize(recipe.seed)
    folder = Path(config["folder"])
    start = json.loads(config["start"])
    folder.mkdir(parents=True, exist_ok=True)  # a node that does not see the driver's has one of its own
    load_start(model, start)
    peak = peak_flops(torch.device(device))
    if peak and context.get_world_rank() == 0:
        (folder / "device.json").write_text(json.dumps({"name": torch.cuda.get_device_name(), "peak_flops": peak}))
    done = recipe.train.steps
    try:
        done = train(
            model,
            shards,
            shards.grid,
            recipe.train,
            seed=recipe.seed,
            folder=folder,
            header=header,
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            device=device,
            should_stop=Preemption(),
            url=config["url"],
        )
    except FloatingPointError as error:
        # Every rank sees the same sums and stops at the same step; to try again would give the same.
        (folder / _FAILURE).write_text(str(error))
        if config["url"]:
            Mirror(folder, config["url"]).send_loose()
    if done < recipe.train.steps:
        raise RuntimeError(
            f"stopped at step {done}: the machine is to be taken away"
        )  # Ray Train begins anew elsewhere
    ray.train.report({"step": done})


def check(recipe: Recipe) -> None:
    """Check what training would stumble over: weights to start from, and their tokenizer.

    Raises:
        InputError: names what cannot be used.
    """
    check_start(recipe, header_of(recipe, {}))


def fit(
    plan: Plan,
    snapshot: Snapshot,
    lineage: dict[str, Any],
    session: Session,
    min_train_workers: int,
    num_train_workers: int,
) -> None:
    """Train to the end, on as many workers as asked for; go on where an earlier run stopped.

    With fewer at least than at most, Ray Train begins anew from the last checkpoint with what is left when a node is
    lost, and with what is there when one comes: the packs of a step stay the same ones.

    Raises:
        InputError: there are not enough processors, the loss is no number, or a file cannot be read or written.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchTrainer

    if min_train_workers > max(session.num_cpus, session.num_gpus):
        raise InputError(
            f"{min_train_workers} training workers want as many CPUs or GPUs; there are {session.num_cpus}"
        )
    config = plan.recipe.train
    shards = PackShards(plan.output.dataset("packs"), snapshot, config.on_bad_shard)
    for fault in shards.skipped.values():
        console.notice(f"{fault}; training goes on without it (train.on_bad_shard skip)")
    try:
        Stream(shards.components, plan.recipe.seed, config.mixture, config.packs_per_step, config.steps)
    except ValueError as error:
        raise InputError(str(error)) from error
    folder = plan.output.training(plan.training_key)
    folder.mkdir(parents=True, exist_ok=True)
    url = plan.output.training_url(plan.training_key)
    if url:
        Mirror(folder, url).forget(_FAILURE)
    start = decide(plan.recipe, folder, header_of(plan.recipe, {}), url)
    if plan.recipe.train.start_from is not None:
        console.line("start", ", ".join(str(value) for value in start.values()))
        lineage = {**lineage, "started_from": start}
    (folder / _FAILURE).unlink(missing_ok=True)
    use_gpu = session.num_gpus >= min_train_workers
    is_elastic = min_train_workers < num_train_workers
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "recipe": json.dumps(to_jsonable(plan.recipe)),
            "snapshot": json.dumps(to_jsonable(snapshot)),
            "data": plan.output.data if plan.output.store else str(Path(plan.output.data).absolute()),
            "folder": str(folder.absolute()),
            "url": url,
            "lineage": json.dumps(lineage),
            "start": json.dumps(start),
        },
        scaling_config=ScalingConfig(
            num_workers=(min_train_workers, num_train_workers) if is_elastic else num_train_workers,
            elastic_resize_monitor_interval_s=resize_every_s(),
            use_gpu=use_gpu,
            resources_per_worker={"CPU": max(1, session.num_cpus // num_train_workers)},
        ),
        run_config=RunConfig(
            name=plan.training_key[:12],
            **_ray_storage(plan),
            failure_config=FailureConfig(max_failures=3),
        ),
    )

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    ours = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
    except SystemExit as error:  # Ray Train takes Ctrl-C for itself, and leaves by the wrong door
        raise KeyboardInterrupt from error
    except WorkerGroupError as error:
        for cause in error.worker_failures.values():
            if isinstance(cause, InputError):
                raise InputError(str(cause)) from error
            if isinstance(cause, OSError):
                raise InputError(f"training stopped: {cause}; run again to go on from the last checkpoint") from error
        raise
    finally:
        signal.signal(signal.SIGINT, ours)
    if url is not None:
        mirror = Mirror(folder, url)
        mirror.fetch([0, *mirror.steps()])
        mirror.fetch_loose()
    if (folder / _FAILURE).exists():
        raise InputError(f"{(folder / _FAILURE).read_text()}; lower --train.lr, or look at those packs")


def _ray_storage(plan: Plan) -> dict[str, Any]:
    """Return where Ray Train keeps its own state: a place that all of its workers see."""
    if not plan.output.store:
        return {"storage_path": str(plan.output.folder.absolute() / "ray")}
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem, path = fsspec.core.url_to_fs(f"{plan.output.store.rstrip('/')}/ray")
    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(filesystem))}


def curve(plan: Plan) -> list[StepRecord]:
    """Return the steps trained so far."""
    return read_metrics(plan.output.training(plan.training_key) / "metrics.jsonl")


def summary(records: list[StepRecord]) -> dict[str, float]:
    """Return first and last losses and the rate, over a tenth of the steps at each end."""
    if not records:
        return {}
    ends = max(1, len(records) // 10)
    first, last = records[:ends], records[-ends:]
    seconds = sum(record.seconds for record in records)
    return {
        "steps": len(records),
        "first_loss": sum(r.loss for r in first) / ends,
        "last_loss": sum(r.loss for r in last) / ends,
        "final_loss": records[-1].loss,
        "columns_per_s": sum(r.num_columns for r in records) / max(seconds, 1e-9),
        "frames_per_s": sum(r.num_frames for r in records) / max(seconds, 1e-9),
        "tflops_per_s": sum(r.flops for r in records) / max(seconds, 1e-9) / 1e12,
        "wait_share": sum(r.wait_seconds for r in records) / max(seconds, 1e-9),
        "skipped_steps": sum(r.skipped for r in records),
    }


def as_metrics(record: StepRecord) -> dict[str, float]:
    """Return a step's values by name."""
    return {name: float(value) for name, value in asdict(record).items() if name != "step"}
