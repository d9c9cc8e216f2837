"""plan: what would run, what is fresh, and why; starts nothing. verify: whether what was committed is still so."""

from collections import Counter
from pathlib import Path

from operators.errors import InputError
from pipelines import console, pack, simulate, train
from pipelines.recipes import Recipe, check
from pipelines.road import DATASETS, Output, index_partition, plan_road, recordings_partition, stories_folder


def show(recipe: Recipe, folder: Path) -> None:
    """Print what `run` would do.

    Raises:
        InputError: the recipe or its manifests cannot be used.
    """
    check(recipe)
    simulate.check(recipe)
    pack.check(recipe)
    train.check(recipe)
    output = Output(folder)
    if recipe.corpus.stories is not None and not stories_folder(recipe, output).exists():
        console.line("corpus", f"would be spoken into {stories_folder(recipe, output)}; everything follows from it")
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
    rows = []
    for stage in plan.stages:
        if stage.dataset == "hypotheses":
            continue
        why = Counter(stage.reasons().values())
        reasons = "; ".join(f"{reason} ({number})" for reason, number in why.most_common(3))
        rows.append([stage.name, stage.dataset, str(len(stage.partitions)), str(len(stage.stale)), reasons or "fresh"])
    trained = plan.training_done()
    rows.append(
        [
            "train",
            f"{recipe.train.steps} steps",
            "1",
            "0" if trained else "1",
            "fresh" if trained else "no checkpoint of these packs",
        ]
    )
    judged = plan.evaluation_done()
    rows.append(["evaluate", "cpWER", "1", "0" if judged else "1", "fresh" if judged else "not judged yet"])
    console.table("", ["stage", "data set", "partitions", "stale", "why"], rows)


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
