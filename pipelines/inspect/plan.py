"""plan: what would run, what is fresh, and why; starts nothing. verify: whether what was committed is still so."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from models.config.header import read_header, steps
from models.training.metrics import read_metrics
from operators.errors import InputError
from pipelines.plan.road import (
    DATASETS,
    Output,
    StagePlan,
    index_partition,
    made_corpus,
    plan_road,
    recordings_partition,
)
from pipelines.recipes.check import check_recipe
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console
from pipelines.stages import pack, simulate, train


def show(recipe: Recipe, output: Output, workers: int) -> None:
    """Print what `run` would do.

    Raises:
        InputError: the recipe or its manifests cannot be used.
    """
    check_recipe(recipe)
    simulate.check(recipe)
    pack.check(recipe)
    train.check(recipe)
    made = made_corpus(recipe, output)
    if made is not None and not made.exists():
        console.line("corpus", f"would be written into {made}; everything follows from it")
        return
    index = index_partition(recipe, output)
    if output.dataset("utterances").committed(index) is None:
        console.line(
            "index", f"{len(index.depends['manifests'])} manifest files would be read; everything follows from them"
        )
        return
    if recipe.corpus.recorded and output.dataset("recordings").committed(recordings_partition(recipe)) is None:
        console.line("index", "the recorded conversations would be read; everything follows from them")
        return
    plan = plan_road(recipe, output)
    console.line("splits", plan.splits.describe())
    rows, all_s = [], 0.0
    for stage in plan.stages:
        if stage.dataset == "hypotheses":
            continue
        why = Counter(stage.reasons().values())
        reasons = "; ".join(f"{reason} ({number})" for reason, number in why.most_common(3))
        expected = estimate(stage, workers)
        all_s += expected.seconds or 0.0
        counts = [str(len(stage.partitions)), str(len(stage.stale))]
        rows.append([stage.name, stage.dataset, *counts, *expected.words(bool(stage.stale)), reasons or "fresh"])
    trained, seconds = plan.training_done(), training_seconds(output, recipe)
    all_s += 0.0 if trained else seconds or 0.0
    expected = Estimate(None, None, seconds)
    why_train = "fresh" if trained else "no checkpoint of these packs"
    counts = ["1", "0" if trained else "1"]
    rows.append(["train", f"{recipe.train.steps} steps", *counts, *expected.words(not trained), why_train])
    judged = plan.evaluation_done()
    counts = ["1", "0" if judged else "1"]
    rows.append(["evaluate", "cpWER", *counts, "", "", "", "fresh" if judged else "not judged yet"])
    console.table("", ["stage", "data set", "partitions", "stale", "audio", "bytes", "time", "why"], rows)
    if all_s:
        console.line("time", f"about {_duration(all_s)} on {workers} workers, by what was measured here before")


@dataclass(frozen=True)
class Estimate:
    """What the stale partitions of a stage will hold and take, by those that were made before."""

    audio_s: float | None
    num_bytes: float | None
    seconds: float | None

    def words(self, stale: bool) -> list[str]:
        """Write hours, bytes and time; nothing where nothing is to be made, `?` where nothing was measured yet."""
        if not stale:
            return ["", "", ""]
        size = "?" if self.num_bytes is None else f"{self.num_bytes / 1e6:,.0f} MB"
        audio = "" if self.audio_s is None else console.hours(self.audio_s)
        return [audio, size, "?" if self.seconds is None else _duration(self.seconds)]


def estimate(stage: StagePlan, workers: int) -> Estimate:
    """Return what a stage's stale partitions will hold and take: rates of the newest snapshot's receipts, by rows."""
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


def training_seconds(output: Output, recipe: Recipe) -> float | None:
    """Return how long a recipe's steps would take, by the newest training here of a model of its size."""
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


def _duration(seconds: float) -> str:
    """Write a time as a person reads it.

    >>> _duration(42), _duration(600), _duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def verify(folder: Path) -> None:
    """Check every committed file of an output folder against its digest.

    Raises:
        InputError: names what is missing or altered.
    """
    output, faults, checked = Output(folder), [], 0
    for name in DATASETS:
        dataset = output.dataset(name)
        snapshot = dataset.latest()
        if snapshot is not None:
            faults += dataset.verify(snapshot)
            checked += len(snapshot.receipts)
            console.line(name, f"{len(snapshot.receipts)} partitions, Merkle root {snapshot.merkle_root[:12]}")
    if not checked:
        raise InputError(f"{folder} holds no data sets")
    if faults:
        raise InputError("; ".join(faults))
    console.line("verified", f"{checked} partitions are what was committed")
