"""evaluate: checkpoints and the test split's codes -> hypotheses -> cpWER."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from operators import storage
from operators.dataset import Receipt, RowWriter
from operators.digest import canonical_json
from operators.schema import HYPOTHESES
from operators.score import cpwer, hypothesis_segments, reference_segments
from operators.transcribe import Transcribe
from pipelines.partitions import Job, usable
from pipelines.road import Plan
from pipelines.simulate import receipt_of


def checkpoint_of(plan: Plan, which: str) -> Path:
    """Return the folder of the trained or the untrained checkpoint."""
    step = plan.recipe.train.steps if which == "trained" else 0
    return plan.output.training(plan.training_key) / f"step-{step:06d}"


def make_hypotheses(job: Job) -> Receipt:
    """Make one partition of `hypotheses`: what one checkpoint wrote of one partition of codes."""
    source = job.output.dataset("codes")
    folder = job.output.training(job.partition.depends["training"]) / f"step-{job.partition.depends['step']:06d}"
    operator = Transcribe(
        checkpoint=str(folder),
        window_s=job.recipe.compose.window_s,
        max_tokens=job.recipe.evaluate.max_tokens,
        batch_size=job.recipe.evaluate.batch_size,
        device=_device(),
    )

    def fill(writer: RowWriter) -> None:
        for batch in source.batches(receipt_of(source, job.payload["partition_id"], job.payload["key"])):
            hypotheses = usable(operator, batch, writer)
            writer.write(hypotheses)
            writer.count(tokens=sum(hypotheses["num_tokens"].to_pylist()), conversations=hypotheses.num_rows)

    metadata = {"hubbub.checkpoint": canonical_json({"weights": operator.weights_digest})}
    return job.output.dataset("hypotheses").commit(job.partition, HYPOTHESES, metadata, fill)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def score(plan: Plan) -> dict[str, Any]:
    """Score what was written against what was said; write metrics, references and hypotheses; return the metrics."""
    output, recipe = plan.output, plan.recipe
    codes, hypotheses = output.dataset("codes"), output.dataset("hypotheses")
    stage = plan.stage("hypotheses")
    folder = output.evaluation(plan.evaluation_key)
    result: dict[str, Any] = {}
    for which in ("trained", "untrained"):
        reference, hypothesis = [], []
        for partition in stage.partitions:
            payload = stage.payloads[partition.partition_id]
            if payload["which"] != which:
                continue
            rows = codes.open(receipt_of(codes, payload["partition_id"], payload["key"])).read_all()
            reference += reference_segments(rows, recipe.encode.spec.frame_rate_hz)
            written = receipt_of(hypotheses, partition.partition_id, partition.key)
            hypothesis += hypothesis_segments(hypotheses.open(written).read_all())
        if reference:
            errors = cpwer(reference, hypothesis, recipe.seed)
            result[which] = {"checkpoint": str(checkpoint_of(plan, which)), "cpwer": asdict(errors)}
            for name, segments in (("reference", reference), (f"{which}_hypothesis", hypothesis)):
                text = json.dumps(segments, indent=1, ensure_ascii=False) + "\n"
                storage.replace_bytes(text.encode(), str(folder / f"{name}.seglst.json"))
    metrics = {
        **result,
        "splits": plan.splits.describe(),
        "windows": "one per conversation, or cut at reference silences where longer than compose.window_s",
        "max_tokens": recipe.evaluate.max_tokens,
        "recipe_digest": recipe.digest,
    }
    storage.replace_bytes((json.dumps(metrics, indent=1) + "\n").encode(), str(folder / "metrics.json"))
    return metrics
