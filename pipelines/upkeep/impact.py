"""data impact: what contains a voice: data sets, checkpoints, metrics, and the first training step that used it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from models.config.header import POSITION, read_header
from models.training.metrics import is_over, validations_in
from models.training.order import Stream
from operators.errors import InputError
from operators.store.dataset import Snapshot
from operators.store.shards import PackShards, of_split
from pipelines.plan.output import Output, read_evaluation
from pipelines.recipes.files import recipe_of
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console
from pipelines.stages import dataset_names, plan_recipe


@dataclass(frozen=True)
class Touched:
    """How much of one data set contains the voice."""

    dataset: str
    merkle_root: str
    rows: int
    of_rows: int
    partitions: tuple[str, ...]


@dataclass(frozen=True)
class Trained:
    """Where one training used it."""

    folder: str
    packs: str
    """Merkle root of the packs."""
    first_step: int | None
    """First step whose packs contain the voice; None where none does, or where that is unknown."""
    checkpoints: tuple[str, ...]
    """Checkpoints of that step or later."""
    note: str = ""


def impact(folder: Path, speaker: str) -> dict[str, Any]:
    """Return what contains a speaker's voice, in the newest snapshots of an output folder.

    Raises:
        InputError: the folder is not the output of a run, or has no speaker of this name, or several.
    """
    recipe, output = recipe_of(folder), Output(folder)
    utterances = _newest(output, "utterances")
    indexed = output.dataset("utterances").read(utterances)
    # Who shares an id with somebody of another corpus is called ID@CORPUS.
    people = {name for name in indexed["speaker"].to_pylist() if name == speaker or name.startswith(f"{speaker}@")}
    if speaker not in people and len(people) > 1:
        raise InputError(f"{speaker} is several people in {folder}: name one of {', '.join(sorted(people))}")
    speaker = speaker if speaker in people or not people else people.pop()
    own = indexed.filter(pc.field("speaker") == speaker)
    conversations = _newest(output, "conversations")
    talks, touched = _of_voice(output, conversations, speaker)
    if not own.num_rows and not talks:
        raise InputError(f"{folder} has no speaker {speaker}; hubbub data export or the truth files list the names")
    found = [Touched("utterances", utterances.merkle_root, own.num_rows, utterances.num_rows, ()), touched]
    for name in dataset_names():
        snapshot = output.dataset(name).latest()
        if snapshot is not None and name not in ("utterances", "conversations"):
            found.append(_of_conversations(output, snapshot, talks))
    # The key proves that packs, model, mixture, steps and seed are those of the recipe in this folder.
    plan = plan_recipe(recipe, output)
    recipe, training = plan.recipe, plan.training_key[:12]
    folders = sorted((folder / "checkpoints").glob("*"))
    packs = output.dataset("packs").latest()
    trained = [_training(recipe, output, path, training, packs, talks) for path in folders]
    affected = {name for one in trained for name in one.checkpoints}
    figures = []
    for path in sorted((folder / "evaluation").glob("*/metrics.json")):
        metrics = read_evaluation(path)
        evaluated = Path(metrics["trained"]["checkpoint"])
        if "/".join(evaluated.parts[-2:]) in affected:
            title, value = metrics["trained"][metrics["headline"]]["row"][:2]
            figures.append({"metrics": str(path), "checkpoint": str(evaluated), "measure": title, "value": value})
    return {
        "speaker": speaker,
        "licences": sorted({str(x) for x in own["licence"].to_pylist()}),
        "datasets": [asdict(one) for one in found],
        "trainings": [asdict(one) for one in trained],
        "figures": figures,
    }


def _newest(output: Output, name: str) -> Snapshot:
    snapshot = output.dataset(name).latest()
    if snapshot is None:
        raise InputError(f"there is no data set at {output.dataset(name).url()}; make it with hubbub run")
    return snapshot


def _of_voice(output: Output, snapshot: Snapshot, speaker: str) -> tuple[set[str], Touched]:
    """Return the ids of the conversations in which a speaker takes part, and their count by partition."""
    talks: set[str] = set()
    partitions = []
    for receipt in snapshot.receipts:
        before = len(talks)
        for batch in output.dataset("conversations").batches(receipt):
            for row in batch.select(["conversation_id", "speakers"]).to_pylist():
                if speaker in row["speakers"]:
                    talks.add(row["conversation_id"])
        if len(talks) > before:
            partitions.append(receipt.partition_id)
    return talks, Touched("conversations", snapshot.merkle_root, len(talks), snapshot.num_rows, tuple(partitions))


def _of_conversations(output: Output, snapshot: Snapshot, talks: set[str]) -> Touched:
    """Count the rows that contain any of some conversations."""
    rows, partitions = 0, []
    for receipt in snapshot.receipts:
        number = 0
        for batch in output.dataset(snapshot.name).batches(receipt):
            column = "documents" if "documents" in batch.column_names else "conversation_id"  # packs hold several
            number += sum(_holds(row, talks) for row in batch.select([column]).to_pylist())
        rows += number
        if number:
            partitions.append(receipt.partition_id)
    return Touched(snapshot.name, snapshot.merkle_root, rows, snapshot.num_rows, tuple(partitions))


def _holds(row: dict[str, Any], talks: set[str]) -> bool:
    if "documents" in row:
        return any(document["conversation_id"] in talks for document in row["documents"])
    return row["conversation_id"] in talks


def _training(
    recipe: Recipe, output: Output, folder: Path, training: str, newest: Snapshot | None, talks: set[str]
) -> Trained:
    """Find the first pack with the voice in the order in which a training takes its packs."""
    steps = sorted(folder.glob("step-*/checkpoint.json"))
    name = str(folder)
    if not steps:
        return Trained(name, "", None, (), "no checkpoint yet")
    _, header = read_header(steps[-1].parent)
    root = str(header.lineage.get("datasets", {}).get("packs", ""))
    dataset = output.dataset("packs")
    numbers = range(newest.number, 0, -1) if newest else range(0)
    snapshot = next((s for n in numbers if (s := dataset.numbered(n)) and s.merkle_root == root), None)
    if snapshot is None or folder.name != training:
        return Trained(name, root, None, (), "trained by another recipe: when it used the voice is unknown here")
    shards = PackShards(dataset, snapshot, recipe.train.on_bad_shard)
    holds = [
        _holds(row, talks)
        for receipt in of_split(snapshot.receipts, "train")
        for batch in dataset.batches(receipt)
        for row in batch.select(["documents"]).to_pylist()
    ]
    config = recipe.train
    stream = Stream(shards.components, recipe.seed, config.mixture, config.packs_per_step, config.steps)
    position = steps[-1].parent / POSITION
    ended = position.exists() and is_over(validations_in(position.read_bytes(), str(position)), config.patience)
    positions = range((int(steps[-1].parent.name[5:]) if ended else config.steps) * config.packs_per_step)
    first = next((p // config.packs_per_step + 1 for p in positions if holds[stream.at(p)]), None)
    after = tuple(f"{folder.name}/{path.parent.name}" for path in steps if first and int(path.parent.name[5:]) >= first)
    return Trained(name, root, first, after)


def show(found: dict[str, Any]) -> None:
    """Print what contains a voice."""
    rows = [
        [d["dataset"], f"{d['rows']:,} of {d['of_rows']:,}", str(len(d["partitions"])), d["merkle_root"][:12]]
        for d in found["datasets"]
    ]
    console.line("voice", f"{found['speaker']}, licence {', '.join(found['licences']) or 'unknown'}")
    console.table("", ["data set", "rows with it", "partitions", "Merkle root"], rows)
    for training in found["trainings"]:
        if training["note"]:
            console.line("training", f"{training['folder']}: {training['note']}")
        elif training["first_step"] is None:
            console.line("training", f"{training['folder']} did not use it")
        else:
            names = ", ".join(Path(name).name for name in training["checkpoints"]) or "none that is kept"
            console.line("training", f"{training['folder']} first used it in step {training['first_step']}: {names}")
    for figure in found["figures"]:
        console.line("figure", f"{figure['measure']} {figure['value']} in {figure['metrics']}")
