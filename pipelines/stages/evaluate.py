"""evaluate: checkpoints and the test split's codes -> `hypotheses` -> cpWER."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.config.header import read_header, weights_digest
from models.config.settings import key_settings
from operators.corpus.sources import with_roots
from operators.digest import canonical_json, digest
from operators.documents.tasks import TASKS
from operators.errors import InputError
from operators.evaluate.ask import Ask, asked_words
from operators.evaluate.recognize import Recognize
from operators.evaluate.talkers import TranscribeTalkers
from operators.evaluate.transcribe import Transcribe
from operators.schema import AUDIO, HYPOTHESES, SCHEMA_VERSION
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
from pipelines.stages.asked import (
    HEARD,
    OF_WINDOWS,
    WHICH,
    Recognition,
    Transcription,
    asked_compose,
    evaluated_tasks,
    recognizers_of,
    transcriber,
)
from pipelines.stages.score_tables import rates
from pipelines.stages.scoring import score
from pipelines.stages.simulate import render_settings
from pipelines.stages.upstream import apply_or_quarantine, in_chunks, receipt_of


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
    """Return a partition for each checkpoint, task and partition of the test split's codes, and for recognizers."""
    recipe = planning.recipe
    of_test = [p for p in planning.of("codes") if p.partition_id.startswith("test-")]
    asked = [
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
    return asked + _plan_recognized(planning, of_test)


def _plan_recognized(planning: Planning, of_test: Sequence[Partition]) -> list[PlannedPartition]:
    """Return a partition for each recognizer, what it hears, and partition of the test split's conversations."""
    recipe, of_id = planning.recipe, {one.partition_id: one for one in planning.of("conversations")}
    versions = {"render": recipe.render.version, "recognize": Recognize.version, "schema": SCHEMA_VERSION}
    found = []
    for name, text, recognizer in recognizers_of(recipe):
        depends = {
            "operators": versions,
            "render": render_settings(recipe, with_stems=False),
            "recognizer": recognizer.digest,
            "frame_rate_hz": recipe.encode.spec.frame_rate_hz,
        }
        for over in HEARD:
            for codes in of_test:
                conversations = of_id[codes.partition_id]
                partition = Partition(
                    partition_id=f"{name}-{recognizer.digest[-8:]}-{over}-{codes.partition_id}",
                    row_ids=codes.row_ids,
                    depends={**depends, "over": over, "conversations": conversations.key},
                )
                refs = (PartitionRef(one.partition_id, one.key) for one in (conversations, codes))
                found.append(PlannedPartition(partition, Recognition(f"{name}.{over}", text, over, *refs)))
    return found


def _settings(recipe: Recipe, task: str) -> dict[str, Any]:
    """Return what an answer to a task depends on, besides checkpoint and codes."""
    versions = {"transcribe": Transcribe.version, "schema": SCHEMA_VERSION}
    settings: dict[str, Any] = {"evaluate": key_settings(recipe.evaluate, {}), "task": task}
    if recipe.evaluate.beams > 1:
        settings["beams"] = recipe.evaluate.beams
    if TASKS[task].judged_by == "talkers":
        told = {"talkers": TranscribeTalkers.version}
        return {"operators": {**versions, **told}, **settings, "diarization": recipe.evaluate.diarization}
    if TASKS[task].judged_by not in OF_WINDOWS:
        return {"operators": versions, **settings}
    compose = asked_compose(recipe, task)
    return {
        "operators": {**versions, "ask": Ask.version, "compose": compose.version},
        **settings,
        "compose": key_settings(compose, {"tokenizer": compose.loaded_tokenizer.digest}),
    }


def _checkpoints(planning: Planning) -> list[tuple[str, Path, dict[str, Any]]]:
    """Return name, folder and identity of each checkpoint that is evaluated."""
    given = planning.checkpoint
    if given is not None:
        _, header = read_header(given)
        identity = {
            "weights": weights_digest(given)[:32],
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


def make_hypotheses(job: Job) -> Receipt:
    """Make one partition of `hypotheses`: what one checkpoint or recognizer makes of one partition of conversations."""
    if isinstance(job.payload, Recognition):
        return _make_recognized(job, job.payload)
    source = job.output.dataset("codes")
    operator = transcriber(job.recipe, _local_checkpoint(job), job.payload.task, _device())
    operator.check_task()
    receipt = receipt_of(source, job.payload.codes)
    if isinstance(operator, Ask):
        operator = replace(operator, words=asked_words(source.batches(receipt), operator.compose))

    def fill(writer: RowWriter) -> None:
        for batch in source.batches(receipt):
            hypotheses = apply_or_quarantine(operator, batch, writer)
            writer.write(hypotheses)
            writer.count(
                tokens=sum(hypotheses["num_tokens"].to_pylist()),
                conversations=hypotheses.num_rows,
                audio_s=sum(batch["num_frames"].to_pylist()) / job.recipe.encode.spec.frame_rate_hz,
            )

    metadata = {"hubbub.checkpoint": canonical_json({"weights": operator.weights_digest})}
    return job.output.dataset("hypotheses").commit(job.partition, HYPOTHESES, metadata, fill)


def _make_recognized(job: Job, payload: Recognition) -> Receipt:
    """Make one partition of what a recognizer hears; mixtures are rendered again, for they are not kept."""
    render, rate_hz = replace(job.recipe.render, stems="none"), job.recipe.encode.spec.frame_rate_hz
    operator = Recognize(recognizer=payload.recognizer, over=payload.over, frame_rate_hz=rate_hz, device=_device())

    def fill(writer: RowWriter) -> None:
        for chunk in in_chunks(job.output.dataset("conversations"), payload.conversations):
            audio = apply_or_quarantine(render, with_roots(chunk, job.roots), writer)
            hypotheses = apply_or_quarantine(operator, audio.select(AUDIO.names), writer)
            writer.write(hypotheses)
            writer.count(conversations=hypotheses.num_rows)

    metadata = {"hubbub.checkpoint": canonical_json({"weights": operator.loaded.digest})}
    return job.output.dataset("hypotheses").commit(job.partition, HYPOTHESES, metadata, fill)


def _local_checkpoint(job: Job) -> str:
    """Return the checkpoint's folder on this machine, fetched from the store where it is missing."""
    path = Path(job.payload.checkpoint)
    return str(located(path, job.output.training_url(path.parent.name)))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def run_evaluation(context: RunContext, plan: Plan, stage: StagePlan) -> None:
    """Transcribe and score what is stale, record the metrics, and report cpWER."""
    path = plan.output.evaluation(plan.evaluation_key) / "metrics.json"
    fresh = plan.evaluation_done() and not stage.stale and "evaluate" not in context.unrecorded
    fresh = fresh and not context.options.register
    speed = ""
    inputs = {"codes": context.snapshots["codes"].merkle_root}
    if fresh:
        close(context, stage, inputs)
    else:
        with context.stage("evaluate") as run:
            started = time.monotonic()
            if audio_s := build(context, stage):
                factor = (time.monotonic() - started) / audio_s
                run.metrics({"real_time_factor": factor})
                speed = f", {factor:.2f} of real time"
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
    if unknown := metrics.get("unknown_slices"):
        console.notice(f"evaluate.slices: no conversation has {', '.join(unknown)}")
    report_stage("evaluate", fresh, f"{title} {shown} on {number} conversations{speed}")
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
    upstream=("codes", "conversations", "training"),
    about="what a checkpoint transcribed of a conversation",
    partitions=plan_hypotheses,
    make=make_hypotheses,
    run=run_evaluation,
    uses_gpu=lambda _: True,
)
