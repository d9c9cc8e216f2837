"""Connecting to Ray: the only place that calls `ray.init`."""

import logging
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster import stopping

ROOT = Path(__file__).resolve().parent.parent
"""The repository, which is what workers import."""


EXCLUDED = [".git", ".venv", ".venv-*", "runs", "notebooks", "docs", "*.arrow"]
"""Parts of it that are not sent to a cluster."""


_QUIET = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1.0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_metrics_report_interval_ms": "60000",
    "RAY_enable_metrics_collection": "0",
}
"""What a local Ray need not do: the machine is not preempted, there is no dashboard, and each of Ray's processes takes
time from the threads of a training step, which wait for each other."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """Resources of the cluster."""

    num_cpus: int
    num_gpus: int
    address: str
    """`local`, or the cluster's address."""


def _knock(address: str) -> None:
    """Check that an address accepts connections: Ray itself waits for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # `auto`, or a name that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConnectionError(f"no Ray cluster answers at {address}: {error}") from error


_LONGEST_TEMPORARY = 38
"""Characters of a temporary folder: a socket's path may have 107, and Ray's own names take about 68 of them."""


@contextmanager
def short_temporary(folder: str, fallback: str = "/tmp") -> Iterator[str | None]:  # noqa: S108
    """Give Ray a private folder whose sockets fit, for as long as the block lasts; None where its own choice fits.

    Raises:
        ConnectionError: the folder's name is too long, and nothing can be written to the other.
    """
    if len(folder) <= _LONGEST_TEMPORARY:
        yield None
        return
    try:
        short = tempfile.mkdtemp(prefix="hubbub-", dir=fallback)  # mode 0700
    except OSError as error:
        raise ConnectionError(
            f"the temporary folder {folder} is too long for Ray's sockets ({len(folder)} of {_LONGEST_TEMPORARY} "
            f"characters), and {fallback} cannot be written; set RAY_TMPDIR to a folder with a short name"
        ) from error
    try:
        yield short
    finally:
        shutil.rmtree(short, ignore_errors=True)


@contextmanager
def connect(address: str | None, num_workers: int | None) -> Iterator[Session]:
    """Start a local Ray, or join a cluster, for as long as the block lasts.

    Args:
        address: of a cluster (`ray://...`, `host:port`, `auto`); None starts a local one that ends with the block.
        num_workers: processes of a local one; as many as there are cores where None.

    Raises:
        ConnectionError: there is no cluster at the address.
    """
    if address is not None:
        _knock(address)
    else:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
    # report() in Ray Train is a barrier that the controller releases when it polls: two seconds by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # By default a task that needs more memory than its node has is tried again for ever.
    os.environ.setdefault("RAY_task_oom_retries", "2")
    with (
        short_temporary(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir() if address is None else "") as temporary,
        _connected(address, num_workers, temporary) as session,
    ):
        yield session


@contextmanager
def _connected(address: str | None, num_workers: int | None, temporary: str | None) -> Iterator[Session]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        import ray.data
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it logs as an error, it raises too
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    if address is None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        options = {
            "address": "local",
            "num_cpus": num_workers or os.cpu_count() or 1,
            "include_dashboard": False,
            "_temp_dir": temporary,
            "configure_logging": True,
            # A local Ray imports this very tree: nothing is packed or copied.
            "runtime_env": {"env_vars": {"PYTHONPATH": path}},
        }
    else:
        # A job that was submitted has been given its environment already.
        in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        options = {
            "address": address,
            "runtime_env": None if in_job else {"working_dir": str(ROOT), "excludes": EXCLUDED},
        }
    with stopping.kept():
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    try:
        resources = ray.cluster_resources()
        yield Session(
            num_cpus=int(resources.get("CPU", 1)),
            num_gpus=int(resources.get("GPU", 0)),
            address=address or "local",
        )
    finally:
        ray.shutdown()
