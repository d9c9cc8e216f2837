"""evaluate: checkpoints and the test split's codes -> `hypotheses` -> cpWER."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.config.header import read_header
from models.config.settings import key_settings
from models.training.mirror import Mirror
from operators.corpus.normalizers import NORMALIZER
from operators.digest import canonical_json, digest, digest_file
from operators.documents.tasks import EVALUATED, EvaluatedTaskName, transcription
from operators.errors import InputError
from operators.evaluate import segments
from operators.evaluate.transcribe import Transcribe
from operators.schema import HYPOTHESES, SCHEMA_VERSION
from operators.store import storage
from operators.store.dataset import Partition, Receipt, RowWriter
from pipelines.execute.partitions import build, close
from pipelines.plan.context import RunContext, report_stage
from pipelines.plan.job import Job, PartitionRef, PlannedPartition
from pipelines.plan.planning import Planning
from pipelines.plan.stage import Plan, Stage, StagePlan
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
    """Payload of a partition of hypotheses: one checkpoint, one task and one partition of codes."""

    which: str
    """trained or untrained."""
    task: str
    checkpoint: str
    """Folder of the checkpoint."""
    codes: PartitionRef


def evaluated_tasks(recipe: Recipe) -> tuple[EvaluatedTaskName, ...]:
    """Return the tasks that a recipe's models are asked, the one that tables show first."""
    if recipe.evaluate.tasks:
        return recipe.evaluate.tasks
    return tuple(task for task in EVALUATED if task in recipe.compose.tasks)


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


def check_tasks(recipe: Recipe) -> None:
    """Check that the recipe's models are trained on the tasks that evaluation asks.

    Raises:
        InputError: one of them is never trained, or none can be asked.
    """
    unseen = [task for task in recipe.evaluate.tasks if task not in recipe.compose.tasks]
    if unseen:
        raise InputError(
            f"evaluate.tasks: the models are never trained on {unseen[0]}; add it to compose.tasks "
            f"({' '.join(recipe.compose.tasks)}) or leave it out"
        )
    if not evaluated_tasks(recipe):
        raise InputError(
            f"compose.tasks {' '.join(recipe.compose.tasks)} cannot be evaluated: cpWER needs transcripts that name "
            f"speakers. Add {' or '.join(EVALUATED)}, or stop after training: hubbub train"
        )


def plan_hypotheses(planning: Planning) -> list[PlannedPartition]:
    """Return a partition for each checkpoint, task and partition of the test split's codes."""
    recipe = planning.recipe
    settings = {
        "operators": {"transcribe": Transcribe.version, "schema": SCHEMA_VERSION},
        "evaluate": key_settings(recipe.evaluate, {"tasks": ()}),  # each partition has its own
    }
    of_test = [p for p in planning.of("codes") if p.partition_id.startswith("test-")]
    return [
        PlannedPartition(
            Partition(
                partition_id=f"{which}-{task}-{upstream.partition_id}",
                row_ids=upstream.row_ids,
                depends={**settings, "task": task, "checkpoint": weights, "codes": upstream.key},
            ),
            Transcription(which, task, str(folder), PartitionRef(upstream.partition_id, upstream.key)),
        )
        for which, folder, weights in _checkpoints(planning)
        for task in evaluated_tasks(recipe)
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
    steps = {"trained": planning.recipe.train.steps, "untrained": 0}
    folder = planning.output.training(training.key).absolute()
    return [
        (which, folder / f"step-{step:06d}", {"training": training.key, "step": step})
        for which, step in steps.items()
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


def _transcriber(recipe: Recipe, checkpoint: str, task: str, device: str = "cpu") -> Transcribe:
    options = recipe.evaluate
    return Transcribe(
        checkpoint=checkpoint,
        window_s=options.window_s,
        cut=options.cut,
        join=options.join,
        overlap_s=options.overlap_s,
        max_tokens=options.max_tokens,
        batch_size=options.batch_size,
        task=task,
        constrain=options.constrain,
        device=device,
    )


def make_hypotheses(job: Job) -> Receipt:
    """Make one partition of `hypotheses`: what one checkpoint answers to one task on one partition of codes."""
    source = job.output.dataset("codes")
    operator = _transcriber(job.recipe, _local_checkpoint(job), job.payload.task, _device())
    operator.check_task()

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
    if not path.exists() and job.output.store:
        Mirror(path.parent, storage.join(job.output.store, "checkpoints", path.parent.name)).fetch([int(path.name[5:])])
    return str(path)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def score(plan: Plan) -> dict[str, Any]:
    """Score hypotheses against references; write both, and the metrics; return the metrics."""
    from operators.evaluate import score as scores

    output, recipe = plan.output, plan.recipe
    folder = output.evaluation(plan.evaluation_key)
    tasks = evaluated_tasks(recipe)
    result: dict[str, Any] = {}
    for which in WHICH:
        found = {task: _scores(plan, which, task, folder) for task in tasks}
        if all(found.values()):
            # The first task's scores are the checkpoint's own.
            result[which] = {"checkpoint": str(plan.checkpoint_of(which)), **found[tasks[0]], "tasks": found}
    operator = _transcriber(recipe, str(plan.checkpoint_of("trained")), tasks[0])
    metrics = {
        **result,
        "splits": plan.splits.describe(),
        "windows": {
            "longest_s": operator.longest_s,
            "shared_s": operator.shared_s,
            "cut": recipe.evaluate.cut,
            "join": recipe.evaluate.join,
            "sessions": "conversations" if recipe.evaluate.join else "windows",
        },
        "task": tasks[0],
        "normalizer": NORMALIZER,
        "tcpwer_collar_s": scores.COLLAR_S,
        "max_tokens": operator.most_tokens,
        "recipe_digest": recipe.digest,
    }
    storage.replace_bytes((json.dumps(metrics, indent=1) + "\n").encode(), str(folder / "metrics.json"))
    return metrics


def _scores(plan: Plan, which: str, task: str, folder: Path) -> dict[str, Any]:
    """Score one checkpoint's answers to one task, and write what was compared; nothing where there are none."""
    from operators.evaluate import score as scores

    output, recipe, stage = plan.output, plan.recipe, plan.stage("hypotheses")
    codes, hypotheses = output.dataset("codes"), output.dataset("hypotheses")
    rate_hz, is_timed, apart = (
        recipe.encode.spec.frame_rate_hz,
        transcription(task).predicts_times,
        not recipe.evaluate.join,
    )
    reference, hypothesis, num_cut = [], [], 0
    for partition in stage.partitions:
        payload = stage.payloads[partition.partition_id]
        if (payload.which, payload.task) != (which, task):
            continue
        rows = codes.open(receipt_of(codes, payload.codes)).read_all()
        written = hypotheses.open(
            receipt_of(hypotheses, PartitionRef(partition.partition_id, partition.key))
        ).read_all()
        reference += segments.reference_segments(rows, rate_hz, segments.windows_of(written) if apart else None)
        hypothesis += segments.hypothesis_segments(written, rate_hz, is_timed=is_timed, apart=apart)
        num_cut += sum(written["num_cut"].to_pylist())
    if not reference:
        return {}
    for name, entries in ((f"{task}_reference", reference), (f"{which}_{task}_hypothesis", hypothesis)):
        text = json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
        storage.replace_bytes(text.encode(), str(folder / f"{name}.seglst.json"))
    errors = {"cpwer": asdict(scores.cpwer(reference, hypothesis, recipe.seed))}
    if is_timed:
        errors["tcpwer"] = asdict(scores.tcpwer(reference, hypothesis, recipe.seed))
    return {**errors, "num_cut": num_cut}


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
