"""Hubbub's data sets as an MLflow source: `mlflow.data.get_source(...)` finds them, and `load` reads them."""

from typing import Any

from mlflow.data.dataset_source import DatasetSource
from mlflow.data.dataset_source_registry import register_dataset_source

from operators.errors import InputError
from operators.store.dataset import Dataset
from pipelines.reporting.mlflow_client import SOURCE_TYPE


class HubbubSource(DatasetSource):  # type: ignore[misc]
    """One snapshot of one data set, in a folder or at a URL."""

    def __init__(self, uri: str, snapshot: int | None = None) -> None:
        """Name a data set's folder or URL, and one of its snapshots; the newest where none is named."""
        self.uri, self.snapshot = uri, snapshot

    @staticmethod
    def _get_source_type() -> str:
        return SOURCE_TYPE

    def load(self) -> Any:
        """Return the rows as a pyarrow table.

        Raises:
            InputError: the data set, or this snapshot of it, is missing.
        """
        root, _, name = self.uri.rstrip("/").rpartition("/")
        dataset = Dataset(root, name)
        snapshot = dataset.numbered(self.snapshot) if self.snapshot else dataset.latest()
        if snapshot is None:
            raise InputError(f"there is no snapshot {self.snapshot or ''} at {self.uri}")
        return dataset.read(snapshot)

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        del raw_source  # any path or URL could be ours: sources are found by their type instead
        return False

    @classmethod
    def _resolve(cls, raw_source: Any) -> "HubbubSource":
        return cls(str(raw_source))

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads."""
        return {"uri": self.uri, "snapshot": self.snapshot}

    @classmethod
    def from_dict(cls, source_dict: dict[str, Any]) -> "HubbubSource":
        """Read a source back."""
        return cls(source_dict["uri"], source_dict.get("snapshot"))


# The entry point finds the class unless this module was imported before MLflow's: then it is not there yet.
register_dataset_source(HubbubSource)
