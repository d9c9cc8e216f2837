"""evaluate: checkpoints and the test split's codes -> hypotheses -> cpWER."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from models.config.header import read_header
from models.training.mirror import Mirror
from operators.digest import canonical_json
from operators.errors import InputError
from operators.evaluate.score import cpwer, hypothesis_segments, reference_segments
from operators.evaluate.transcribe import Transcribe
from operators.schema import HYPOTHESES
from operators.store import storage
from operators.store.dataset import Receipt, RowWriter
from pipelines.plan.road import Plan
from pipelines.recipes.recipe import Recipe
from pipelines.run.partitions import Job, usable
from pipelines.stages.simulate import receipt_of


def check_checkpoint(path: Path, recipe: Recipe) -> Path:
    """Return the checkpoint's folder, if it was trained for what the recipe makes.

    Raises:
        InputError: codec, layout or tokenizer are others.
    """
    try:
        _, header = read_header(path)
    except ValueError as error:
        raise InputError(str(error)) from error
    codec, ours = recipe.encode.spec, recipe.compose.loaded_tokenizer
    for name, theirs, wanted in (
        ("codec", (header.codec.name, header.codec.num_codebooks), (codec.name, codec.num_codebooks)),
        ("codec weights", header.codec.weights_digest[:8], codec.weights_digest[:8]),
        ("layout", (header.layout, header.group), (recipe.compose.layout, recipe.compose.group)),
        ("tokenizer", header.tokenizer_digest[:8], ours.digest[:8]),
    ):
        if theirs != wanted:
            raise InputError(
                f"{path} was trained with {name} {_words(theirs)}, but the recipe has {_words(wanted)}; "
                "judge it with the recipe it was trained by"
            )
    return path.absolute()


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def asked(recipe: Recipe) -> Literal["asr", "asr_timed"]:
    """Return the transcription that a recipe's models are judged by: the plain one where they learn it."""
    return "asr_timed" if "asr" not in recipe.compose.tasks and "asr_timed" in recipe.compose.tasks else "asr"


def make_hypotheses(job: Job) -> Receipt:
    """Make one partition of `hypotheses`: what one checkpoint wrote of one partition of codes."""
    source = job.output.dataset("codes")
    operator = Transcribe(
        checkpoint=_here(job),
        window_s=job.recipe.compose.window_s,
        max_tokens=job.recipe.evaluate.max_tokens,
        batch_size=job.recipe.evaluate.batch_size,
        task=asked(job.recipe),
        constrain=job.recipe.evaluate.constrain,
        device=_device(),
    )

    def fill(writer: RowWriter) -> None:
        for batch in source.batches(receipt_of(source, job.payload["partition_id"], job.payload["key"])):
            hypotheses = usable(operator, batch, writer)
            writer.write(hypotheses)
            writer.count(tokens=sum(hypotheses["num_tokens"].to_pylist()), conversations=hypotheses.num_rows)

    metadata = {"hubbub.checkpoint": canonical_json({"weights": operator.weights_digest})}
    return job.output.dataset("hypotheses").commit(job.partition, HYPOTHESES, metadata, fill)


def _here(job: Job) -> str:
    """Return a folder of this machine that holds the checkpoint, fetched where it is another's."""
    path = Path(job.payload["checkpoint"])
    if not path.exists() and job.output.store:
        Mirror(path.parent, storage.join(job.output.store, "checkpoints", path.parent.name)).fetch([int(path.name[5:])])
    return str(path)


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
            result[which] = {"checkpoint": str(plan.checkpoint_of(which)), "cpwer": asdict(errors)}
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
