"""What MLflow records of a run: inputs, outputs, metrics, models and files. Every metric goes through `StageRun`.

The output folder explains itself without it (`pipelines.inspect.lineage`); MLflow holds the same edges as run inputs
and outputs, for search and comparison.
"""

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.config.header import read_header, weights_digest
from models.config.intact import read_json
from models.config.secrets import masked, without_login
from operators.digest import to_jsonable
from operators.errors import InputError
from operators.store.dataset import Snapshot
from pipelines.recipes.files import to_json
from pipelines.recipes.recipe import Recipe
from pipelines.reporting.code_version import code_version
from pipelines.reporting.mlflow_client import (
    SOURCE_TYPE,
    FaultTolerantClient,
    check_reachable,
    connect,
    experiment_of,
    tracking_uri,
)
from pipelines.reporting.run_state import read_state, write_state

_MAX_DIGEST = 36  # what MLflow's tables hold; the whole Merkle root is in the profile


class Tracker:
    """Records one `hubbub run` as a parent run with a child for each stage; after a kill, the same runs continue."""

    def __init__(self, recipe: Recipe, folder: Path, sweep: str = "") -> None:
        """Connect to the tracking server, and continue an unfinished parent run or begin one.

        Raises:
            InputError: the server does not answer.
        """
        from mlflow.exceptions import MlflowException

        self._recipe, self._folder = recipe, folder
        self.uri = tracking_uri(folder)
        self._client: Any = connect(self.uri, folder)
        try:
            self._experiment = experiment_of(self._client, folder)
        except MlflowException as error:
            raise InputError(f"MLflow at {self.uri} does not answer: {str(error).splitlines()[0]}") from error
        state = read_state(folder)
        place = without_login(self.uri)  # a changed password continues the same runs
        if without_login(state.get("uri", "")) != place or state.get("finished", True):
            state = {"uri": masked(place), "finished": False, "stages": {}, "parent": self._begin(sweep)}
        else:
            self._client.update_run(state["parent"], status="RUNNING")
        self._state = state
        self._save()
        self._client = FaultTolerantClient(self._client, self.uri)

    def _begin(self, sweep: str) -> str:
        """Create the parent run with the recipe as its parameters; return its id."""
        recipe = self._recipe
        tags = {
            "hubbub.recipe_digest": recipe.digest,
            "hubbub.seed": str(recipe.seed),
            "hubbub.output": str(self._folder.absolute()),
            **{f"hubbub.code.{key}": str(value) for key, value in code_version().items()},
            "hubbub.python": platform.python_version(),
            "hubbub.machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }
        if sweep:
            tags["mlflow.parentRunId"] = sweep
        parent = self._create(f"{recipe.name}-{recipe.digest[:8]}", tags)
        self._client.log_text(parent, to_json(recipe), "recipe.json")
        params = [_param(k, v) for k, v in _flatten(to_jsonable(recipe)).items() if k not in recipe.open_fields]
        self._client.log_batch(parent, params=params)
        return parent

    def fitted(self, recipe: Recipe, said: str) -> None:
        """Record what the recipe left to the corpus, once it is known."""
        from mlflow.exceptions import MlflowException

        flat = _flatten(to_jsonable(recipe))
        self._client.set_tag(self.parent_id, "hubbub.fit", said)
        with suppress(MlflowException):  # the corpus grew since the run was stopped: the tag says what holds now
            params = [_param(name, flat[name]) for name in recipe.open_fields if name in flat]
            self._client.log_batch(self.parent_id, params=params)

    @property
    def parent_id(self) -> str:
        """Id of the parent run."""
        return str(self._state["parent"])

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        made = self._client.create_run(
            self._experiment, run_name=name, tags={key: masked(value) for key, value in tags.items()}
        )
        return "" if made is None else str(made.info.run_id)

    def _save(self) -> None:
        write_state(self._folder, self._state)

    @contextmanager
    def stage(self, name: str) -> Iterator["StageRun"]:
        """Open the child run of a stage for the duration of the block."""
        stages = self._state["stages"]
        if stages.get(name, {}).get("run_id"):
            self._client.update_run(stages[name]["run_id"], status="RUNNING")
        else:
            run_id = self._create(name, {"mlflow.parentRunId": self.parent_id, "hubbub.stage": name})
            stages[name] = {"run_id": run_id}
        stages[name]["finished"] = False
        self._save()
        run_id = stages[name]["run_id"]
        try:
            yield StageRun(self._client, self._experiment, run_id)
        except BaseException as error:
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            self._client.set_terminated(run_id, status)
            self._client.set_terminated(self.parent_id, status)
            raise
        self._client.set_terminated(run_id, "FINISHED")
        stages[name]["finished"] = not self._client.lost
        self._save()

    def finish(self, metrics: Mapping[str, float], *, is_complete: bool) -> None:
        """End the parent run with its metrics; the next verb continues it unless all stages are done."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.parent_id, metrics=[Metric(k, float(v), now, 0) for k, v in metrics.items()])
        self._client.set_terminated(self.parent_id, "FINISHED")
        self._state["finished"] = is_complete and not self._client.lost
        self._save()


class SweepRun:
    """The parent of a sweep's runs; a sweep that is run again continues in the same one."""

    def __init__(self, recipe: Recipe, folder: Path, grid: Sequence[str]) -> None:
        """Begin a run, or continue the one that was begun.

        Raises:
            InputError: the server does not answer.
        """
        path = folder / "mlflow_sweep.json"
        known = read_json(path, f"remove {path}: a new run is begun") if path.exists() else {}
        tracker_uri = tracking_uri(folder)
        check_reachable(tracker_uri)
        from mlflow import MlflowClient

        self._client = FaultTolerantClient(MlflowClient(tracker_uri), tracker_uri)
        key = {"uri": masked(without_login(tracker_uri)), "grid": list(grid)}
        if {name: known.get(name) for name in key} == key:
            self.run_id = str(known["run_id"])
            return
        made = self._client.create_run(
            experiment_of(self._client, folder),
            run_name=f"sweep-{recipe.name}",
            tags={"hubbub.sweep": " ".join(grid)},
        )
        self.run_id = "" if made is None else str(made.info.run_id)
        path.write_text(json.dumps({**key, "run_id": self.run_id}))

    def finish(self, figures: Mapping[str, float], table: Path) -> None:
        """Record the best figures and the table."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(k, float(v), now, 0) for k, v in figures.items()])
        self._client.log_artifact(self.run_id, str(table))
        self._client.set_terminated(self.run_id, "FINISHED")


@dataclass
class StageRun:
    """The child run of one stage: its inputs, outputs, metrics and files."""

    _client: Any
    _experiment: str
    run_id: str

    def reads(self, snapshots: Sequence[tuple[Snapshot, str]]) -> None:
        """Record data sets as inputs: one for each data set, by Merkle root, never one for each shard."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                dataset=Dataset(
                    name=snapshot.name,
                    digest=snapshot.merkle_root[:32][:_MAX_DIGEST],
                    source_type=SOURCE_TYPE,
                    source=masked(json.dumps({"uri": uri, "snapshot": snapshot.number})),
                    profile=json.dumps(
                        {
                            "merkle_root": snapshot.merkle_root,
                            "snapshot": snapshot.number,
                            "num_rows": snapshot.num_rows,
                            "num_partitions": len(snapshot.receipts),
                        }
                    ),
                ),
                tags=[InputTag("mlflow.data.context", "input"), InputTag("hubbub.merkle_root", snapshot.merkle_root)],
            )
            for snapshot, uri in snapshots
        ]
        self._client.log_inputs(self.run_id, datasets=inputs)

    def reads_manifests(self, digests: Mapping[str, str]) -> None:
        """Record the manifests that a corpus was indexed from, by the digests of their files."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                dataset=Dataset(
                    name=name[:500],
                    digest=digest[:32][:_MAX_DIGEST],
                    source_type=SOURCE_TYPE,
                    source=masked(json.dumps({"uri": name})),
                ),
                tags=[InputTag("mlflow.data.context", "corpus")],
            )
            for name, digest in digests.items()
        ]
        self._client.log_inputs(self.run_id, datasets=inputs)

    def register(self, name: str, model_id: str, folder: Path, figures: Mapping[str, float]) -> None:
        """Register a checkpoint as the next version of a model, unless the same weights are registered already."""
        from mlflow.exceptions import MlflowException

        if not model_id:
            return
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        known = self._client.search_model_versions(f"name = '{name}'") or []
        weights = weights_digest(folder)[:32]
        if any(version.tags.get("hubbub.weights_digest") == weights for version in known):
            return
        tags = {"hubbub.weights_digest": weights, **{key: f"{value:.4f}" for key, value in figures.items()}}
        self._client.create_model_version(name, f"models:/{model_id}", self.run_id, tags=tags, model_id=model_id)

    def wrote(self, snapshot: Snapshot) -> None:
        """Record a data set that the stage made: its name and Merkle root, size and counts."""
        self._client.set_tag(self.run_id, f"hubbub.output.{snapshot.name}", snapshot.merkle_root)
        counts = {name for receipt in snapshot.receipts for name in receipt.counts}
        bad = sum(len(receipt.quarantined) for receipt in snapshot.receipts)
        figures = {"rows": snapshot.num_rows, "partitions": len(snapshot.receipts), "quarantined": bad}
        self.metrics({**figures, **{name: snapshot.total(name) for name in counts}}, prefix=f"{snapshot.name}.")

    def metrics(self, values: Mapping[str, float], step: int = 0, prefix: str = "") -> None:
        """Record metrics."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        made = [Metric(prefix + name, float(value), now, step) for name, value in sorted(values.items())]
        self._client.log_batch(self.run_id, metrics=made)

    def last_step(self, name: str) -> int:
        """Return the last step of a curve that is recorded; 0 before the first."""
        known = self._client.get_metric_history(self.run_id, name) or []
        return max((metric.step for metric in known), default=0)

    def curve(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Record points of curves, a thousand values a request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        made = [Metric(name, float(v), now, step) for step, values in points for name, v in values.items()]
        for start in range(0, len(made), 1000):
            self._client.log_batch(self.run_id, metrics=made[start : start + 1000])

    def model(self, folder: Path, name: str, tags: Mapping[str, str]) -> str:
        """Record a checkpoint as a LoggedModel and as this run's output; return its id."""
        from mlflow.entities import LoggedModelOutput

        weights = weights_digest(folder)[:32]
        known = self._client.search_logged_models(
            [self._experiment], filter_string=f"tags.`hubbub.weights_digest` = '{weights}'"
        )
        mine = [model for model in known or [] if model.source_run_id == self.run_id]
        if mine:
            return str(mine[0].model_id)
        made = self._client.create_logged_model(
            self._experiment,
            name=name,
            source_run_id=self.run_id,
            tags={"hubbub.weights_digest": weights, "hubbub.folder": str(folder), **tags},
            model_type="speech-llm",
        )
        if made is None:
            return ""
        self._client.finalize_logged_model(made.model_id, "READY")
        step, _ = read_header(folder)
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model_id=made.model_id, step=step)])
        return str(made.model_id)

    def model_metrics(self, model_id: str, dataset: Snapshot, values: Mapping[str, float]) -> None:
        """Record an evaluation's figures, tied to the checkpoint and the data set it was evaluated on."""
        for name, value in values.items():
            self._client.log_metric(
                self.run_id,
                name,
                float(value),
                model_id=model_id,
                dataset_name=dataset.name,
                dataset_digest=dataset.merkle_root[:32],
            )

    def files(self, folder: Path) -> None:
        """Record the files of a folder as artifacts."""
        self._client.log_artifacts(self.run_id, str(folder))


def record_scorecard(folder: Path, values: Mapping[str, float], scorecard: Path) -> bool:
    """Add a scorecard's metrics and page to the run that simulated; return whether there is one.

    Raises:
        InputError: the server does not accept them.
    """
    run_id = read_state(folder).get("stages", {}).get("simulate", {}).get("run_id")
    if run_id is None:
        return False
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(folder)
    check_reachable(uri)
    try:
        run = StageRun(MlflowClient(uri), "", run_id)
        run.metrics(values, prefix="scorecard.")
        run.files(scorecard)
    except MlflowException as error:
        raise InputError(f"MLflow at {uri} does not accept the scorecard: {str(error).splitlines()[0]}") from error
    return True


def _flatten(data: Any, path: str = "") -> dict[str, Any]:
    if isinstance(data, dict):
        return {
            k: v for key, value in data.items() for k, v in _flatten(value, f"{path}.{key}" if path else key).items()
        }
    return {path: data}


def _param(key: str, value: Any) -> Any:
    from mlflow.entities import Param

    return Param(key, masked(str(value))[:5000])
