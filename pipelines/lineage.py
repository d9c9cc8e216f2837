"""What went in, what came out, by digest: the only file that knows MLflow, and the query over what is on disk.

The folders explain themselves (snapshots, checkpoints and metrics name their inputs by Merkle root); MLflow holds
the same edges as run inputs and outputs, for search and comparison.
"""

import hashlib
import json
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
from models import checkpoint
from operators.dataset import Snapshot
from operators.digest import digest_file, plain
from operators.errors import InputError
from pipelines.recipes import Recipe, to_json
from pipelines.road import DATASETS, STAGES, Output

EXPERIMENT = "hubbub"
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


class Tracker:
    """Records one `hubbub run` as a parent run and a child a stage; after a kill, the same runs go on."""

    def __init__(self, recipe: Recipe, output: Output) -> None:
        """Reach the tracking server, and take up an unfinished parent run or begin one.

        Raises:
            InputError: the server does not answer.
        """
        import logging

        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        for noisy in ("mlflow", "mlflow.store.db.utils", "alembic"):  # after the import, which sets them to INFO
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self._recipe, self._output = recipe, output
        self.uri = tracking_uri(output)
        _knock(self.uri)
        self._state_path = _state_path(output)
        self._client = MlflowClient(self.uri)
        try:
            found = self._client.get_experiment_by_name(EXPERIMENT)
            location = (
                None if os.environ.get("MLFLOW_TRACKING_URI") else (output.folder.absolute() / "mlartifacts").as_uri()
            )
            self._experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT, location)
        except MlflowException as error:
            raise InputError(f"MLflow at {self.uri} does not answer: {str(error).splitlines()[0]}") from error
        state = _read_state(output)
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
            state["parent"] = self._create(f"{recipe.name}-{recipe.digest[:8]}", tags)
            self._client.log_text(state["parent"], to_json(recipe), "recipe.json")
            flat = _flatten(plain(recipe))
            self._client.log_batch(state["parent"], params=[_param(k, v) for k, v in flat.items()])
        else:
            self._client.update_run(state["parent"], status="RUNNING")
        self._state = state
        self._save()

    @property
    def parent_id(self) -> str:
        """Id of the parent run."""
        return str(self._state["parent"])

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        made = self._client.create_run(self._experiment, run_name=name, tags=dict(tags))
        return str(made.info.run_id)

    def _save(self) -> None:
        staged = self._state_path.with_suffix(".part")
        staged.write_text(json.dumps(self._state, indent=1))
        os.replace(staged, self._state_path)

    @contextmanager
    def stage(self, name: str) -> Iterator["StageRun"]:
        """Give the child run of a stage for as long as the block lasts."""
        stages = self._state["stages"]
        if name in stages:
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
        stages[name]["finished"] = True
        self._save()

    def finish(self, metrics: Mapping[str, float], *, whole_road: bool) -> None:
        """End the parent run with its figures; it goes on with the next verb unless the whole road is done."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.parent_id, metrics=[Metric(k, float(v), now, 0) for k, v in metrics.items()])
        self._client.set_terminated(self.parent_id, "FINISHED")
        self._state["finished"] = whole_road
        self._save()


def _state_path(output: Output) -> Path:
    return output.folder / "mlflow_runs.json"


def _read_state(output: Output) -> dict[str, Any]:
    path = _state_path(output)
    return dict(json.loads(path.read_text())) if path.exists() else {}


def unrecorded(output: Output) -> frozenset[str]:
    """Return the stages whose runs a kill left open, and `run` where the parent's is: to be recorded though done."""
    state = _read_state(output)
    if state.get("finished", True):
        return frozenset()
    return frozenset({"run", *(name for name, stage in state["stages"].items() if not stage["finished"])})


def record_scorecard(output: Output, values: Mapping[str, float], folder: Path) -> bool:
    """Add a scorecard's figures and page to the run that simulated; return whether there was one."""
    run_id = _read_state(output).get("stages", {}).get("simulate", {}).get("run_id")
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
                    source_type="local",
                    source=json.dumps({"uri": uri}),
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
        return max((metric.step for metric in self._client.get_metric_history(self.run_id, name)), default=0)

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
        mine = [model for model in known if model.source_run_id == self.run_id]
        if mine:
            return str(mine[0].model_id)
        made = self._client.create_logged_model(
            self._experiment,
            name=name,
            source_run_id=self.run_id,
            tags={"hubbub.weights_digest": weights, "hubbub.folder": str(folder), **tags},
            model_type="speech-llm",
        )
        self._client.finalize_logged_model(made.model_id, "READY")
        step, _ = checkpoint.read_header(folder)
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


# ---------------------------------------------------------------------------------------------------------------
# Where did this come from?


def chain(identifier: str, outputs: Sequence[Output]) -> dict[str, Any]:
    """Return the way back from a checkpoint, data set, evaluation or run to the manifests.

    Args:
        identifier: a path, the name of a data set, or at least 6 digits of a Merkle root, of a checkpoint's weights
            digest or of an MLflow run id.
        outputs: where to look.

    Raises:
        InputError: nothing, or nothing unique, has this name.
    """
    if Path(identifier).exists():
        identifier = str(Path(identifier).absolute())
    found = [node for output in outputs for node in _nodes(output) if _matches(identifier, node)]
    unique = list({node["id"]: node for node in found}.values())
    if not unique:
        where = ", ".join(str(output.folder) for output in outputs) or "any output folder"
        raise InputError(f"nothing in {where} is called {identifier}; give --output FOLDER, a path or a digest")
    newest = max(unique, key=lambda node: (node["exact"](identifier), node["order"]))
    kinds = {node["kind"] for node in unique}
    if len(kinds) > 1 and not newest["exact"](identifier):
        names = ", ".join(f"{node['kind']} {node['id'][:12]}" for node in unique)
        raise InputError(f"{identifier} may be {names}; give more of it")
    return _grow(newest)


def _matches(identifier: str, node: Mapping[str, Any]) -> bool:
    return bool(node["exact"](identifier)) or (
        len(identifier) >= 6 and any(alias.startswith(identifier) for alias in node["aliases"])
    )


def _nodes(output: Output) -> Iterator[dict[str, Any]]:
    state = _read_state(output)
    runs = {name: stage["run_id"] for name, stage in state.get("stages", {}).items()}

    def node(kind: str, identifier: str, order: Any, path: Path, aliases: Sequence[str], data: Any) -> dict[str, Any]:
        names = {identifier, str(path.absolute()), path.name, *aliases}
        return {
            "kind": kind, "id": identifier, "order": order, "path": path, "aliases": [identifier, *aliases],
            "data": data, "output": output, "exact": names.__contains__,
        }  # fmt: skip

    stage_of = {
        "utterances": "index",
        "recordings": "index",
        "conversations": "simulate",
        "audio": "simulate",
        "codes": "tokenize",
        "packs": "pack",
    }
    for name in DATASETS:
        snapshot = output.dataset(name).latest()
        if snapshot is not None:
            run = runs.get(stage_of.get(name, "evaluate"), "")
            path = output.folder / "data" / name
            yield node(
                name,
                snapshot.merkle_root,
                (STAGES.index(stage_of.get(name, "evaluate")), 0),
                path,
                [run] if run else [],
                snapshot,
            )
    for path in sorted((output.folder / "checkpoints").glob("*/step-*")):
        step, header = checkpoint.read_header(path)
        weights = digest_file(path / "model.safetensors")
        run = header.lineage.get("mlflow_run", "")
        yield node(
            "checkpoint",
            weights,
            (STAGES.index("train"), step),
            path,
            [path.parent.name, run] if run else [path.parent.name],
            header,
        )
    for path in sorted((output.folder / "evaluation").glob("*/metrics.json")):
        aliases = [state["parent"]] if "parent" in state else []
        yield node(
            "evaluation",
            digest_file(path),
            (STAGES.index("evaluate"), 1),
            path.parent,
            aliases,
            json.loads(path.read_text()),
        )


def _grow(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node with everything that it was made from below it."""
    output: Output = node["output"]
    out: dict[str, Any] = {"kind": node["kind"], "id": node["id"], "path": str(node["path"]), "from": []}
    if node["kind"] == "evaluation":
        folders = {
            Path(node["data"][which]["checkpoint"]).name: which
            for which in ("trained", "untrained")
            if which in node["data"]
        }
        out["cpwer"] = {which: node["data"][which]["cpwer"]["rate"] for which in folders.values()}
        # <training key>/step-...: the same from whatever folder the program was called.
        judged_parts = Path(node["data"]["trained"]["checkpoint"]).parts[-2:]
        for other in _nodes(output):
            judged = other["kind"] == "checkpoint" and other["path"].parts[-2:] == judged_parts
            if judged or other["kind"] == "hypotheses":
                out["from"].append(_grow(other) if judged else _leaf(other))
    elif node["kind"] == "checkpoint":
        header: checkpoint.Header = node["data"]
        out.update({k: v for k, v in header.lineage.items() if k != "datasets"})
        out["codec"] = f"{header.codec.name} {header.codec.weights_digest[:12]}"
        roots = header.lineage.get("datasets", {})
        out["from"] = [_dataset(output, "packs", roots.get("packs"), roots)]
    else:
        out["from"] = _dataset(output, node["kind"], node["id"], {})["from"]
        out.update(_facts(node["data"]))
    return out


def _leaf(node: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": node["kind"], "id": node["id"], "path": str(node["path"]), "from": []}


def _facts(snapshot: Snapshot) -> dict[str, Any]:
    facts = {"rows": snapshot.num_rows, "partitions": len(snapshot.receipts), "snapshot": snapshot.number}
    return {**facts, **snapshot.made_by}


def _dataset(output: Output, name: str, root: str | None, roots: Mapping[str, str]) -> dict[str, Any]:
    """Return a data set by its Merkle root, in whichever snapshot that is, and what it was made from."""
    snapshot = output.dataset(name).latest()
    numbers = range(snapshot.number, 0, -1) if snapshot else range(0)
    chosen = next((s for n in numbers if (s := output.dataset(name).numbered(n)) and s.merkle_root == root), None)
    out: dict[str, Any] = {
        "kind": name,
        "id": root or "unknown",
        "path": str(output.folder / "data" / name),
        "from": [],
    }
    if chosen is None:
        out["note"] = "no snapshot here has this root"
        return out
    out.update(_facts(chosen))
    for source, digest in chosen.inputs.items():
        if source in DATASETS:
            out["from"].append(_dataset(output, source, digest, roots))
        else:
            out["from"].append({"kind": source, "id": digest, "from": []})
    return out
