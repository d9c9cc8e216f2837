"""Which MLflow runs an output folder has, and which of them a kill left open: a JSON file in the folder."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def _path(folder: Path) -> Path:
    return folder / "mlflow_runs.json"


def read_state(folder: Path) -> dict[str, Any]:
    """Return an output folder's tracking URI, parent run and stage runs; empty before the first."""
    path = _path(folder)
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the file atomically."""
    staged = _path(folder).with_suffix(".part")
    staged.write_text(json.dumps(state, indent=1))
    os.replace(staged, _path(folder))


def unrecorded(folder: Path) -> frozenset[str]:
    """Return stages that are done but whose runs a kill left open, and `run` where the parent is open."""
    state = read_state(folder)
    if state.get("finished", True):
        return frozenset()
    return frozenset({"run", *(name for name, stage in state["stages"].items() if not stage["finished"])})
