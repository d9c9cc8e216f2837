"""train: packs -> `training`, a folder of checkpoints."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from models.config.header import read_header, steps
from models.config.settings import key_settings
from models.training.metrics import StepRecord, ValidationRecord, best_steps, read_metrics, read_records
from operators.errors import InputError
from operators.evaluate.transcribe import Transcribe
from operators.scoring import VERSION as SCORING_VERSION
from operators.store.dataset import Partition
from pipelines.execute.fit import Workers, fit
from pipelines.plan.context import RunContext, report_stage
from pipelines.plan.header import check_training, digest_of_encoder
from pipelines.plan.job import PlannedPartition
from pipelines.plan.output import Output
from pipelines.plan.planning import Planning
from pipelines.plan.stage import Plan, Stage, StagePlan
from pipelines.plan.start import start_digest
from pipelines.plan.trained import training_committed, why_trained
from pipelines.plan.transcriber import judged_task, validation_codes
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console
from pipelines.reporting.mlflow_runs import StageRun


def plan_training(planning: Planning) -> list[PlannedPartition]:
    """Return the one training of a recipe, whose key decides its folder."""
    recipe, packs = planning.recipe, planning.of("packs")
    validation = {p.partition_id: p.key for p in packs if p.partition_id.startswith("validation-")}
    _check_validation(recipe, validation)
    decides = validation and recipe.train.validate_every and (recipe.train.keep_best or recipe.train.patience)
    encoder = digest_of_encoder(recipe.model.encoder) or None
    partition = Partition(
        partition_id="training",
        row_ids=(),
        depends={
            "operators": {"train": recipe.train.version},
            "train": key_settings(recipe.train, {"start_from": start_digest(recipe)}),
            "model": key_settings(recipe.model, {"encoder": encoder}),
            "seed": recipe.seed,
            "packs": {p.partition_id: p.key for p in packs if p.partition_id.startswith("train-")},
            # Only where it decides which checkpoints are kept and when training ends; the steps are the same.
            **({"validation": _deciding(planning, validation)} if decides else {}),
        },
    )
    return [PlannedPartition(partition)]


def _deciding(planning: Planning, packs: Mapping[str, str]) -> dict[str, Any]:
    """Return what the value depends on that decides which checkpoints are kept and when training ends."""
    recipe = planning.recipe
    found: dict[str, Any] = {"packs": packs, "every": recipe.train.validate_every}
    if recipe.train.best_by == "cpwer":
        codes = {ref.partition_id: ref.key for ref in validation_codes(planning.of("codes"))}
        scoring = {"version": SCORING_VERSION, "normalizer": recipe.evaluate.normalizer}
        asked = {"conversations": recipe.train.validate_conversations, "transcribe": Transcribe.version, **scoring}
        found["cpwer"] = {"codes": codes, **asked, "evaluate": key_settings(recipe.evaluate, {})}
        if recipe.evaluate.beams > 1:
            found["cpwer"]["beams"] = recipe.evaluate.beams
    return found


def _check_validation(recipe: Recipe, validation: Mapping[str, str]) -> None:
    """Check that there is a validation where one decides something.

    Raises:
        InputError: names the option that needs it, and what to do.
    """
    is_watched = validation and recipe.train.validate_every
    best = recipe.evaluate.checkpoint == "best"
    for name, asked in (("train.patience", recipe.train.patience > 0), ("evaluate.checkpoint best", best)):
        if asked and not is_watched:
            raise InputError(
                f"{name} goes by the validation loss, but there is no validation split: "
                "--casting.validation-conversations N, and --train.validate-every above 0"
            )
    if recipe.train.validate_conversations and is_watched:
        judged_task(recipe)
    if best and not recipe.train.keep_best:
        raise InputError("evaluate.checkpoint best needs the best checkpoint to be kept: --train.keep-best 1")


def committed_trainings(recipe: Recipe, output: Output, partitions: Sequence[Partition]) -> frozenset[str]:
    """Return the keys of trainings whose last checkpoint exists."""
    return frozenset(p.key for p in partitions if training_committed(recipe, output, p.key))


def run_training(context: RunContext, plan: Plan, stage: StagePlan) -> None:
    """Train to the last step, unless that is done and recorded; report losses and speed."""
    if stage.stale or "train" in context.unrecorded:
        with context.stage("train") as run:
            _train(context, plan, run, is_done=not stage.stale)
        fresh = False
    else:
        plan.fetch_training()
        fresh = True
    figures = context.training = summary(curve(plan), validation_curve(plan), plan.recipe.train.best_by)
    done = int(plan.last_checkpoint().name[5:])
    if figures.get("steps", 0) < done:
        path = plan.output.training(plan.training_key) / "metrics.jsonl"
        console.notice(
            f"{path} is damaged: it holds {figures.get('steps', 0):.0f} of {done} steps; the checkpoints are whole "
            "(their curve is also in MLflow)"
        )
    if not figures:
        report_stage("train", fresh, f"{done} steps; their losses are not here")
        return
    text = f"{figures['steps']:.0f} steps, loss {figures['first_loss']:.3f} -> {figures['last_loss']:.3f}"
    if "validation_loss" in figures:
        text += f", validation {figures['validation_loss']:.3f}"
        which = "lowest" if plan.recipe.train.best_by == "loss" else "of the lowest cpWER"
        text += f" ({which} {figures['best_validation_loss']:.3f} at step {figures['best_step']:.0f})"
        if "validation_cpwer" in figures:
            text += f", cpWER {figures['validation_cpwer']:.1%}"
    report_stage("train", fresh, f"{text}, {console.count(figures['columns_per_s'])} columns/s")


def _train(context: RunContext, plan: Plan, run: StageRun, *, is_done: bool) -> None:
    recipe, packs = context.recipe, context.snapshots["packs"]
    run.reads([(packs, context.output.dataset("packs").url())])
    with console.bar("train", recipe.train.steps) as bar, _watched(plan, run, bar):
        if not is_done:
            options = context.options
            workers = Workers(fewest=options.min_train_workers or options.train_workers, most=options.train_workers)
            fit(plan, packs, _lineage(context, run), context.session(), workers)
    folder, last, best = plan.output.training(plan.training_key), plan.last_checkpoint(), plan.best_checkpoint()
    for path in dict.fromkeys((folder / "step-000000", last, best or last)):
        tags = {"hubbub.packs": packs.merkle_root}
        run.model(path, f"{recipe.name}-step-{int(path.name[5:])}", tags)
    run.metrics(
        summary(curve(plan), validation_curve(plan), plan.recipe.train.best_by),
        step=int(last.name[5:]),
        prefix="summary.",
    )


def _lineage(context: RunContext, run: StageRun) -> dict[str, Any]:
    """Return what every checkpoint records of where it comes from."""
    indexes = [context.snapshots[name] for name in ("utterances", "recordings") if name in context.snapshots]
    return {
        **context.made_by,
        "corpora": {source: listed for index in indexes for source, listed in index.inputs.items()},
        "datasets": {name: snapshot.merkle_root for name, snapshot in context.snapshots.items()},
        "mlflow_run": run.run_id,
        **_words(context),
    }


FEW_WORDS = 5000
"""Different words of a corpus below which a model that starts from nothing cannot know most of a language."""


def _words(context: RunContext) -> dict[str, int]:
    """Return how many different words the corpus has, where they are few and all that the model will ever know."""
    snapshots, dataset = context.snapshots, context.output.dataset("utterances")
    if context.recipe.train.start_from or "utterances" not in snapshots or context.recipe.corpus.recorded:
        return {}
    known: set[str | None] = set()
    for receipt in snapshots["utterances"].receipts:
        for batch in dataset.batches(receipt):
            words = pc.list_flatten(pc.split_pattern(batch["text_normalized"], " "))
            known.update(pc.unique(words).to_pylist())
            if len(known) > FEW_WORDS:
                return {}
    number = len(known - {None, ""})
    return {"distinct_words": number} if number else {}


@contextmanager
def _watched(plan: Plan, run: StageRun, bar: console.Bar) -> Iterator[None]:
    """Follow the metrics files during training: update the progress bar, and record the curves in batches."""
    stop = threading.Event()
    sent, validated = run.last_step("loss"), run.last_step("validation.loss")

    def follow() -> None:
        nonlocal sent, validated
        while True:
            finished = stop.wait(1.0)
            records, validations = curve(plan), validation_curve(plan)
            if records:
                recent = records[-20:]
                rate = sum(r.num_columns for r in recent) / max(sum(r.seconds for r in recent), 1e-9)
                held_out = f", validation {validations[-1].loss:.3f}" if validations else ""
                if validations and validations[-1].cpwer is not None:
                    held_out += f", cpWER {validations[-1].cpwer:.1%}"
                bar.to(records[-1].step, f"loss {records[-1].loss:.3f}{held_out}, {rate:,.0f} columns/s")
            new = [(record.step, as_metrics(record)) for record in records if record.step > sent]
            if len(new) >= 50 or (finished and new):
                run.curve(new)
                sent = new[-1][0]
            if later := [(record.step, record.values()) for record in validations if record.step > validated]:
                run.curve(later)
                validated = later[-1][0]
            if finished:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=60)


def curve(plan: Plan) -> list[StepRecord]:
    """Return the steps trained so far."""
    return read_metrics(plan.output.training(plan.training_key) / "metrics.jsonl")


def validation_curve(plan: Plan) -> list[ValidationRecord]:
    """Return the validations so far."""
    return read_records(plan.output.training(plan.training_key) / "validation.jsonl", ValidationRecord)


def validation_words(plan: Plan) -> str:
    """Return what a training is validated on, how often, and what that decides; empty where there is no validation."""
    config = plan.recipe.train
    shards = [p for p in plan.stage("packs").partitions if p.partition_id.startswith("validation-")]
    if not shards or not config.validate_every:
        return ""
    name = "loss" if config.best_by == "loss" else "cpWER"
    decided = [
        f"cpWER of {config.validate_conversations} conversations" if config.validate_conversations else "",
        f"the {config.keep_best} best checkpoints are kept" if config.keep_best else "",
        f"training ends after {config.patience} without a lower {name}" if config.patience else "",
        f"the {plan.recipe.evaluate.checkpoint} checkpoint is evaluated",
    ]
    return f"every {config.validate_every} steps on {len(shards)} shards; {'; '.join(filter(None, decided))}"


def summary(
    records: list[StepRecord], validations: Sequence[ValidationRecord] = (), best_by: str = "loss"
) -> dict[str, float]:
    """Return first and last losses and the rate, over a tenth of the steps at each end; and of validation.

    Args:
        records: of steps.
        validations: of the same training.
        best_by: what the best step is told by, `train.best_by`.
    """
    if not records:
        return {}
    ends = max(1, len(records) // 10)
    first, last = records[:ends], records[-ends:]
    seconds = sum(record.seconds for record in records)
    held_out = {}
    if validations:
        (best,) = best_steps([(one.step, one.value(best_by)) for one in validations], 1)
        last_cpwer = validations[-1].cpwer
        held_out = {
            **({} if last_cpwer is None else {"validation_cpwer": last_cpwer}),
            "validation_loss": validations[-1].loss,
            "best_validation_loss": next(one.loss for one in validations if one.step == best),
            "best_step": best,
        }
    return {
        **held_out,
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


def training_seconds(recipe: Recipe, output: Output) -> float | None:
    """Return how long a recipe's steps would take in seconds, from the newest training here of a model of its size."""
    found = []
    for path in (output.folder / "checkpoints").glob("*/metrics.jsonl"):
        done = steps(path.parent)
        if done and read_header(path.parent / f"step-{done[-1]:06d}")[1].shape == recipe.model:
            found.append(path)
    if not found:
        return None
    records = read_metrics(max(found, key=lambda path: path.stat().st_mtime))[-200:]
    columns = sum(record.num_columns for record in records)
    if not columns:
        return None
    per_column = sum(record.seconds for record in records) / columns
    return per_column * recipe.train.steps * recipe.train.packs_per_step * recipe.pack.capacity


TRAINING_STAGE = Stage(
    name="train",
    dataset="training",
    upstream=("packs",),
    about="checkpoints and a line of metrics for every step",
    partitions=plan_training,
    run=run_training,
    check=check_training,
    reason=why_trained,
    expected_seconds=training_seconds,
    committed=committed_trainings,
    for_training=True,
)
