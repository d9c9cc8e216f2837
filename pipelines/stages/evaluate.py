"""evaluate: checkpoints and the test split's codes -> `hypotheses` -> cpWER."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from models.config.header import read_header
from models.config.intact import sealed
from models.config.settings import key_settings
from operators.corpus.normalizers import normalize
from operators.digest import canonical_json, digest, digest_file
from operators.documents.compose import Compose
from operators.documents.tasks import EVALUATED, TASKS, transcription
from operators.errors import InputError
from operators.evaluate import segments
from operators.evaluate.ask import Ask, reference_answers
from operators.evaluate.baselines import MEASURES as OF_BASELINES
from operators.evaluate.baselines import baseline, round_trip
from operators.evaluate.transcribe import Transcribe
from operators.rng import rng
from operators.schema import HYPOTHESES, SCHEMA_VERSION
from operators.store import storage
from operators.store.dataset import Partition, Receipt, RowWriter
from pipelines.execute.partitions import build, close
from pipelines.plan.context import RunContext, report_stage
from pipelines.plan.job import Job, PartitionRef, PlannedPartition
from pipelines.plan.output import read_evaluation
from pipelines.plan.planning import Planning
from pipelines.plan.stage import Plan, Stage, StagePlan
from pipelines.plan.trained import evaluated_name, located
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console
from pipelines.reporting.mlflow_runs import StageRun
from pipelines.stages.upstream import apply_or_quarantine, receipt_of, seeded_compose

WHICH = ("trained", "untrained")
SCORE_COLUMNS = ("model", "task", "score", "value", "95 % interval", "of", "sub / del / ins")
MEASURES: Mapping[str, tuple[str, ...]] = {
    "conversation": (*("cpwer", "wer", "cer", "orcwer", "dicpwer", "speaker_count_accuracy", "speaker_count_error"),),
    "speakers": ("cpwer", "wer", "cer"),
    "utterances": ("orcwer", "cer"),
    "likelihood": ("nll",),
}
"""Measures of a task by how it is judged, the one that tables and curves show first."""
TIMED_MEASURES = (
    *("tcpwer", "tcorcwer", "der", "der_collar_0.25", "jer"),
    *("word_start_median", "word_start_mean", "turn_start_median", "turn_start_mean"),
)
"""Further measures of tasks that predict times."""
SHORT = ("cpwer", "orcwer", "tcpwer", "der", "nll")
"""Measures in the summary of a run; reports and files have all."""
OF_WINDOWS = ("speakers", "utterances", "likelihood")
"""Judges of documents, one by one, whose questions and windows come from the truth."""


@dataclass(frozen=True)
class Transcription:
    """Payload of a partition of hypotheses: one checkpoint, one task and one partition of codes."""

    which: str
    """trained or untrained."""
    task: str
    checkpoint: str
    """Folder of the checkpoint."""
    codes: PartitionRef


def evaluated_tasks(recipe: Recipe) -> tuple[str, ...]:
    """Return the tasks that a recipe's models are asked, the one that tables show first."""
    wanted = recipe.evaluate.tasks or recipe.compose.tasks
    return tuple(task for task in TASKS if task in wanted)


def rates(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return every score as MLflow names it: `trained.cpwer`, of further tasks for instance `trained.asr_timed.der`."""
    found: dict[str, float | None] = {}
    for which in WHICH:
        for task, scores in metrics.get(which, {}).get("tasks", {}).items():
            prefix = which if task == metrics["task"] else f"{which}.{task}"
            found |= {f"{prefix}.{name}": one["rate"] for name, one in scores["measures"].items()}
    for which, scores in metrics.get("baselines", {}).items():
        found |= {f"{which}.{name}": one["rate"] for name, one in scores["measures"].items()}
    return {name: rate for name, rate in found.items() if rate is not None}


def score_rows(metrics: Mapping[str, Any], names: Sequence[str] = ()) -> list[list[str]]:
    """Return scores as rows of `SCORE_COLUMNS`, baselines under checkpoints: those of some measures, or all."""
    return [
        [which, task, *one["row"][:5]]
        for which, task, scores in _scored(metrics)
        for name, one in scores["measures"].items()
        if name in (names or scores["measures"]) and one["rate"] is not None
    ]


def _scored(metrics: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return name, task and scores of all that was scored, checkpoints first."""
    found = [
        (which, task, scores) for which in WHICH for task, scores in metrics.get(which, {}).get("tasks", {}).items()
    ]
    return found + [(name, scores["task"], scores) for name, scores in metrics.get("baselines", {}).items()]


def overview(metrics: Mapping[str, Any]) -> str:
    """Return every score of an evaluation, and its slices, in Markdown."""
    from operators.scoring.table import markdown_table

    parts = ["# Scores", markdown_table(SCORE_COLUMNS, score_rows(metrics))]
    for which, task, scores in _scored(metrics):
        if rows := scores.get("slices", {}).get("rows"):
            parts += [f"## Slices: {which}, {task}", markdown_table(scores["slices"]["header"], rows)]
    return "\n\n".join(parts) + "\n"


def check_tasks(recipe: Recipe) -> None:
    """Check that the recipe's models are trained on the tasks that evaluation asks.

    Raises:
        InputError: one of them is never trained.
    """
    unseen = [task for task in recipe.evaluate.tasks if task not in recipe.compose.tasks]
    if unseen:
        raise InputError(
            f"evaluate.tasks: the models are never trained on {unseen[0]}; add it to compose.tasks "
            f"({' '.join(recipe.compose.tasks)}) or leave it out"
        )


def plan_hypotheses(planning: Planning) -> list[PlannedPartition]:
    """Return a partition for each checkpoint, task and partition of the test split's codes."""
    recipe = planning.recipe
    of_test = [p for p in planning.of("codes") if p.partition_id.startswith("test-")]
    return [
        PlannedPartition(
            Partition(
                partition_id=f"{which}-{task}-{upstream.partition_id}",
                row_ids=upstream.row_ids,
                depends={**_settings(recipe, task), "checkpoint": weights, "codes": upstream.key},
            ),
            Transcription(which, task, str(folder), PartitionRef(upstream.partition_id, upstream.key)),
        )
        for which, folder, weights in _checkpoints(planning)
        for task in evaluated_tasks(recipe)
        for upstream in of_test
    ]


def _settings(recipe: Recipe, task: str) -> dict[str, Any]:
    """Return what an answer to a task depends on, besides checkpoint and codes."""
    versions = {"transcribe": Transcribe.version, "schema": SCHEMA_VERSION}
    settings = {"evaluate": key_settings(recipe.evaluate, {}), "task": task}
    if TASKS[task].judged_by not in OF_WINDOWS:
        return {"operators": versions, **settings}
    compose = asked_compose(recipe, task)
    return {
        "operators": {**versions, "ask": Ask.version, "compose": compose.version},
        **settings,
        "compose": key_settings(compose, {"tokenizer": compose.loaded_tokenizer.digest}),
    }


def asked_compose(recipe: Recipe, task: str) -> Compose:
    """Return the operator that makes the documents of a task whose documents are asked."""
    return replace(seeded_compose(recipe), tasks=(task,))


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


def _transcriber(recipe: Recipe, checkpoint: str, task: str, device: str = "cpu") -> Transcribe | Ask:
    """Return the operator that asks a checkpoint a task."""
    options, of_windows = recipe.evaluate, TASKS[task].judged_by in OF_WINDOWS
    transcribe = Transcribe(
        checkpoint=checkpoint,
        window_s=recipe.compose.window_s if of_windows else options.window_s,
        cut=options.cut,
        join=options.join,
        overlap_s=options.overlap_s,
        max_tokens=options.max_tokens,
        batch_size=options.batch_size,
        task=EVALUATED[0] if of_windows else task,
        constrain=options.constrain,
        device=device,
    )
    return Ask(transcribe=transcribe, compose=asked_compose(recipe, task)) if of_windows else transcribe


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
    return str(located(path, job.output.training_url(path.parent.name)))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def score(plan: Plan) -> dict[str, Any]:
    """Score hypotheses against references; write both, tables, pages and the metrics; return the metrics."""
    output, recipe = plan.output, plan.recipe
    folder = output.evaluation(plan.evaluation_key)
    tasks = evaluated_tasks(recipe)
    result: dict[str, Any] = {}
    for which in WHICH:
        found = {task: _scores(plan, which, task, folder) for task in tasks}
        if all(found.values()):
            # The first task's scores are the checkpoint's own.
            first = found[tasks[0]]
            own = {"checkpoint": str(plan.checkpoint_of(which)), "num_cut": first["num_cut"], **first["measures"]}
            result[which] = {**own, "tasks": found}
    operator = _transcriber(recipe, str(plan.checkpoint_of("trained")), tasks[0])
    transcribe = operator.transcribe if isinstance(operator, Ask) else operator
    metrics = {
        **result,
        "baselines": _baselines(plan, tasks, folder),
        "task": tasks[0],
        "headline": MEASURES[TASKS[tasks[0]].judged_by][0],
        "splits": plan.splits.describe(),
        "decoding": {
            "windows_s": transcribe.longest_s,
            "shared_s": transcribe.shared_s,
            "cut": recipe.evaluate.cut,
            "join": recipe.evaluate.join,
            "max_tokens": transcribe.most_tokens,
            "constrain": recipe.evaluate.constrain,
        },
        "codes": digest([p.key for p in plan.stage("codes").partitions])[:32],
        "answers": plan.answers_digest,
        "scoring": plan.scoring,
        "recipe_digest": recipe.digest,
    }
    storage.replace_bytes(overview(metrics).encode(), str(folder / "table.md"))
    storage.replace_bytes(sealed(metrics), str(folder / "metrics.json"))
    return metrics


def why_scored_again(plan: Plan) -> str:
    """Return why transcripts that are all there must be scored again; empty where they are scored, or are not there."""
    if plan.stage("hypotheses").stale or plan.evaluation_done():
        return ""
    for path in sorted(plan.output.evaluation(plan.evaluation_key).parent.glob("*/metrics.json")):
        before = read_evaluation(path)
        if before.get("answers") == plan.answers_digest:
            return ", ".join(
                f"{name} {before['scoring'].get(name)} -> {value}"
                for name, value in plan.scoring.items()
                if before["scoring"].get(name) != value
            )
    return "never scored"


def _scores(plan: Plan, which: str, task: str, folder: Path) -> dict[str, Any]:
    """Score one checkpoint's answers to one task, and write what was compared; nothing where there are none."""
    recipe, judge = plan.recipe, TASKS[task].judged_by
    codes, written = _answers(plan, which, task)
    if codes is None or written is None:
        return {}
    num_cut = sum(written["num_cut"].to_pylist())
    if judge == "likelihood":
        return {"num_cut": 0, "measures": {"nll": _likelihood(written, recipe.seed)}}
    rate_hz, apart = recipe.encode.spec.frame_rate_hz, judge in OF_WINDOWS or not recipe.evaluate.join
    if judge in OF_WINDOWS:
        reference = reference_answers(codes, asked_compose(recipe, task))
    else:
        reference = segments.reference_segments(codes, rate_hz, segments.windows_of(written) if apart else None)
    is_timed = judge == "conversation" and transcription(task).predicts_times
    hypothesis = segments.hypothesis_segments(written, rate_hz, is_timed=is_timed, apart=apart)
    names = (*MEASURES[judge], *(TIMED_MEASURES if is_timed else ()))
    text = json.dumps(reference, indent=1, ensure_ascii=False) + "\n"
    storage.replace_bytes(text.encode(), str(folder / f"{task}_reference.seglst.json"))
    name = f"{which}_{task}"
    return {"num_cut": num_cut, **_measured(recipe, codes, (reference, hypothesis), names, folder / name)}


def _baselines(plan: Plan, tasks: Sequence[str], folder: Path) -> dict[str, Any]:
    """Score the recipe's baselines on what the first task that is judged by conversations was asked about."""
    recipe, rate_hz = plan.recipe, plan.recipe.encode.spec.frame_rate_hz
    task = next((task for task in tasks if TASKS[task].judged_by == "conversation"), None)
    codes, written = _answers(plan, "trained", task) if task else (None, None)
    if codes is None or written is None:
        return {}
    windows = None if recipe.evaluate.join else segments.windows_of(written)
    reference = segments.reference_segments(codes, rate_hz, windows)
    tokenizer = recipe.compose.loaded_tokenizer

    def write(words: str) -> str:
        text = normalize(words) if recipe.compose.text == "normalized" else words
        return round_trip(tokenizer.encode, tokenizer.decode, text)

    found: dict[str, Any] = {}
    for name in recipe.evaluate.baselines:
        both = reference, baseline(name, reference, write)
        found[name] = {"task": task, **_measured(recipe, codes, both, OF_BASELINES[name], folder / name)}
    return found


def _measured(
    recipe: Recipe, codes: pa.Table, both: tuple[Any, Any], names: tuple[str, ...], path: Path
) -> dict[str, Any]:
    """Measure a hypothesis against its reference, and write it and its scores to files whose names start with path."""
    from operators.scoring import page, table
    from operators.scoring.result import Conditions
    from operators.scoring.score import measure, scores_of

    reference, hypothesis = both
    conditions = Conditions(normalizer=recipe.evaluate.normalizer, seed=recipe.seed, measures=names)
    measured = measure(reference, hypothesis, conditions, columns=_columns(codes, reference))
    wanted = ("num_speakers", *recipe.evaluate.slices)
    known = {name for one in measured.sessions for name, value in one.columns.items() if value is not None}
    scores = scores_of(measured, by=[column for column in wanted if column in known])
    name = path.name
    for file, text in (
        (f"{name}_hypothesis.seglst.json", json.dumps(hypothesis, indent=1, ensure_ascii=False) + "\n"),
        (f"{name}_scores.json", table.as_json(scores)),
        (f"{name}_scores.md", table.markdown(scores)),
        (f"{name}_worst.html", page.page(scores)),
    ):
        storage.replace_bytes(text.encode(), str(path.parent / file))
    header, sliced = table.slice_rows(scores.slices, table.SLICED)
    return {
        "slices": {"header": header, "rows": sliced},
        "meaning": table.meaning(scores.conditions, scores.resampled),
        "left_out": dict(scores.left_out),
        "measures": {
            figure.measure: {
                "rate": figure.value,
                "low": figure.low,
                "high": figure.high,
                "base": figure.base,
                **figure.counts,
                "confusion": figure.confusion,
                "num_recordings": scores.num_recordings,
                "num_sessions": figure.num_sessions,
                "row": table.row(figure),
            }
            for figure in scores.figures
        },
    }


def _answers(plan: Plan, which: str, task: str) -> tuple[pa.Table | None, pa.Table | None]:
    """Return the codes that a checkpoint was asked about, and its answers; None where it was not."""
    output, stage = plan.output, plan.stage("hypotheses")
    codes, hypotheses = output.dataset("codes"), output.dataset("hypotheses")
    read: list[tuple[pa.Table, pa.Table]] = []
    for partition in stage.partitions:
        payload = stage.payloads[partition.partition_id]
        if (payload.which, payload.task) == (which, task):
            ref = PartitionRef(partition.partition_id, partition.key)
            read.append(
                (
                    codes.open(receipt_of(codes, payload.codes)).read_all(),
                    hypotheses.open(receipt_of(hypotheses, ref)).read_all(),
                )
            )
    if not read:
        return None, None
    both = list(zip(*read, strict=True))
    return pa.concat_tables(both[0]), pa.concat_tables(both[1])


def _columns(codes: pa.Table, reference: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what sessions can be sliced by beyond what their reference says: origin, and the turns' gender."""
    of_recording = {}
    for row in codes.select(["conversation_id", "origin", "turns"]).to_pylist():
        genders = sorted({turn["gender"] for turn in row["turns"] if turn["gender"]})
        of_recording[row["conversation_id"]] = {"origin": row["origin"], "gender": "+".join(genders) or None}
    return {entry["session_id"]: of_recording[entry["recording_id"]] for entry in reference}


def _likelihood(written: pa.Table, seed: int) -> dict[str, Any]:
    """Return the mean negative log-likelihood of targets in nats, with its bootstrap interval over conversations."""
    parts = np.array([written["nll"].to_pylist(), written["nll_weight"].to_pylist()], np.float64).T
    parts = parts[np.isfinite(parts).all(axis=1)]
    if not len(parts):
        return {"rate": None, "low": None, "high": None, "base": 0.0, "row": ["NLL", "-", "-", "0", ""]}
    draws = parts[rng(seed, "bootstrap", "nll").integers(0, len(parts), size=(1000, len(parts)))].sum(axis=1)
    low, high = (float(value) for value in np.percentile(draws[:, 0] / draws[:, 1], (2.5, 97.5)))
    total, weight = (float(value) for value in parts.sum(axis=0))
    row = ["NLL, nats", f"{total / weight:.3f}", f"{low:.3f} to {high:.3f}", f"{weight:.0f}", ""]
    measured = {"rate": total / weight, "low": low, "high": high, "base": weight}
    return {**measured, "num_recordings": len(parts), "row": row}


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
    metrics = read_evaluation(path)
    name = metrics["headline"]
    shown = ", ".join(f"{which} {metrics[which][name]['row'][1]}" for which in WHICH if which in metrics)
    number, title = metrics["trained"][name]["num_recordings"], metrics["trained"][name]["row"][0]
    if cut := metrics["trained"].get("num_cut"):
        console.notice(f"{cut} transcripts of windows were cut at evaluate.max_tokens; their last words are missing")
    report_stage("evaluate", fresh, f"{title} {shown} on {number} conversations")
    context.metrics = dict(metrics)


def _record_figures(context: RunContext, run: StageRun, metrics: dict[str, Any]) -> None:
    """Record each checkpoint's metrics with MLflow, tied to the checkpoint; register the trained one on request."""
    for which in WHICH:
        if which not in metrics:
            continue
        folder = Path(metrics[which]["checkpoint"])
        model_id = run.model(folder, f"{context.recipe.name}-{folder.name}", {"hubbub.which": which})
        figures = rates({which: metrics[which], "task": metrics["task"]})
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
