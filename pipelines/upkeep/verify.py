"""data verify: everything that a run keeps against its digests; with repair, what is damaged is made again."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from models.config.header import check_checkpoint_files, steps
from operators.errors import InputError
from operators.store import storage
from operators.store.dataset import Dataset
from pipelines.plan.context import RunOptions, lock_folder
from pipelines.plan.output import Output, read_evaluation
from pipelines.recipes.files import recipe_of
from pipelines.reporting import console
from pipelines.run import run
from pipelines.stages import dataset_names

DAMAGED = "damaged"
"""Folder of an output folder that damaged files are moved to: nothing is ever deleted."""


@dataclass(frozen=True)
class Fault:
    """Something damaged, and the files and folders to move away so that a run makes it again."""

    text: str
    urls: tuple[str, ...]


def verify(folder: Path, *, repair: bool = False, workers: int | None = None) -> None:
    """Check every file that a run keeps; make again what is damaged, on request.

    Raises:
        InputError: names what is damaged, missing, or could not be made again.
    """
    output = Output(folder)
    faults, checked = _faults(output)
    if not checked:
        raise InputError(f"{folder} holds no data sets")
    if not faults:
        console.line("verified", f"{checked} files are what was committed")
        return
    if not repair:
        texts = [one.text for one in faults]
        raise InputError("; ".join([*texts, f"hubbub data verify {folder} --repair makes it again"]))
    recipe, until = recipe_of(folder), _reached(output)
    with lock_folder(folder):
        for one in faults:
            console.line("damaged", one.text)
            for url in one.urls:
                _move_away(url, folder)
    run(recipe, RunOptions(output=folder, workers=workers), until)
    left, _ = _faults(output)
    if left:
        raise InputError("; ".join(one.text for one in left))
    gone = [url for one in faults for url in one.urls if not storage.exists(url)]
    for url in gone:  # earlier checkpoints, and what another recipe made here
        console.notice(f"{url} was not made again: the run does not need it")
    number = sum(not set(one.urls) & set(gone) for one in faults)
    console.line("repaired", f"{number} of {len(faults)} made again; what was damaged is in {folder / DAMAGED}")


def _faults(output: Output) -> tuple[list[Fault], int]:
    """Return all that is damaged, and the number of files and checkpoints of data sets that were checked."""
    found: list[Fault] = []
    checked = 0
    if (output.folder / "recipe.json").exists():
        found += _caught(partial(recipe_of, output.folder))
    for name in dataset_names():
        faults, number = _of_dataset(output.dataset(name))
        found += faults
        checked += number
    for path in _checkpoints(output.folder):
        found += _caught(partial(check_checkpoint_files, path), str(path))
        checked += 1
    for path in sorted(output.folder.glob("evaluation/*/metrics.json")):
        found += _caught(partial(read_evaluation, path), str(path))
        checked += 1
    return found, checked


def _caught(check: Callable[[], object], *urls: str) -> list[Fault]:
    try:
        check()
    except InputError as error:
        return [Fault(str(error), urls)]
    return []


def _checkpoints(folder: Path) -> Iterator[Path]:
    for training in sorted((folder / "checkpoints").glob("*")):
        for step in steps(training):
            yield training / f"step-{step:06d}"


def _of_dataset(dataset: Dataset) -> tuple[list[Fault], int]:
    """Check every receipt of a data set, its rows, and its snapshots."""
    found, checked = [], 0
    for stem in sorted(dataset.committed_names()):
        both = tuple(dataset.url("partitions", f"{stem}{suffix}") for suffix in (".json", ".arrow"))
        identifier, _, key = stem.rpartition("-")
        checked += 1
        try:
            receipt = dataset.committed_by_key(identifier, key)
            fault = dataset.fault(receipt) if receipt is not None else ""
        except InputError as error:
            fault = str(error)
        if fault:
            found.append(Fault(fault, both))
    numbers = dataset.snapshot_numbers()
    for number in numbers:
        url = dataset.url("snapshots", f"{number:06d}.json")
        checked += 1
        try:
            snapshot = dataset.numbered(number)
        except InputError as error:
            found.append(Fault(str(error), (url,)))
            continue
        listed = snapshot.receipts if snapshot and number == numbers[-1] else ()
        missing = [receipt for receipt in listed if not storage.exists(dataset.receipt_url(receipt))]
        found += [Fault(f"{dataset.receipt_url(one)} is missing", (dataset.rows_url(one),)) for one in missing]
    if checked:
        console.line(dataset.name, f"{checked} receipts and snapshots, {len(found)} damaged or missing")
    return found, checked


def _reached(output: Output) -> str:
    """Return the last stage that the folder's runs came to."""
    if output.dataset("hypotheses").committed_names():
        return "evaluate"
    if any(_checkpoints(output.folder)):
        return "train"
    made = {"packs": "pack", "codes": "tokenize"}
    return next((stage for name, stage in made.items() if output.dataset(name).committed_names()), "simulate")


def _move_away(url: str, folder: Path) -> None:
    """Move a file or folder below `damaged/`, where it keeps its path; of an object in a store, a copy is kept."""
    if not storage.is_local(url):
        data = storage.read_bytes(url)
        if data is not None:
            storage.replace_bytes(data, str(folder / DAMAGED / url.rpartition("/")[2]))
            storage.remove(url)
        return
    path = Path(url)
    if not path.exists():
        return
    target = folder / DAMAGED / os.path.relpath(path, folder)
    while target.exists():
        target = target.with_name(f"{target.name}.again")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(str(path), str(target))
