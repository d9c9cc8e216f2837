"""`hubbub cluster ...`: submit a run to a cluster, follow it, and find in advance what would stop it."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tyro

from cluster import jobs, preflight
from cluster.session import connect
from models.config.secrets import has_password
from models.config.values import within
from operators.digest import to_jsonable
from operators.errors import InputError
from operators.store.remote import ALLOWED_VARIABLE
from pipelines.cli.arguments import Arguments, read
from pipelines.recipes.files import RECIPE_VARIABLE, load_recipe
from pipelines.reporting import console
from pipelines.reporting.code_version import code_version

_STAGES = ("run", "simulate", "tokenize", "pack", "train", "evaluate")
_PASSED_ON = (
    "MLFLOW_TRACKING_URI",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    ALLOWED_VARIABLE,
)
"""Environment variables that are passed on to a job; never secrets, since the dashboard shows them."""
DASHBOARD = "http://127.0.0.1:8265"


@dataclass(frozen=True, kw_only=True)
class SubmitArguments(Arguments):
    """Submit a command to a cluster, once: hubbub cluster submit [OPTIONS] -- run my.yaml --store s3://..."""

    address: str = os.environ.get("RAY_DASHBOARD_ADDRESS", DASHBOARD)
    """The head's dashboard; RAY_DASHBOARD_ADDRESS by default."""
    key: str | None = None
    """Identity of the request; by default command, recipe, code version and today's date."""
    wait: bool = False
    """Wait until the job ends, show its output, and exit with its status."""
    again: bool = False
    """Submit although the same request was submitted before."""
    env: tuple[str, ...] = ()
    """Further environment variables to pass on; the dashboard shows them, so keep secrets on the nodes."""


@dataclass(frozen=True, kw_only=True)
class StatusArguments(Arguments):
    """List submitted requests and their status."""

    key: Annotated[str | None, tyro.conf.Positional] = None
    """Key of one request; all where none is given."""
    address: str = os.environ.get("RAY_DASHBOARD_ADDRESS", DASHBOARD)
    """The head's dashboard; RAY_DASHBOARD_ADDRESS by default."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class PreflightArguments(Arguments):
    """Find what would stop a run on a cluster, without starting one."""

    ray_address: str = "auto"
    """The cluster."""
    paths: tuple[Path, ...] = ()
    """Folders that every node must see."""
    train_workers: int = field(default=1, metadata=within(1, 100_000))
    """Workers of Ray Train."""
    partition_gb: float = field(default=0.5, metadata=within(0, 10**6, "GB"))
    """Size of the largest partition."""


def _submit(arguments: Sequence[str]) -> None:
    own, command = list(arguments), []
    if "--" in own:
        own, command = own[: own.index("--")], own[own.index("--") + 1 :]
    parsed = read(SubmitArguments, "hubbub cluster submit", own)
    if not command or command[0] not in _STAGES:
        raise InputError(f"hubbub cluster submit needs -- followed by a command: {', '.join(_STAGES)}")
    unset = [name for name in parsed.env if name not in os.environ]
    if unset:
        raise InputError(f"--env {unset[0]}: no such variable is set here")
    env = {name: os.environ[name] for name in (*_PASSED_ON, *parsed.env) if name in os.environ}
    text = ""
    if len(command) > 1 and Path(command[1]).suffix in (".yaml", ".yml", ".json"):
        recipe = load_recipe(command[1])  # resolved here: the cluster sees neither the file nor what it extends
        text = json.dumps(to_jsonable(recipe), sort_keys=True)
        env[RECIPE_VARIABLE] = text
        command[1] = f"env:{RECIPE_VARIABLE}"
    _refuse_secrets(command, env)
    if not any(one == "--ray-address" or one.startswith("--ray-address=") for one in command):
        command += ["--ray-address", "auto"]
    today = datetime.now(UTC).date().isoformat()
    key = parsed.key or jobs.key_of(command, text, json.dumps(code_version(), sort_keys=True), today)
    try:
        job, new = jobs.submit(parsed.address, command, key, env=env, again=parsed.again)
        console.line("job", f"{job.submission_id}, {'submitted' if new else 'already there: ' + job.status.lower()}")
        if parsed.wait:
            job = jobs.follow(parsed.address, job.submission_id)
    except jobs.Refused as error:
        raise InputError(str(error)) from error
    if not parsed.wait:
        console.line("status", f"{console.program('hubbub')} cluster status {key} --address {parsed.address}")
        return
    console.line("job", f"{job.submission_id} {job.status.lower()}")
    if job.status != "SUCCEEDED":
        console.ERR.print(f"[red]error[/red]     {job.submission_id} {job.status.lower()}", markup=True)
        sys.exit(3)


def _refuse_secrets(command: Sequence[str], env: Mapping[str, str]) -> None:
    """Check that what the dashboard shows of a job holds no password.

    Raises:
        InputError: names the argument or variable, and where the secret belongs.
    """
    for name, text in [*((f"argument {one}", one) for one in command), *env.items()]:
        if has_password(text):
            raise InputError(
                f"{name} holds a password or a signature, which everyone who sees the cluster's dashboard can read; "
                "give it without, and set the secret on the nodes (MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
            )


def _status(arguments: Sequence[str]) -> None:
    parsed = read(StatusArguments, "hubbub cluster status", arguments)
    try:
        found = jobs.attempts(parsed.address, parsed.key)
    except jobs.Refused as error:
        raise InputError(str(error)) from error
    if parsed.json:
        print(json.dumps([vars(job) for job in found], indent=1))
        return
    if not found:
        raise InputError(f"nothing {f'of key {parsed.key} ' if parsed.key else ''}was submitted to {parsed.address}")
    rows = [[job.key, job.submission_id, job.status.lower(), job.message[:100]] for job in found]
    console.table("", ["key", "job", "status", "message"], rows)


def _preflight(arguments: Sequence[str]) -> None:
    parsed = read(PreflightArguments, "hubbub cluster preflight", arguments)
    try:
        with connect(parsed.ray_address, None):
            nodes = preflight.look([str(path.absolute()) for path in parsed.paths])
    except ConnectionError as error:
        raise InputError(str(error)) from error
    rows = [
        [
            node.name,
            f"{node.cpus:.0f}",
            f"{node.gpus:.0f}",
            f"{node.object_store_bytes / 1e9:.1f} GB",
            f"{node.free_bytes / 1e9:.0f} GB",
            str(node.versions.get("hubbub")),
            str(node.versions.get("torch")),
        ]
        for node in nodes
    ]
    console.table("", ["node", "CPUs", "GPUs", "object store", "free", "hubbub", "torch"], rows)
    size = int(parsed.partition_gb * 1e9)
    found = preflight.problems(nodes, train_workers=parsed.train_workers, partition_bytes=size)
    if found:
        raise InputError("; ".join(found))
    console.line("preflight", "nothing that would stop a run")


def cluster(arguments: Sequence[str]) -> None:
    """Run one of the cluster's verbs.

    Raises:
        InputError: there is no such verb, or the cluster cannot be reached.
    """
    verbs = {"submit": _submit, "status": _status, "preflight": _preflight}
    if not arguments or arguments[0] not in verbs:
        raise InputError(f"hubbub cluster needs one of {', '.join(verbs)}")
    verbs[arguments[0]](arguments[1:])
