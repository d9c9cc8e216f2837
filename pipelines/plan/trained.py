"""Checkpoints of a training that is done: its last one, and its best. Either may be known only afterwards."""

import json
from pathlib import Path
from typing import Any

from models.config.header import POSITION, read_header, steps
from models.training.metrics import best_steps, is_over, validations_in
from models.training.mirror import Mirror
from operators.digest import to_jsonable
from operators.store import storage
from operators.store.dataset import Partition, changes
from pipelines.plan.output import Output
from pipelines.recipes.recipe import Recipe

LAST, BEST = "last", "best"
"""Names of checkpoints whose steps are not known before a training is done."""

DEPENDS = "depends.json"
"""File in a training's folder with what its key is made of."""


def last_name(recipe: Recipe) -> str:
    """Return the name of the last checkpoint's folder: its step, or `last` where validation may end training early."""
    return LAST if recipe.train.patience else f"step-{recipe.train.steps:06d}"


def evaluated_name(recipe: Recipe) -> str:
    """Return the name of the folder of the checkpoint that a recipe evaluates, as `last_name` does."""
    return BEST if recipe.evaluate.checkpoint == "best" else last_name(recipe)


def located(path: Path, url: str | None) -> Path:
    """Return the folder of a done training's checkpoint on this machine, by its step, fetched where it is missing.

    Args:
        path: the training's folder, with `step-<step>`, `last` or `best`.
        url: of the training in the store, if there is one.
    """
    mirror = Mirror(path.parent, url) if url is not None else None
    if path.name in (LAST, BEST):
        if mirror:
            mirror.fetch_newest()
        step = max(steps(path.parent), default=0)
        if path.name == BEST:
            step = best_steps(_validations(path.parent, step), 1)[0]
        path = path.with_name(f"step-{step:06d}")
    if mirror and not path.exists():
        mirror.fetch([int(path.name[5:])])
    return path


def _validations(folder: Path, step: int) -> list[tuple[int, float]]:
    position = folder / f"step-{step:06d}" / POSITION
    return validations_in(position.read_bytes(), str(position)) if position.exists() else []


def remember_depends(folder: Path, depends: Any) -> None:
    """Keep what a training depends on in its folder, to tell later how another one differs."""
    storage.replace_bytes(
        (json.dumps(to_jsonable(depends), indent=1, sort_keys=True) + "\n").encode(), str(folder / DEPENDS)
    )


def why_trained(output: Output, partition: Partition) -> str:
    """Return why a training is stale: what differs from the newest one here, or that it was not finished."""
    own = output.training(partition.key)
    if steps(own):
        return f"not finished: it goes on after step {steps(own)[-1]}"
    earlier = [path for path in own.parent.glob(f"*/{DEPENDS}") if path.parent != own]
    if not earlier:
        return "new"
    newest = max(earlier, key=lambda path: path.stat().st_mtime_ns)
    try:
        return changes(json.loads(newest.read_text()), partition.depends) or "new"
    except (OSError, ValueError):  # a damaged note costs a reason, nothing else
        return "new"


def training_committed(recipe: Recipe, output: Output, key: str) -> bool:
    """Return whether a training is done: whether its last checkpoint exists, here or in the store.

    Raises:
        InputError: the header of the last one is damaged.
    """
    folder, url, patience = output.training(key), output.training_url(key), recipe.train.patience
    here = steps(folder)
    if here:
        read_header(folder / f"step-{here[-1]:06d}")  # a damaged one is named before anything goes on from it
    if here and 0 not in here and url is None:
        return False  # the untrained model is made again from the seed; no step is done twice
    if recipe.train.steps in here or (here and is_over(_validations(folder, here[-1]), patience)):
        return True
    mirror = Mirror(folder, url) if url is not None else None
    there = mirror.steps() if mirror else []
    if mirror is None or not there or recipe.train.steps in there:
        return bool(there)
    return bool(patience and there[-1] and is_over(validations_in(mirror.read(there[-1], POSITION)), patience))
