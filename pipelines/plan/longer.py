"""A training that differs from another one in its number of steps alone goes on from it, before either's rate falls."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.config.header import steps
from models.config.options import Training
from models.config.schedule import decay_begins
from operators.digest import to_jsonable
from operators.store import storage
from pipelines.plan.trained import DEPENDS

_LOGS = ("metrics.jsonl", "validation.jsonl", "bad_steps.jsonl")


def take_over(folder: Path, depends: Mapping[str, Any], config: Training) -> int:
    """Copy into an empty training what another one beside it did of the same steps; return how many, or 0.

    Until the learning rate falls (`--train.schedule wsd`), steps do not depend on how many there will be: the training
    goes on to the same bytes as one that was never shorter.

    Args:
        folder: of the training; others' folders are beside it.
        depends: what its key is made of.
        config: how it trains.
    """
    if steps(folder) or config.schedule != "wsd" or config.mixture == ("grow",):
        return 0
    found: dict[int, Path] = {}
    for note in folder.parent.glob(f"*/{DEPENDS}"):
        number = _steps_if_alike(note, depends)
        if number is not None and note.parent != folder:
            most = min(decay_begins(config), decay_begins(replace(config, steps=number)))
            found |= {step: note.parent for step in steps(note.parent) if 0 < step <= most}
    if not found:
        return 0
    step = max(found)
    for name in ("step-000000", f"step-{step:06d}"):
        if (found[step] / name).exists():
            staged = folder / f".{name}"
            shutil.rmtree(staged, ignore_errors=True)
            shutil.copytree(found[step] / name, staged)
            staged.rename(folder / name)
    for name in _LOGS:
        if (found[step] / name).exists():
            lines = (found[step] / name).read_text(encoding="utf-8").splitlines(keepends=True)
            kept = "".join(line for line in lines if _step_of(line) <= step)
            storage.replace_bytes(kept.encode(), str(folder / name))
    return step


def _step_of(line: str) -> float:
    """Return the step of a line of a log; infinity for the line that a kill cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _steps_if_alike(note: Path, depends: Mapping[str, Any]) -> int | None:
    """Return the number of steps of a training whose note differs from what is given in nothing else; else None."""
    try:
        theirs, ours = json.loads(note.read_text()), to_jsonable(depends)
        number = theirs["train"].pop("steps")
        ours = {**ours, "train": {name: value for name, value in ours["train"].items() if name != "steps"}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a damaged note costs steps, nothing else
        return None
    return number if theirs == json.loads(json.dumps(ours)) and isinstance(number, int) and number > 0 else None
