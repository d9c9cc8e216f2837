"""What every worker of Ray Train runs: the model, its packs, and `models.training` until the last step."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.training.mirror import Mirror
from operators.store.dataset import Dataset, Snapshot
from operators.store.shards import PackShards, of_split
from pipelines.plan.header import header_of
from pipelines.plan.job import PartitionRef
from pipelines.plan.start import load_start
from pipelines.plan.transcriber import judge_of
from pipelines.recipes.recipe import Recipe

FAILURE = "failure.txt"
"""File next to the checkpoints: why a training cannot continue."""


@dataclass(frozen=True)
class TrainingJob:
    """What a training worker is given."""

    recipe: Recipe
    packs: Snapshot
    data: str
    """Root folder or URL of the data sets."""
    folder: Path
    """Folder of checkpoints and metrics, on this machine."""
    url: str | None
    """URL that checkpoints are copied to."""
    lineage: dict[str, Any]
    """Recorded in every checkpoint."""
    judged: tuple[PartitionRef, ...]
    """Partitions of codes of which some conversations are transcribed at validations."""
    start: dict[str, Any]
    """Initial weights, as `pipelines.plan.start.decide` returns them."""


class Preemption:
    """Asks for one checkpoint where nodes are about to be taken away; training goes on until they are.

    An error of ours would count towards Ray Train's `max_failures`. Ray Train itself restarts the workers when the node
    is gone, and counts that towards `max_preemption_failures`, which is unlimited by default.
    Source: the documentation of `ray.train.get_preemption_info`.
    """

    EVERY = 20
    """Steps between checks: a check is a message to every worker and back."""

    def __init__(self) -> None:
        """Start counting steps."""
        self._calls = 0
        self._announced: set[str] = set()

    def __call__(self) -> bool:
        """Return whether a node is announced that was not before; every worker checks after the same steps."""
        import ray.train

        self._calls += 1
        if self._calls % self.EVERY:
            return False
        info = ray.train.get_preemption_info()
        new = set(info.preempted_node_ids) - self._announced if info is not None else set()
        self._announced |= new
        return bool(new)


def validation_packs(dataset: Dataset, packs: Snapshot, recipe: Recipe) -> PackShards | None:
    """Return the packs of the validation split, where there is one and it is asked for."""
    if not recipe.train.validate_every or not any(r.num_rows for r in of_split(packs.receipts, "validation")):
        return None
    return PackShards(dataset, packs, recipe.train.on_bad_shard, split="validation")


def train_worker(config: dict[str, "TrainingJob"]) -> None:
    """Train on one worker: what Ray Train runs on each."""
    import ray.train
    import torch

    from models.speech_lm.flops import peak_flops
    from models.speech_lm.pretrained.start import build_model
    from models.training.loop import Hooks, RunFolder, train
    from models.training.step import Process

    job = config["job"]
    recipe, folder = job.recipe, job.folder
    dataset = Dataset(job.data, "packs")
    shards = PackShards(dataset, job.packs, recipe.train.on_bad_shard)
    validation = validation_packs(dataset, job.packs, recipe)
    header = header_of(recipe, job.lineage)
    context = ray.train.get_context()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(header.shape, header.vocabulary).initialize(recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)  # a node that does not see the driver's folder has its own
    load_start(model, job.start)
    peak = peak_flops(torch.device(device))
    if peak and context.get_world_rank() == 0:
        (folder / "device.json").write_text(json.dumps({"name": torch.cuda.get_device_name(), "peak_flops": peak}))
    rank, ranks = context.get_world_rank(), context.get_world_size()
    judge = None
    if validation is not None:
        first = str(folder / "step-000000")  # there is one before the first validation
        judge = judge_of(recipe, Dataset(job.data, "codes"), job.judged, first, rank, ranks, device)
    done = 0
    try:
        done = train(
            model,
            shards,
            shards.grid,
            recipe.train,
            seed=recipe.seed,
            validation=validation,
            place=RunFolder(folder=folder, header=header, url=job.url),
            process=Process(rank=rank, world_size=ranks, device=device),
            hooks=Hooks(should_save=Preemption(), judge=judge),
        )
    except FloatingPointError as error:
        # Every rank sees the same sums and stops at the same step; a retry would fail in the same way.
        (folder / FAILURE).write_text(str(error))
        if job.url:
            Mirror(folder, job.url).send_loose()
    ray.train.report({"step": done})
