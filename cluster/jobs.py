"""Ray Jobs: a command handed to a cluster once, however often it is asked for, and what became of it.

The token that clusters ask for comes from the environment (RAY_AUTH_MODE, RAY_AUTH_TOKEN or ~/.ray/auth_token).
"""

import hashlib
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.session import EXCLUDED, ROOT

FINISHED = ("SUCCEEDED", "FAILED", "STOPPED")

STARTING_S = 60.0
"""How long the head of a cluster may take, once it answers, until it can start jobs."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command on the cluster."""

    key: str
    """What makes two requests the same one."""
    submission_id: str
    """Ray's name for the attempt."""
    status: str
    message: str = ""


class Refused(ConnectionError):  # noqa: N818 - it is what the user meets, not a defect
    """The cluster does not answer, or does not let us in."""


def _client(address: str) -> Any:
    """Reach the jobs server of a cluster's head.

    Raises:
        Refused: there is no answer, or the token is wrong.
    """
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except Exception as error:
        reason = str(error).strip().splitlines()
        hint = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's" if _is_token(error) else "is it running?"
        raise Refused(
            f"no Ray jobs server lets us in at {address}: {reason[0] if reason else error}; {hint}"
        ) from error


def _is_token(error: Exception) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("401", "403", "token", "unauth"))


def key_of(command: Sequence[str], *parts: str) -> str:
    """Return a short key of a command and of whatever else makes it another request.

    >>> key_of(["run", "demo"], "2026-11-24") == key_of(["run", "demo"], "2026-11-24")
    True
    >>> key_of(["run", "demo"], "2026-11-24") == key_of(["run", "demo"], "2026-11-25")
    False
    """
    return hashlib.blake2b("\0".join([*command, "\1", *parts]).encode(), digest_size=8).hexdigest()


def attempts(address: str, key: str | None = None) -> list[Job]:
    """Return our submitted jobs, oldest first: those of one key, or all.

    Raises:
        Refused: the cluster does not answer.
    """
    found = []
    for details in _client(address).list_jobs():
        tags = details.metadata or {}
        if "hubbub_key" in tags and key in (None, tags["hubbub_key"]):
            job = Job(
                key=tags["hubbub_key"],
                submission_id=str(details.submission_id),
                status=str(getattr(details.status, "value", details.status)),
                message=str(details.message or "").strip(),
            )
            found.append((details.start_time or 0, job))
    return [job for _, job in sorted(found, key=lambda one: one[0])]


def submit(
    address: str, command: Sequence[str], key: str, *, env: Mapping[str, str] | None = None, again: bool = False
) -> tuple[Job, bool]:
    """Submit a command unless one of the same key is at work or done; return the job, and whether it is new.

    Args:
        address: of the head's dashboard, http://host:8265.
        command: of the program, without its name.
        key: what makes two requests the same one; a failed one is tried again under the same key.
        env: variables for the run.
        again: submit although the same was done.

    Raises:
        Refused: the cluster does not answer.
    """
    before = attempts(address, key)
    kept = [job for job in before if job.status in ("PENDING", "RUNNING") or (job.status == "SUCCEEDED" and not again)]
    if kept:
        return kept[-1], False
    name = f"hubbub-{key}-{len(before) + 1}"
    entrypoint = shlex.join(["python", "-m", "pipelines", *command])
    runtime_env = {"working_dir": str(ROOT), "excludes": EXCLUDED, "env_vars": dict(env or {})}
    client, deadline = _client(address), time.monotonic() + STARTING_S
    while True:
        try:
            client.submit_job(
                entrypoint=entrypoint, submission_id=name, runtime_env=runtime_env, metadata={"hubbub_key": key}
            )
        except RuntimeError as error:
            if "No available agent" in str(error) and time.monotonic() < deadline:
                time.sleep(1.0)
                continue
            if "already exists" not in str(error):
                raise Refused(f"{address} refuses the job: {str(error).splitlines()[0]}") from error
            # Another scheduler was faster by a moment: its job is the one.
        break
    return Job(key=key, submission_id=name, status="PENDING"), True


def follow(address: str, submission_id: str, say: Callable[[str], None] = lambda text: print(text, end="")) -> Job:
    """Wait until a job ends, passing on what it prints; return how it ended."""
    client, shown = _client(address), 0
    while True:
        info = client.get_job_info(submission_id)
        text = client.get_job_logs(submission_id)
        say(text[shown:])
        sys.stdout.flush()
        shown = len(text)
        status = str(getattr(info.status, "value", info.status))
        if status in FINISHED:
            key = (info.metadata or {}).get("hubbub_key", "")
            return Job(key=key, submission_id=submission_id, status=status, message=str(info.message or "").strip())
        time.sleep(1.0)
