"""run: every stage up to the one asked for. What is done stays, what is stale is made."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.config.groups import check_groups
from operators.errors import InputError
from operators.store.dataset import Snapshot
from pipelines.execute.partitions import run_partitions
from pipelines.plan.context import RunContext, RunOptions, lock_folder, write_quarantine
from pipelines.plan.output import Output
from pipelines.plan.planning import Planning
from pipelines.plan.sets import check_training_split, fitted, is_set
from pipelines.plan.stage import Plan, plan_stage
from pipelines.plan.start import newest_checkpoint
from pipelines.recipes.check import check_recipe
from pipelines.recipes.files import changed_since, in_short, is_kept, write_recipe
from pipelines.recipes.open import settled
from pipelines.recipes.phases import changed_phases, check_phases, in_phase, start_of
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console
from pipelines.reporting.code_version import code_version
from pipelines.reporting.run_state import unrecorded
from pipelines.stages import STAGES, check_stages, plan_recipe, stage_names
from pipelines.stages.evaluate import check_checkpoint, check_tasks
from pipelines.stages.index import make_corpus
from pipelines.stages.notices import check_licences, check_told
from pipelines.stages.score_tables import rates
from pipelines.stages.simulate import casting_summary


@dataclass(frozen=True)
class RunResult:
    """What a run made, or found made."""

    plan: Plan
    snapshots: dict[str, Snapshot]
    """By data set."""
    training: dict[str, float]
    """First and last losses, and the speed of training; empty where it was not asked for."""
    metrics: dict[str, Any]
    """Metrics of the evaluation; empty where it was not asked for."""

    def figures(self) -> dict[str, float]:
        """Return the metrics of the whole run."""
        figures = {f"train.{name}": value for name, value in self.training.items()}
        return figures | rates(self.metrics)


def run(recipe: Recipe, options: RunOptions, until: str = "evaluate") -> RunResult:
    """Run every stage up to one, of a recipe with phases for each of them; return what was made, in the last phase.

    Raises:
        InputError: the user can fix it; nothing already made is lost.
    """
    if not recipe.phases:
        return _run(recipe, options, until)
    last = len(recipe.phases) - 1
    check_phases(recipe)
    begun = None
    if not options.update:
        if changed := changed_phases(options.output, recipe):
            raise _another_recipe(options.output, changed)
        begun, options = start_of(options.output), replace(options, update=True)
    if options.checkpoint is not None:
        return _run(in_phase(recipe, last, begun), options, until)
    trains, start = until in ("train", "evaluate"), None
    for number, phase in enumerate(recipe.phases):
        console.line("phase", f"{number + 1} of {last + 1}: {phase.name}")
        result = _run(in_phase(recipe, number, start), options, "train" if trains and number < last else until)
        # Without training, there is no checkpoint to start from, and what is made before does not depend on it.
        start = str(result.plan.checkpoint_of("trained")) if trains else None
    return result


def _run(recipe: Recipe, options: RunOptions, until: str) -> RunResult:
    """Run every stage of a recipe without phases up to one.

    Raises:
        InputError: the user can fix it; nothing already made is lost.
    """
    if options.checkpoint is not None and is_set(recipe):
        recipe = fitted(recipe, options.checkpoint)
    recipe = settled(recipe)
    check_recipe(recipe)
    check_stages(recipe)
    if until == "evaluate":
        check_tasks(recipe)
    if until in ("train", "evaluate") and options.checkpoint is None:
        for number in range(options.min_train_workers or options.train_workers, options.train_workers + 1):
            check_groups(recipe.train, number)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.store:
        Output(options.output).remember(options.store)
    with ExitStack() as stack:
        stack.enter_context(lock_folder(options.output))
        claim(recipe, options)
        code = code_version()
        made_by = {"recipe": recipe.name, "recipe_digest": recipe.digest, "seed": recipe.seed, "code": code}
        if code.get("dirty"):
            console.notice("the working tree has uncommitted changes; the lineage will record that")
        context = RunContext(recipe, options, stack, made_by, unrecorded=unrecorded(options.output))
        result = _run_stages(context, until)
        is_complete = until == "evaluate" and options.checkpoint is None
        if context.did_work or (is_complete and "run" in context.unrecorded):
            context.tracker().finish(result.figures(), is_complete=is_complete)
        return result


def _run_stages(context: RunContext, until: str) -> RunResult:
    recipe, output, order = context.recipe, context.output, stage_names()
    make_corpus(context)
    indexes = Planning(recipe, output)
    for stage in STAGES:
        if stage.index is not None and stage.is_used(recipe):
            stage.index(context, plan_stage(stage, indexes))
    check_licences(recipe, output, context.snapshots)
    check_told(recipe, output, context.snapshots, trains=context.options.checkpoint is None)
    checkpoint = context.options.checkpoint
    if checkpoint is not None:
        checkpoint = check_checkpoint(newest_checkpoint(checkpoint), recipe)
    plan = plan_recipe(recipe, output, checkpoint)
    if checkpoint is None and until in ("pack", "train", "evaluate"):
        check_training_split(
            recipe, any(one.partition_id.startswith("train") for one in plan.stage("conversations").partitions)
        )
    context.fit(plan.recipe, plan.fitting)
    if any(stage.stale for stage in plan.stages):
        context.expect_work()
    console.line("splits", plan.splits.describe())
    if casting := casting_summary(plan):
        console.line("casting", casting)
    for planned in plan.stages:
        if planned.stage.index is None and order.index(planned.name) <= order.index(until):
            (planned.stage.run or run_partitions)(context, plan, planned)
    write_quarantine(context)
    return RunResult(plan, context.snapshots, context.training, context.metrics)


def _another_recipe(folder: Path, changed: Sequence[str]) -> InputError:
    return InputError(
        f"{folder} belongs to another recipe ({in_short(changed)}); give another --output, or --update to "
        "continue there with this one (what still fits is kept)"
    )


def claim(recipe: Recipe, options: RunOptions) -> None:
    """Write the resolved recipe to the output folder.

    Raises:
        InputError: the folder belongs to another recipe.
    """
    try:
        changed = changed_since(options.output, recipe)
    except InputError:
        if not options.update:
            raise
        changed = ["the recipe there cannot be read"]
    if changed and not options.update:
        raise _another_recipe(options.output, changed)
    if not is_kept(recipe, options.output):
        write_recipe(recipe, options.output)
