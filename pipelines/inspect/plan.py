"""plan: what would run, what is fresh, and why; starts nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.inspect.preview import preview
from pipelines.plan.output import Output
from pipelines.plan.planning import Planning
from pipelines.plan.sources import made_corpus
from pipelines.plan.stage import Plan, StagePlan, plan_stage
from pipelines.recipes.check import check_recipe
from pipelines.recipes.files import changed_since, in_short
from pipelines.recipes.phases import changed_phases, check_phases, in_phase
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console
from pipelines.stages import STAGES, check_stages, plan_recipe
from pipelines.stages.scoring import why_scored_again
from pipelines.stages.train import validation_words


def show(recipe: Recipe, output: Output, workers: int) -> None:
    """Print what `run` would do; of a recipe with phases, up to the first one that is not trained.

    Raises:
        InputError: the recipe or its manifests cannot be used.
    """
    if not recipe.phases:
        check_recipe(recipe)
        _show(recipe, changed_since(output.folder, recipe), output, workers)
        return
    check_phases(recipe)
    changed, start = changed_phases(output.folder, recipe), None
    for number, phase in enumerate(recipe.phases, 1):
        console.line("phase", f"{number} of {len(recipe.phases)}: {phase.name}")
        is_last = number == len(recipe.phases)
        plan = _show(in_phase(recipe, number - 1, start), changed, output, workers, evaluates=is_last)
        if plan is None or not plan.training_done():
            break
        changed, start = [], str(plan.checkpoint_of("trained"))
    for phase in recipe.phases[number:]:
        console.line("phase", f"{phase.name} would start from the checkpoint of the one before")


def _show(
    recipe: Recipe, changed: Sequence[str], output: Output, workers: int, *, evaluates: bool = True
) -> Plan | None:
    """Print what `run` would do for a recipe without phases; return the plan, where the corpus is indexed."""
    check_stages(recipe)
    if changed:
        console.line("update", f"{output.folder} belongs to another recipe ({in_short(changed)}): run needs --update")
    if missing := _not_indexed(recipe, output):
        console.line(*missing)
        if missing[0] == "index" and recipe.corpus.manifests:
            for line in preview(recipe, output):
                console.line(*line)
        return None
    plan = plan_recipe(recipe, output)
    recipe = plan.recipe
    if plan.fitting:
        console.line("fit", plan.fitting)
    console.line("splits", plan.splits.describe())
    if validation := validation_words(plan):
        console.line("validation", validation)
    rows, total_s = [], 0.0
    for stage in plan.stages:
        if stage.dataset == "hypotheses" and not evaluates:
            continue
        expected = estimate(stage, recipe, output, workers)
        total_s += expected.seconds or 0.0 if stage.stale else 0.0
        counts = [str(len(stage.partitions)), str(len(stage.stale))]
        why = Counter(stage.reasons().values()).most_common(3)
        reasons = "; ".join(f"{reason} ({number})" for reason, number in why)
        rows.append([stage.name, stage.dataset, *counts, *expected.words(bool(stage.stale)), reasons or "fresh"])
    console.table("", ["stage", "data set", "partitions", "stale", "audio", "bytes", "time", "why"], rows)
    if again := why_scored_again(plan):
        console.line("evaluate", f"the transcripts would be scored again: {again}")
    if total_s:
        console.line(
            "time", f"about {console.duration(total_s)} on {workers} workers, estimated from earlier runs here"
        )
    return plan


def _not_indexed(recipe: Recipe, output: Output) -> tuple[str, str] | None:
    """Return what must be indexed or made before anything else can be planned, as a line; None where nothing must."""
    made = made_corpus(recipe, output)
    if made is not None and not made.exists():
        return "corpus", f"would be written to {made}; everything follows from it"
    planning = Planning(recipe, output)
    for stage in STAGES:
        if stage.index is not None and stage.is_used(recipe):
            planned = plan_stage(stage, planning)
            if planned.stale:
                files = len(planned.stale[0].depends["manifests"])
                text = f"{files} manifest files would be read for {stage.dataset}; everything follows from them"
                (why,) = planned.reasons().values()
                text += f" ({why})" if why != "new" else ""
                return stage.name, text
    return None


@dataclass(frozen=True)
class Estimate:
    """What the stale partitions of a stage will hold and take, estimated from those made before."""

    audio_s: float | None
    num_bytes: float | None
    seconds: float | None

    def words(self, stale: bool) -> list[str]:
        """Return audio, bytes and time as text; empty where nothing is stale, `?` where nothing was measured yet."""
        if not stale:
            return ["", "", ""]
        size = "?" if self.num_bytes is None else f"{self.num_bytes / 1e6:,.0f} MB"
        audio = "" if self.audio_s is None else console.hours(self.audio_s)
        return [audio, size, "?" if self.seconds is None else console.duration(self.seconds)]


def estimate(stage: StagePlan, recipe: Recipe, output: Output, workers: int) -> Estimate:
    """Estimate what a stage's stale partitions will hold and take, by rows, from the newest snapshot's receipts."""
    if stage.stage.expected_seconds is not None:
        return Estimate(None, None, stage.stage.expected_seconds(recipe, output) if stage.stale else None)
    made = [receipt for receipt in stage.before.values() if receipt.num_rows] if stage.stale else []
    if not made:
        return Estimate(None, None, None)
    # A shard's rows are not known before it is packed: as many as the others have.
    todo: float = sum(len(partition.row_ids) for partition in stage.stale)
    had: float = sum(receipt.num_rows for receipt in made)
    if stage.dataset == "packs":
        todo, had = len(stage.stale), len(made)
    timed = [receipt for receipt in made if "seconds" in receipt.counts]
    each = {name: sum(r.counts.get(name, 0.0) for r in made) / had for name in ("audio_s", "seconds")}
    size = sum(receipt.num_bytes for receipt in made) / had
    at_once = max(1, min(workers, len(stage.stale)))
    return Estimate(
        each["audio_s"] * todo if each["audio_s"] else None,
        size * todo,
        each["seconds"] * todo / at_once if timed else None,
    )
