"""What would stop a run on a cluster, found beforehand: nodes too small, packages missing, versions that differ."""

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PACKAGES = (
    "hubbub",
    "ray",
    "torch",
    "pyarrow",
    "numpy",
    "mlflow",
    "soundfile",
    "fsspec",
    "s3fs",
    "numba",
    "safetensors",
)
"""What every node imports."""
MUST_AGREE = ("hubbub", "ray", "torch", "pyarrow", "numpy", "soxr")
"""Packages whose versions must be equal on all nodes: different ones make different bytes, or cannot communicate."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine of the cluster, as it describes itself."""

    name: str
    alive: bool
    cpus: float
    gpus: float
    object_store_bytes: float
    python: str
    versions: Mapping[str, str | None]
    """Of packages; None where one is missing."""
    free_bytes: int
    """In the folder for what is in the making."""
    sees: Mapping[str, bool]
    """Whether paths that the run names are there."""


def here(paths: Sequence[str]) -> dict[str, Any]:
    """Return what this machine has: run on every node."""
    versions: dict[str, str | None] = {}
    for package in {*PACKAGES, *MUST_AGREE}:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "versions": versions,
        "free_bytes": shutil.disk_usage(tempfile.gettempdir()).free,
        "sees": {path: os.path.exists(path) for path in paths},
    }


def look(paths: Sequence[str], timeout_s: float = 60.0) -> list[Node]:
    """Ask every node of the cluster that is joined what it has.

    Args:
        paths: that the run names, and every node must see.
        timeout_s: for a node to answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=0)(here)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(list(paths))
        for node in nodes
    ]
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=timeout_s)
    found = []
    for node, answer in zip(nodes, asked, strict=True):
        try:
            described = ray.get(answer) if answer in ready else None
        except ray.exceptions.RayError:  # it went away between being listed and being asked
            continue
        has = node["Resources"]
        found.append(
            Node(
                name=node["NodeManagerAddress"],
                alive=described is not None,
                cpus=has.get("CPU", 0.0),
                gpus=has.get("GPU", 0.0),
                object_store_bytes=has.get("object_store_memory", 0.0),
                **(described or {"python": "?", "versions": {}, "free_bytes": 0, "sees": {}}),
            )
        )
    return found


def problems(
    nodes: Sequence[Node],
    *,
    train_workers: int = 1,
    gpu_stages: bool = False,
    partition_bytes: int = 0,
    pool_cpus: int = 1,
) -> list[str]:
    """Return what would stop or spoil a run, each with what to do about it; nothing where all is well.

    Args:
        nodes: what `look` found.
        train_workers: workers of Ray Train, each with its own CPU or GPU.
        gpu_stages: whether a stage asks for GPUs.
        partition_bytes: of the largest partition in the making.
        pool_cpus: CPUs that the smallest pools of all stages together hold for good.

    >>> problems([])
    ['the cluster has no node that is alive']
    """
    alive = [node for node in nodes if node.alive]
    found = [
        f"node {node.name} does not answer: look at its raylet, or take it out" for node in nodes if not node.alive
    ]
    if not alive:
        return [*found, "the cluster has no node that is alive"]
    cpus, gpus = sum(node.cpus for node in alive), sum(node.gpus for node in alive)
    if cpus < 1:
        found.append("no node offers a CPU: start workers with --num-cpus")
    if pool_cpus >= max(cpus, 1) and cpus >= 1:
        found.append(
            f"pools would hold {pool_cpus} CPUs of {cpus:.0f} for good, and nothing that feeds them could run: a "
            "deadlock; add a node or lower --workers"
        )
    if train_workers > max(cpus, gpus):
        found.append(
            f"{train_workers} training workers need as many CPUs or GPUs, but there are {cpus:.0f} and {gpus:.0f}: "
            "lower --train-workers or add nodes"
        )
    if 0 < gpus < train_workers:
        found.append(f"{train_workers} training workers would share {gpus:.0f} GPUs: they would train on CPUs instead")
    if gpu_stages and not gpus:
        found.append("a stage asks for a GPU and no node has one: start the GPU node group, or take a codec for CPUs")
    for node in alive:
        if node.cpus and node.object_store_bytes < max(2 * partition_bytes, 200e6):
            found.append(
                f"node {node.name} has an object store of {node.object_store_bytes / 1e6:.0f} MB: start it with "
                "--object-store-memory of at least twice a partition"
            )
        if node.free_bytes < 2 * partition_bytes + 1e9:
            found.append(f"node {node.name} has {node.free_bytes / 1e9:.1f} GB left for temporary files")
        missing = sorted(name for name in PACKAGES if node.versions.get(name) is None)
        if missing:
            found.append(f"node {node.name} lacks {', '.join(missing)}: install from constraints.txt")
        unseen = sorted(path for path, there in node.sees.items() if not there)
        if unseen:
            found.append(f"node {node.name} does not see {unseen[0]}: mount it there, or use --store URL")
    first = alive[0]
    for node in alive[1:]:
        for name in MUST_AGREE:
            one, other = first.versions.get(name), node.versions.get(name)
            if one and other and one.split("+")[0] != other.split("+")[0]:
                found.append(f"{name} is {one} on {first.name} and {other} on {node.name}: make them the same")
        if node.python.rpartition(".")[0] != first.python.rpartition(".")[0]:
            found.append(f"Python is {first.python} on {first.name} and {node.python} on {node.name}")
    return found
