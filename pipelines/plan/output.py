"""Where everything that a run makes is kept: a folder, and a store for data sets and checkpoints where one is given."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.config.intact import read_json
from models.config.secrets import HIDDEN, masked
from operators.errors import InputError
from operators.store import storage
from operators.store.dataset import Dataset

_STORE = "store"
"""File of an output folder that holds the URL of its data sets and checkpoints, where they are kept elsewhere."""


def read_evaluation(path: Path) -> dict[str, Any]:
    """Return the metrics of an evaluation, from its metrics.json.

    Raises:
        InputError: it is damaged.
    """
    remedy = f"remove {path} and run again: the transcripts are scored again"
    metrics: dict[str, Any] = read_json(path, remedy)
    if not {"trained", "headline", "task"} <= metrics.keys():
        raise InputError(f"{path} is damaged: it is not what was written; {remedy}")
    return metrics


@dataclass(frozen=True)
class Output:
    """The folder of a run, and the URL of its store."""

    folder: Path
    store: str = ""
    """URL of data sets and checkpoints; the folder itself where empty. A folder remembers its store."""

    def __post_init__(self) -> None:
        """Take the store that the folder was last used with, where none is given."""
        if not self.store and (self.folder / _STORE).exists():
            store = (self.folder / _STORE).read_text().strip()
            if HIDDEN in store:
                raise InputError(
                    f"{self.folder} keeps its data sets at {store}; the password is not kept: give --store"
                )
            object.__setattr__(self, "store", store)

    def remember(self, store: str) -> None:
        """Record the store in the folder.

        Raises:
            InputError: the folder already uses another store.
        """
        path, kept = self.folder / _STORE, masked(store)
        before = path.read_text().strip() if path.exists() else kept
        if before != kept:
            raise InputError(f"{self.folder} keeps its data sets at {before}, not at {store}; give another --output")
        storage.check_store(store)
        path.write_text(kept + "\n")

    @property
    def data(self) -> str:
        """Root folder or URL of the data sets."""
        return storage.join(self.store, "data") if self.store else str(self.folder / "data")

    def training_url(self, key: str) -> str | None:
        """Return the URL that a training's checkpoints are copied to; None without a store."""
        return storage.join(self.store, "checkpoints", key[:12]) if self.store else None

    def dataset(self, name: str) -> Dataset:
        """Return a data set by name."""
        return Dataset(self.data, name)

    def training(self, key: str) -> Path:
        """Return the folder of a training's checkpoints and metrics."""
        return self.folder / "checkpoints" / key[:12]

    def evaluation(self, key: str) -> Path:
        """Return the folder of an evaluation's results."""
        return self.folder / "evaluation" / key[:12]
