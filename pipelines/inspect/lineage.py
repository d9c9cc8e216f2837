"""Lineage, from what is on disk: where something came from, and what it became.

Snapshots, checkpoints and metrics name their inputs by Merkle root; nothing else is needed to follow them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from models.config.header import Header, read_header, weights_digest
from operators.digest import digest_file
from operators.errors import InputError
from operators.store.dataset import Snapshot
from pipelines.inspect.graph import flatten
from pipelines.plan.output import Output, read_evaluation
from pipelines.reporting.run_state import read_state
from pipelines.stages import dataset_names, stage_names, stage_of


def chain(identifier: str, outputs: Sequence[Output]) -> dict[str, Any]:
    """Return the way back from a checkpoint, data set, evaluation or run to the manifests.

    Args:
        identifier: a path, the name of a data set, or at least 6 digits of a Merkle root, of a checkpoint's weights
            digest or of an MLflow run id.
        outputs: where to look.

    Raises:
        InputError: nothing, or nothing unique, has this name.
    """
    return _grow(_found(identifier, outputs))


def descendants(identifier: str, outputs: Sequence[Output]) -> dict[str, Any]:
    """Return the way forward: what was made from a manifest (by its digest), data set or checkpoint, below `to`.

    Raises:
        InputError: nothing has this name.
    """
    chains = [_grow(node) for output in outputs for node in _nodes(output)]
    nodes: dict[str, dict[str, Any]] = {}
    edges: set[tuple[str, str]] = set()
    for one in chains:
        more, between = flatten(one)
        nodes |= more
        edges |= between
    matching = [name for name in nodes if name.startswith(identifier) and len(identifier) >= 6]
    start = matching[0] if matching else str(_found(identifier, outputs)["id"])

    def below(name: str) -> dict[str, Any]:
        made = sorted((after for before, after in edges if before == name), key=lambda one: (nodes[one]["kind"], one))
        return {**nodes[name], "from": [], "to": [below(one) for one in made]}

    return below(start)


def _found(identifier: str, outputs: Sequence[Output]) -> dict[str, Any]:
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
    return newest


def _matches(identifier: str, node: Mapping[str, Any]) -> bool:
    return bool(node["exact"](identifier)) or (
        len(identifier) >= 6 and any(alias.startswith(identifier) for alias in node["aliases"])
    )


def _nodes(output: Output) -> Iterator[dict[str, Any]]:
    state = read_state(output.folder)
    runs = {name: stage["run_id"] for name, stage in state.get("stages", {}).items()}

    def node(kind: str, identifier: str, order: Any, path: Path, aliases: Sequence[str], data: Any) -> dict[str, Any]:
        names = {identifier, str(path.absolute()), path.name, *aliases}
        return {
            "kind": kind,
            "id": identifier,
            "order": order,
            "path": path,
            "aliases": [identifier, *aliases],
            "data": data,
            "output": output,
            "exact": names.__contains__,
        }

    for name in dataset_names():
        snapshot = output.dataset(name).latest()
        if snapshot is not None:
            stage = stage_of(name).name
            run = runs.get(stage, "")
            path = output.folder / "data" / name
            yield node(
                name,
                snapshot.merkle_root,
                (stage_names().index(stage), 0),
                path,
                [run] if run else [],
                snapshot,
            )
    for path in sorted((output.folder / "checkpoints").glob("*/step-*")):
        step, header = read_header(path)
        weights = weights_digest(path)
        run = header.lineage.get("mlflow_run", "")
        yield node(
            "checkpoint",
            weights,
            (stage_names().index("train"), step),
            path,
            [path.parent.name, run] if run else [path.parent.name],
            header,
        )
    for path in sorted((output.folder / "evaluation").glob("*/metrics.json")):
        aliases = [state["parent"]] if "parent" in state else []
        yield node(
            "evaluation",
            digest_file(path),
            (stage_names().index("evaluate"), 1),
            path.parent,
            aliases,
            read_evaluation(path),
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
        measure = node["data"]["headline"]
        out[measure] = {which: node["data"][which][measure]["rate"] for which in folders.values()}
        # <training key>/step-...: the same from whatever folder the program was called.
        evaluated = Path(node["data"]["trained"]["checkpoint"]).parts[-2:]
        for other in _nodes(output):
            is_checkpoint = other["kind"] == "checkpoint" and other["path"].parts[-2:] == evaluated
            if is_checkpoint or other["kind"] == "hypotheses":
                out["from"].append(_grow(other) if is_checkpoint else _leaf(other))
    elif node["kind"] == "checkpoint":
        header: Header = node["data"]
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
        if source in dataset_names():
            out["from"].append(_dataset(output, source, digest, roots))
        else:
            out["from"].append({"kind": source, "id": digest, "from": []})
    return out
