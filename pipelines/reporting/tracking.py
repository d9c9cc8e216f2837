"""What went in and what came out, for MLflow: the only file that knows it.

The folders explain themselves (`pipelines.inspect.lineage`); MLflow holds the same edges as run inputs and outputs, for
search and comparison.
"""

import contextlib
import hashlib
import json
import logging
import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.session import ROOT
from models.config.header import read_header
from operators.digest import digest_file, to_jsonable
from operators.errors import InputError
from operators.store.dataset import Snapshot
from pipelines.plan.output import Output
from pipelines.recipes.files import to_json
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console

EXPERIMENT = "hubbub"
SOURCE_TYPE = "hubbub"
"""What data sets of ours are for MLflow, which finds `pipelines.reporting.mlflow_source` by this name."""
_MAX_DIGEST = 36  # what MLflow's tables hold; the whole Merkle root stands in the profile


def code_version() -> dict[str, Any]:
    """Return commit and dirty flag, or a hash of the source tree where there is no git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        state = hashlib.blake2b(digest_size=16)
        for path in sorted(
            p for folder in ("pipelines", "operators", "models", "cluster") for p in (ROOT / folder).rglob("*.py")
        ):
            state.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
        return {"tree": state.hexdigest()}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


class _Patient:
    """A client of the tracking server that does not end a run because the server is gone: it says so, once.

    What could not be recorded is done by the same command later: stages remember that they are not recorded.
    """

    def __init__(self, client: Any, uri: str) -> None:
        self._client, self._uri = client, uri
        self.lost = False

    def __getattr__(self, name: str) -> Any:
        """Return a call that answers None from the moment on that the server does not."""
        call = getattr(self._client, name)

        def tried(*arguments: Any, **options: Any) -> Any:
            from mlflow.exceptions import MlflowException

            if self.lost:
                return None
            try:
                return call(*arguments, **options)
            except MlflowException as error:
                if error.error_code not in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
                    raise
                self.lost = True
                reason = str(error).splitlines()[0][:160]
                console.notice(
                    f"MLflow at {self._uri} has stopped answering ({reason}); the run goes on, and the same command "
                    "records later what is missing there"
                )
                return None

        return tried


class Tracker:
    """Records one `hubbub run` as a parent run and a child a stage; after a kill, the same runs go on."""

    def __init__(self, recipe: Recipe, output: Output, sweep: str = "") -> None:
        """Reach the tracking server, and take up an unfinished parent run or begin one.

        Raises:
            InputError: the server does not answer.
        """
        import mlflow
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        _quiet()
        self._recipe, self._output = recipe, output
        self.uri = tracking_uri(output)
        _knock(self.uri)
        self._state_path = _state_path(output)
        if self.uri.startswith("http"):  # by default a client tries again for minutes
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        named = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(self.uri)  # the registry looks models up where the process does, not the client
        if not named:  # it set the variable too, by which another output's records would come here
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        self._client: Any = MlflowClient(self.uri, self.uri)
        try:
            self._experiment = _experiment(self._client, output)
        except MlflowException as error:
            raise InputError(f"MLflow at {self.uri} does not answer: {str(error).splitlines()[0]}") from error
        state = read_state(output)
        if state.get("uri") != self.uri or state.get("finished", True):
            state = {"uri": self.uri, "finished": False, "stages": {}}
            tags = {
                "hubbub.recipe_digest": recipe.digest,
                "hubbub.seed": str(recipe.seed),
                "hubbub.output": str(output.folder.absolute()),
                **{f"hubbub.code.{key}": str(value) for key, value in code_version().items()},
                "hubbub.python": platform.python_version(),
                "hubbub.machine": f"{platform.machine()}, {os.cpu_count()} cores",
            }
            if sweep:
                tags["mlflow.parentRunId"] = sweep
            state["parent"] = self._create(f"{recipe.name}-{recipe.digest[:8]}", tags)
            self._client.log_text(state["parent"], to_json(recipe), "recipe.json")
            flat = _flatten(to_jsonable(recipe))
            self._client.log_batch(state["parent"], params=[_param(k, v) for k, v in flat.items()])
        else:
            self._client.update_run(state["parent"], status="RUNNING")
        self._state = state
        self._save()
        self._client = _Patient(self._client, self.uri)

    @property
    def parent_id(self) -> str:
        """Id of the parent run."""
        return str(self._state["parent"])

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        made = self._client.create_run(self._experiment, run_name=name, tags=dict(tags))
        return "" if made is None else str(made.info.run_id)

    def _save(self) -> None:
        staged = self._state_path.with_suffix(".part")
        staged.write_text(json.dumps(self._state, indent=1))
        os.replace(staged, self._state_path)

    @contextmanager
    def stage(self, name: str) -> Iterator["StageRun"]:
        """Give the child run of a stage for as long as the block lasts."""
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
        except BaseException:
            self._client.set_terminated(run_id, "FAILED")
            self._client.set_terminated(self.parent_id, "FAILED")
            raise
        self._client.set_terminated(run_id, "FINISHED")
        stages[name]["finished"] = not self._client.lost
        self._save()

    def finish(self, metrics: Mapping[str, float], *, whole_road: bool) -> None:
        """End the parent run with its figures; it goes on with the next verb unless the whole road is done."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.parent_id, metrics=[Metric(k, float(v), now, 0) for k, v in metrics.items()])
        self._client.set_terminated(self.parent_id, "FINISHED")
        self._state["finished"] = whole_road and not self._client.lost
        self._save()


class SweepRun:
    """The run that a sweep's runs stand below; a sweep that is run again goes on in the same one."""

    def __init__(self, recipe: Recipe, folder: Path, grid: Sequence[str]) -> None:
        """Begin, or take up what was begun."""
        output = Output(folder)
        path = folder / "mlflow_sweep.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        tracker_uri = tracking_uri(output)
        _knock(tracker_uri)
        from mlflow import MlflowClient

        self._client = _Patient(MlflowClient(tracker_uri), tracker_uri)
        key = {"uri": tracker_uri, "grid": list(grid)}
        if {name: known.get(name) for name in key} == key:
            self.run_id = str(known["run_id"])
            return
        made = self._client.create_run(
            _experiment(self._client, output),
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


def _experiment(client: Any, output: Output) -> str:
    """Return the experiment's id; without a server, what its runs log lies beside the output."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found:
        return str(found.experiment_id)
    named = os.environ.get("MLFLOW_TRACKING_URI")
    location = None if named else (output.folder.absolute() / "mlartifacts").as_uri()
    return str(client.create_experiment(EXPERIMENT, location))


def _state_path(output: Output) -> Path:
    return output.folder / "mlflow_runs.json"


def read_state(output: Output) -> dict[str, Any]:
    """Return which runs the tracking server was given."""
    path = _state_path(output)
    return dict(json.loads(path.read_text())) if path.exists() else {}


def unrecorded(output: Output) -> frozenset[str]:
    """Return the stages whose runs a kill left open, and `run` where the parent's is: to be recorded though done."""
    state = read_state(output)
    if state.get("finished", True):
        return frozenset()
    return frozenset({"run", *(name for name, stage in state["stages"].items() if not stage["finished"])})


def record_scorecard(output: Output, values: Mapping[str, float], folder: Path) -> bool:
    """Add a scorecard's figures and page to the run that simulated; return whether there was one."""
    run_id = read_state(output).get("stages", {}).get("simulate", {}).get("run_id")
    if run_id is None:
        return False
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(output)
    _knock(uri)
    try:
        run = StageRun(MlflowClient(uri), "", run_id)
        run.metrics(values, prefix="scorecard.")
        run.files(folder)
    except MlflowException as error:
        raise InputError(f"MLflow at {uri} does not take the scorecard: {str(error).splitlines()[0]}") from error
    return True


@dataclass
class StageRun:
    """The child run of one stage."""

    _client: Any
    _experiment: str
    run_id: str

    def reads(self, snapshots: Sequence[tuple[Snapshot, str]]) -> None:
        """Record data sets as inputs: one a data set, by Merkle root, never one a shard."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                dataset=Dataset(
                    name=snapshot.name,
                    digest=snapshot.merkle_root[:32][:_MAX_DIGEST],
                    source_type=SOURCE_TYPE,
                    source=json.dumps({"uri": uri, "snapshot": snapshot.number}),
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
                    source=json.dumps({"uri": name}),
                ),
                tags=[InputTag("mlflow.data.context", "corpus")],
            )
            for name, digest in digests.items()
        ]
        self._client.log_inputs(self.run_id, datasets=inputs)

    def register(self, name: str, model_id: str, folder: Path, figures: Mapping[str, float]) -> None:
        """Make a checkpoint the next version of a registered model; the same weights make no second one."""
        from mlflow.exceptions import MlflowException

        if not model_id:
            return
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        known = self._client.search_model_versions(f"name = '{name}'") or []
        weights = digest_file(folder / "model.safetensors")[:32]
        if any(version.tags.get("hubbub.weights_digest") == weights for version in known):
            return
        tags = {"hubbub.weights_digest": weights, **{key: f"{value:.4f}" for key, value in figures.items()}}
        self._client.create_model_version(name, f"models:/{model_id}", self.run_id, tags=tags, model_id=model_id)

    def wrote(self, snapshot: Snapshot) -> None:
        """Record what a stage made: the data set's name and Merkle root, its size and counts."""
        self._client.set_tag(self.run_id, f"hubbub.output.{snapshot.name}", snapshot.merkle_root)
        counts = {name for receipt in snapshot.receipts for name in receipt.counts}
        bad = sum(len(receipt.quarantined) for receipt in snapshot.receipts)
        figures = {"rows": snapshot.num_rows, "partitions": len(snapshot.receipts), "quarantined": bad}
        self.metrics({**figures, **{name: snapshot.total(name) for name in counts}}, prefix=f"{snapshot.name}.")

    def metrics(self, values: Mapping[str, float], step: int = 0, prefix: str = "") -> None:
        """Record figures."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        made = [Metric(prefix + name, float(value), now, step) for name, value in sorted(values.items())]
        self._client.log_batch(self.run_id, metrics=made)

    def last_step(self, name: str) -> int:
        """Return the last step of a curve that is already recorded; 0 before the first."""
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

        weights = digest_file(folder / "model.safetensors")[:32]
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
        """Record an evaluation's figures, tied to the checkpoint and to the data set it was judged on."""
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
        """Keep small files with the run."""
        self._client.log_artifacts(self.run_id, str(folder))


def _knock(uri: str) -> None:
    """Try the door of a tracking server: the client itself tries again for minutes.

    Raises:
        InputError: nobody answers.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        return
    try:
        socket.create_connection((parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), 10).close()
    except OSError as error:
        raise InputError(f"no MLflow server answers at {uri} (MLFLOW_TRACKING_URI): {error}") from error


def warm(output: Output) -> None:
    """Import the client and open its database; what goes wrong is said when it is used."""
    with contextlib.suppress(Exception):
        uri = tracking_uri(output)
        _knock(uri)
        from mlflow import MlflowClient

        _quiet()
        MlflowClient(uri).search_experiments(max_results=1)


def _quiet() -> None:
    """Leave only warnings of what MLflow uses; called behind its import, which sets it to INFO."""
    for noisy in ("mlflow", "mlflow.store.db.utils", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def tracking_uri(output: Output) -> str:
    """Return where runs are recorded: MLFLOW_TRACKING_URI, else sqlite beside the output."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{output.folder.absolute()}/mlflow.db"


def _flatten(data: Any, path: str = "") -> dict[str, Any]:
    if isinstance(data, dict):
        return {
            k: v for key, value in data.items() for k, v in _flatten(value, f"{path}.{key}" if path else key).items()
        }
    return {path: data}


def _param(key: str, value: Any) -> Any:
    from mlflow.entities import Param

    return Param(key, str(value)[:5000])
