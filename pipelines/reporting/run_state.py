"""Which MLflow runs an output folder has, and which of them a kill left open: a JSON file in the folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.config.intact import read_json, sealed
from operators.errors import InputError
from operators.store import storage
from pipelines.reporting import console


def _path(folder: Path) -> Path:
    return folder / "mlflow_runs.json"


def read_state(folder: Path) -> dict[str, Any]:
    """Return an output folder's tracking URI, parent run and stage runs; empty before the first.

    It decides no result: where it is damaged, that is said, and the next run begins a new one.
    """
    path = _path(folder)
    if not path.exists():
        return {}
    try:
        state: dict[str, Any] = read_json(path, "the next run that makes something is recorded as a new one")
    except InputError as error:
        console.notice(str(error))
        return {}
    is_whole = isinstance(state.get("stages"), dict) and "parent" in state
    return state if is_whole else {}


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the file atomically."""
    storage.replace_bytes(sealed(state), str(_path(folder)))


def unrecorded(folder: Path) -> frozenset[str]:
    """Return stages that are done but whose runs a kill left open, and `run` where the parent is open."""
    state = read_state(folder)
    if state.get("finished", True):
        return frozenset()
    return frozenset({"run", *(name for name, stage in state["stages"].items() if not stage["finished"])})
