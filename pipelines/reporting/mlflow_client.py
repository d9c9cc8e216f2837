"""Reaching MLflow: where runs are recorded, and a client that survives the loss of its server."""

import contextlib
import fcntl
import logging
import os
import socket
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from operators.errors import InputError
from pipelines.reporting import console

EXPERIMENT = "hubbub"
DATABASE = "mlflow.db"
SOURCE_TYPE = "hubbub"
"""MLflow's source type of our data sets; it finds `pipelines.reporting.mlflow_source` by this name."""


def database_of(folder: Path) -> Path:
    """Return the database in which runs of an output folder are recorded where no server is named.

    That is the user's own, so that all outputs stand beside each other in one MLflow; the output folder's where it has
    one already, where HUBBUB_TRACKING is `output`, or where the user's data folder cannot be written.

    Raises:
        InputError: HUBBUB_TRACKING is neither `user` nor `output`.
    """
    own, where = folder.absolute() / DATABASE, os.environ.get("HUBBUB_TRACKING", "user")
    if where not in ("user", "output"):
        raise InputError(f"HUBBUB_TRACKING is {where!r}; it must be user (one database for all outputs) or output")
    # A user without a home, as in some containers, is left with ~, which is no absolute path.
    shared = Path(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")) / "hubbub"
    nearest = next((one for one in (shared, *shared.parents) if one.exists()), shared)
    is_ours = where == "user" and not own.exists() and shared.is_absolute() and os.access(nearest, os.W_OK)
    return shared / DATABASE if is_ours else own


def tracking_uri(folder: Path) -> str:
    """Return where runs of an output folder are recorded: MLFLOW_TRACKING_URI, else SQLite (`database_of`)."""
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if named:
        return named
    path = str(database_of(folder))
    escaped = path.replace("%", "%25").replace("?", "%3F")  # SQLAlchemy reads %41 as A, and ? as the end of the path
    # MLflow makes the folder of what follows `sqlite:///`, as it is written.
    return f"sqlite:///{path}" if escaped == path else f"sqlite+pysqlite:///{escaped}"


def experiment_of(client: Any, folder: Path) -> str:
    """Return the experiment's id; without a server, artifacts are kept beside the database."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found:
        return str(found.experiment_id)
    has_server = os.environ.get("MLFLOW_TRACKING_URI")
    location = None if has_server else (database_of(folder).parent / "mlartifacts").as_uri()
    return str(client.create_experiment(EXPERIMENT, location))


def check_reachable(uri: str) -> None:
    """Check that a tracking server accepts connections, since the client itself retries for minutes.

    Raises:
        InputError: it does not.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        return
    try:
        socket.create_connection((parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), 10).close()
    except OSError as error:
        raise InputError(f"no MLflow server answers at {uri} (MLFLOW_TRACKING_URI): {error}") from error


def check_database(path: Path) -> None:
    """Check that a database can be written, since MLflow tries again for minutes in silence.

    Raises:
        InputError: it cannot.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as database:
            database.execute("begin immediate")
            database.rollback()
    except sqlite3.Error as error:
        raise InputError(
            f"{path} cannot be written: {error}; look at the disk's room and the folder's rights, or name a server "
            "(MLFLOW_TRACKING_URI); what is made stays, run again to continue"
        ) from error


def _open_database(uri: str, path: Path) -> None:
    """Open a database, made where there is none, one process at a time: two would both create its tables.

    Raises:
        InputError: it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; name a server (MLFLOW_TRACKING_URI)") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        check_database(path)
        from mlflow import MlflowClient

        quiet()
        MlflowClient(uri, uri).search_experiments(max_results=1)
    finally:
        os.close(lock)


def connect(uri: str, folder: Path) -> Any:
    """Return a client of the tracking server, or of the database of an output folder.

    Raises:
        InputError: the server does not answer, or the database cannot be written.
    """
    check_reachable(uri)
    if uri == tracking_uri(folder) and not os.environ.get("MLFLOW_TRACKING_URI"):
        _open_database(uri, database_of(folder))
    if uri.startswith("http"):  # by default a client retries for minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    # MLflow would print the address of every run, with user and password.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow
    from mlflow import MlflowClient

    quiet()
    named = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)  # the registry looks models up through the process's URI, not the client's
    if not named:  # it also set the variable, which would send another output's records here
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    return MlflowClient(uri, uri)


def warm(folder: Path) -> None:
    """Import the client and open its database ahead of use; errors are reported when it is used."""
    with contextlib.suppress(Exception):
        uri = tracking_uri(folder)
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            _open_database(uri, database_of(folder))
            return
        check_reachable(uri)
        from mlflow import MlflowClient

        quiet()
        MlflowClient(uri).search_experiments(max_results=1)


def quiet() -> None:
    """Show only warnings of MLflow and what it uses; called after its import, which sets the level to INFO."""
    for noisy in ("mlflow", "mlflow.store.db.utils", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class FaultTolerantClient:
    """An MLflow client that does not end a run when its server is lost: it prints one notice and drops later calls.

    What could not be recorded is recorded when the same command is run again: stages remember that they are not.
    """

    def __init__(self, client: Any, uri: str) -> None:
        """Wrap a client."""
        self._client, self._uri = client, uri
        self.lost = False

    def __getattr__(self, name: str) -> Any:
        """Return a method of the client that returns None once the server is lost."""
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
                    f"MLflow at {self._uri} has stopped answering ({reason}); the run continues, and the same command "
                    "will record later what is missing there"
                )
                return None

        return tried
