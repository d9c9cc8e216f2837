"""evaluate: checkpoints and the test split's codes -> `hypotheses` -> cpWER."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.config.header import read_header
from models.config.settings import key_settings
from operators.corpus.normalizers import NORMALIZER
from operators.digest import canonical_json, digest, digest_file
from operators.documents.tasks import EVALUATED, EvaluatedTaskName, transcription
from operators.errors import InputError
from operators.evaluate.transcribe import Transcribe
from operators.schema import HYPOTHESES, SCHEMA_VERSION
from operators.store import storage
from operators.store.dataset import Partition, Receipt, RowWriter
from pipelines.execute.partitions import build, close
from pipelines.plan.context import RunContext, report_stage
from pipelines.plan.job import Job, PartitionRef, PlannedPartition
from pipelines.plan.planning import Planning
from pipelines.plan.stage import Plan, Stage, StagePlan
from pipelines.plan.trained import evaluated_name, located
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console
from pipelines.reporting.mlflow_runs import StageRun
from pipelines.stages.upstream import apply_or_quarantine, receipt_of

WHICH = ("trained", "untrained")
MEASURES = {"cpwer": "cpWER", "tcpwer": "tcpWER"}
"""Names of the scores in the metrics and in tables; tcpWER only where the task predicts times."""
SCORE_COLUMNS = ("model", "score", "rate", "95 % interval", "words", "sub / del / ins")


@dataclass(frozen=True)
class Transcription:
    """Payload of a partition of hypotheses: one checkpoint and one partition of codes."""

    which: str
    """trained or untrained."""
    checkpoint: str
    """Folder of the checkpoint."""
    codes: PartitionRef


def transcription_task(recipe: Recipe) -> EvaluatedTaskName:
    """Return the transcription task that a recipe's models are evaluated by: plain where they are trained on it."""
    return next((task for task in EVALUATED if task in recipe.compose.tasks), EVALUATED[0])


def rates(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return each checkpoint's rates as MLflow names them, for instance `trained.cpwer`."""
    return {
        f"{which}.{name}": metrics[which][name]["rate"]
        for which in WHICH
        if which in metrics
        for name in MEASURES
        if name in metrics[which]
    }


def score_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """Return the scores as rows of `SCORE_COLUMNS`."""
    rows = []
    for name in rates(metrics):
        which, measure = name.split(".")
        score = metrics[which][measure]
        rows.append(
            [
                which,
                MEASURES[measure],
                f"{score['rate']:.1%}",
                f"{score['low']:.1%} to {score['high']:.1%}",
                str(score["reference_words"]),
                f"{score['substitutions']} / {score['deletions']} / {score['insertions']}",
            ]
        )
    return rows


def check_task(recipe: Recipe) -> None:
    """Check that the recipe's models are trained on a task that evaluation can ask and score.

    Raises:
        InputError: none of its tasks is one.
    """
    if not set(EVALUATED) & set(recipe.compose.tasks):
        raise InputError(
            f"compose.tasks {' '.join(recipe.compose.tasks)} cannot be evaluated: cpWER needs transcripts that name "
            f"speakers. Add {' or '.join(EVALUATED)}, or stop after training: hubbub train"
        )


def plan_hypotheses(planning: Planning) -> list[PlannedPartition]:
    """Return a partition for each checkpoint and partition of the test split's codes."""
    recipe = planning.recipe
    settings = {
        "operators": {"transcribe": Transcribe.version, "schema": SCHEMA_VERSION},
        "evaluate": key_settings(recipe.evaluate),
        "task": transcription_task(recipe),
        "window_s": recipe.compose.window_s,
    }
    of_test = [p for p in planning.of("codes") if p.partition_id.startswith("test-")]
    return [
        PlannedPartition(
            Partition(
                partition_id=f"{which}-{upstream.partition_id}",
                row_ids=upstream.row_ids,
                depends={**settings, "checkpoint": weights, "codes": upstream.key},
            ),
            Transcription(which, str(folder), PartitionRef(upstream.partition_id, upstream.key)),
        )
        for which, folder, weights in _checkpoints(planning)
        for upstream in of_test
    ]


def _checkpoints(planning: Planning) -> list[tuple[str, Path, dict[str, Any]]]:
    """Return name, folder and identity of each checkpoint that is evaluated."""
    given = planning.checkpoint
    if given is not None:
        _, header = read_header(given)
        identity = {
            "weights": digest_file(given / "model.safetensors")[:32],
            "header": digest({name: value for name, value in vars(header).items() if name != "lineage"})[:32],
        }
        return [("trained", given, identity)]
    (training,) = planning.of("training")
    names = {"trained": evaluated_name(planning.recipe), "untrained": "step-000000"}
    folder = planning.output.training(training.key).absolute()
    return [
        (which, folder / name, {"training": training.key, "checkpoint": name})
        for which, name in names.items()
        if which == "trained" or planning.recipe.evaluate.untrained
    ]


def check_checkpoint(path: Path, recipe: Recipe) -> Path:
    """Return the checkpoint's folder, if it was trained on data like the recipe's.

    Raises:
        InputError: codec, layout or tokenizer differ.
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
                "evaluate it with the recipe that it was trained by"
            )
    return path.absolute()


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _transcriber(recipe: Recipe, checkpoint: str, device: str = "cpu") -> Transcribe:
    return Transcribe(
        checkpoint=checkpoint,
        window_s=recipe.compose.window_s,
        max_tokens=recipe.evaluate.max_tokens,
        batch_size=recipe.evaluate.batch_size,
        task=transcription_task(recipe),
        constrain=recipe.evaluate.constrain,
        device=device,
    )


def make_hypotheses(job: Job) -> Receipt:
    """Make one partition of `hypotheses`: one checkpoint's transcripts of one partition of codes."""
    source = job.output.dataset("codes")
    operator = _transcriber(job.recipe, _local_checkpoint(job), _device())

    def fill(writer: RowWriter) -> None:
        for batch in source.batches(receipt_of(source, job.payload.codes)):
            hypotheses = apply_or_quarantine(operator, batch, writer)
            writer.write(hypotheses)
            writer.count(tokens=sum(hypotheses["num_tokens"].to_pylist()), conversations=hypotheses.num_rows)

    metadata = {"hubbub.checkpoint": canonical_json({"weights": operator.weights_digest})}
    return job.output.dataset("hypotheses").commit(job.partition, HYPOTHESES, metadata, fill)


def _local_checkpoint(job: Job) -> str:
    """Return the checkpoint's folder on this machine, fetched from the store where it is missing."""
    path = Path(job.payload.checkpoint)
    return str(located(path, job.output.training_url(path.parent.name)))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def score(plan: Plan) -> dict[str, Any]:
    """Score hypotheses against references; write both, and the metrics; return the metrics."""
    from operators.evaluate import score as scores

    output, recipe = plan.output, plan.recipe
    codes, hypotheses = output.dataset("codes"), output.dataset("hypotheses")
    stage = plan.stage("hypotheses")
    rate_hz, is_timed = recipe.encode.spec.frame_rate_hz, transcription(transcription_task(recipe)).predicts_times
    folder = output.evaluation(plan.evaluation_key)
    result: dict[str, Any] = {}
    for which in ("trained", "untrained"):
        reference, hypothesis, num_cut = [], [], 0
        for partition in stage.partitions:
            payload = stage.payloads[partition.partition_id]
            if payload.which != which:
                continue
            rows = codes.open(receipt_of(codes, payload.codes)).read_all()
            receipt = receipt_of(hypotheses, PartitionRef(partition.partition_id, partition.key))
            written = hypotheses.open(receipt).read_all()
            reference += scores.reference_segments(rows, rate_hz, scores.windows_of(written))
            hypothesis += scores.hypothesis_segments(written, rate_hz, is_timed=is_timed)
            num_cut += sum(written["num_cut"].to_pylist())
        if reference:
            errors = {"cpwer": asdict(scores.cpwer(reference, hypothesis, recipe.seed))}
            if is_timed:
                errors["tcpwer"] = asdict(scores.tcpwer(reference, hypothesis, recipe.seed))
            result[which] = {"checkpoint": str(plan.checkpoint_of(which)), **errors, "num_cut": num_cut}
            for name, segments in (("reference", reference), (f"{which}_hypothesis", hypothesis)):
                text = json.dumps(segments, indent=1, ensure_ascii=False) + "\n"
                storage.replace_bytes(text.encode(), str(folder / f"{name}.seglst.json"))
    metrics = {
        **result,
        "splits": plan.splits.describe(),
        "windows": "one per conversation, or cut at reference silences where longer than compose.window_s; each window "
        "is a session of its own, for speakers are numbered anew in each",
        "task": transcription_task(recipe),
        "normalizer": NORMALIZER,
        "tcpwer_collar_s": scores.COLLAR_S,
        "max_tokens": _transcriber(recipe, "").most_tokens,
        "recipe_digest": recipe.digest,
    }
    storage.replace_bytes((json.dumps(metrics, indent=1) + "\n").encode(), str(folder / "metrics.json"))
    return metrics


def run_evaluation(context: RunContext, plan: Plan, stage: StagePlan) -> None:
    """Transcribe and score what is stale, record the metrics, and report cpWER."""
    path = plan.output.evaluation(plan.evaluation_key) / "metrics.json"
    fresh = plan.evaluation_done() and not stage.stale and "evaluate" not in context.unrecorded
    fresh = fresh and not context.options.register
    inputs = {"codes": context.snapshots["codes"].merkle_root}
    if fresh:
        close(context, stage, inputs)
    else:
        with context.stage("evaluate") as run:
            build(context, stage)
            snapshot = close(context, stage, inputs)
            metrics = score(plan)
            run.reads([(context.snapshots["codes"], context.output.dataset("codes").url())])
            run.wrote(snapshot)
            _record_figures(context, run, metrics)
            run.files(path.parent)
    metrics = json.loads(path.read_text())
    rates = ", ".join(f"{which} {metrics[which]['cpwer']['rate']:.1%}" for which in WHICH if which in metrics)
    number = metrics["trained"]["cpwer"]["num_conversations"]
    if cut := metrics["trained"].get("num_cut"):
        console.notice(f"{cut} transcripts of windows were cut at evaluate.max_tokens; their last words are missing")
    report_stage("evaluate", fresh, f"cpWER {rates} on {number} conversations")
    context.metrics = dict(metrics)


def _record_figures(context: RunContext, run: StageRun, metrics: dict[str, Any]) -> None:
    """Record each checkpoint's metrics with MLflow, tied to the checkpoint; register the trained one on request."""
    for which in WHICH:
        if which not in metrics:
            continue
        folder = Path(metrics[which]["checkpoint"])
        model_id = run.model(folder, f"{context.recipe.name}-{folder.name}", {"hubbub.which": which})
        figures = rates({which: metrics[which]})
        run.model_metrics(model_id, context.snapshots["codes"], figures)
        if which == "trained" and context.options.register:
            run.register(context.options.register, model_id, folder, figures)


HYPOTHESES_STAGE = Stage(
    name="evaluate",
    dataset="hypotheses",
    upstream=("codes", "training"),
    about="what a checkpoint transcribed of a conversation",
    partitions=plan_hypotheses,
    make=make_hypotheses,
    run=run_evaluation,
    uses_gpu=lambda _: True,
)
