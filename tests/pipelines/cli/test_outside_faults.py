"""What comes from outside: secrets in addresses, folders of odd names, full disks, habits of other programs."""

import errno
import json
import logging
import os
import sqlite3
import subprocess
import sys
import traceback

import pytest
from safetensors import SafetensorError

from models.config.secrets import has_password, masked, without_login
from operators.errors import InputError, UnusableRowError, disk_fault
from operators.store import storage
from operators.store.dataset import Partition
from pipelines.cli import main as command_line
from pipelines.cli.cluster import cluster
from pipelines.inspect.summary import tracking_line
from pipelines.plan.output import Output
from pipelines.plan.trained import remember_depends, why_trained
from pipelines.recipes.files import from_mapping, to_json
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console
from pipelines.reporting.mlflow_client import (
    check_database,
    check_reachable,
    connect,
    database_of,
    experiment_of,
    tracking_uri,
)
from pipelines.reporting.mlflow_runs import Tracker
from pipelines.reporting.run_state import read_state
from tests.pipelines.support import ROOT

SECRET = "SECRETPASS"
ADDRESS = f"http://user:{SECRET}@127.0.0.1:1/x"


def ended(monkeypatch, capsys, error=None, arguments=("run", "tiny")):
    """Exit code, and what is printed, where a verb raises an error."""

    def verb(_):
        if error is not None:
            raise error

    monkeypatch.setattr("sys.argv", ["hubbub", *arguments])
    monkeypatch.setattr(command_line, "function_of", lambda _: verb)
    monkeypatch.setattr(command_line.stopping, "install", lambda: None)
    code = 0
    try:
        command_line.main()
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr()
    return code, said.out + said.err


# ------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    "text",
    [
        ADDRESS,
        f"postgresql://ann:{SECRET}@host/db",
        f"https://{SECRET}@host/x",
        f"https://b.s3.amazonaws.com/k.flac?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}",
        f"sqlite:///x.db?password={SECRET}",
        f"http://ann:{SECRET}@with@at@host/x",
    ],
)
def test_no_secret_of_an_address_is_shown(text, capsys):
    assert SECRET not in masked(f"a {text} b, {json.dumps([text])}")
    assert has_password(text)
    for error in (InputError, UnusableRowError):
        assert SECRET not in str(error(f"cannot read {text}"))
    for show in (
        lambda: console.line("x", text),
        lambda: console.notice(text),
        lambda: console.table("", ["a"], [[text]]),
    ):
        show()
    assert SECRET not in capsys.readouterr().out
    recipe = from_mapping(Recipe, {"corpus": {"manifests": [text]}}, "recipe")
    assert SECRET not in to_json(recipe)


def test_texts_without_secrets_stay_as_they_are(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "true")
    for text in (
        "s3://bucket/runs/x",
        "http://host:8080/a@b",
        "a: b@c, true",
        "sqlite:////a b/mlflow.db",
        "12:30@noon",
    ):
        assert masked(text) == text
        assert not has_password(text)


def test_values_of_variables_that_hold_secrets_are_not_shown(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    assert masked("403 for key wJalrXUtnFEMI") == "403 for key ***"


def test_a_traceback_shows_no_password(monkeypatch, capsys):
    code, said = ended(monkeypatch, capsys, RuntimeError(f"a defect at {ADDRESS}"))
    assert code == 1
    assert "Traceback" in said
    assert "a defect" in said
    assert SECRET not in said


def test_a_tracking_server_is_told_and_remembered_without_its_password(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ADDRESS)
    with pytest.raises(InputError, match="no MLflow server answers") as refused:
        check_reachable(tracking_uri(tmp_path))
    assert SECRET not in "".join(traceback.format_exception_only(refused.value))
    # Runs in the same place continue, whatever the password.
    assert without_login(ADDRESS) == without_login(ADDRESS.replace(SECRET, "new")) == "http://127.0.0.1:1/x"


def test_what_mlflow_records_and_the_folder_keeps_holds_no_password(monkeypatch, tmp_path):
    recipe = from_mapping(Recipe, {"corpus": {"manifests": [ADDRESS]}}, "recipe")
    tracker = Tracker(recipe, tmp_path)
    tracker.finish({}, is_complete=True)
    client = connect(tracking_uri(tmp_path), tmp_path)
    run = client.get_run(tracker.parent_id)
    assert run.data.params["corpus.manifests"] == "['http://user:***@127.0.0.1:1/x']"
    assert SECRET not in json.dumps([run.data.tags, run.data.params, read_state(tmp_path)])
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert all(SECRET not in line for line in database.iterdump())
    assert all(SECRET.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_store_is_remembered_without_its_password(monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "check_store", lambda url: None)
    url = f"sftp://ann:{SECRET}@host/x"
    Output(tmp_path).remember(url)
    assert (tmp_path / "store").read_text() == "sftp://ann:***@host/x\n"
    Output(tmp_path, url).remember(url)  # the same command goes on
    with pytest.raises(InputError, match="the password is not kept: give --store"):
        Output(tmp_path)


def test_a_job_whose_dashboard_would_show_a_password_is_refused(monkeypatch):
    with pytest.raises(InputError, match="dashboard") as refused:
        cluster(["submit", "--", "run", "tiny", "--store", ADDRESS])
    assert SECRET not in str(refused.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ADDRESS)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI holds a password"):
        cluster(["submit", "--", "run", "tiny"])


# --------------------------------------------------------------------------------- folders of any name


@pytest.mark.parametrize("name", ["a%41 b#?[x]&'é", "n" * 200])
def test_runs_are_recorded_in_folders_of_any_name(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    client = connect(tracking_uri(folder), folder)
    run = client.create_run(experiment_of(client, folder))
    client.log_text(run.info.run_id, "text", "a.txt")
    assert (folder / "mlflow.db").exists()
    assert list((folder / "mlartifacts").rglob("a.txt"))
    assert list(tmp_path.iterdir()) == [folder]  # nothing beside it, where a name was read as another
    console.line("MLflow", tracking_line(folder))


def test_all_outputs_of_a_user_are_recorded_in_one_private_database(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.delenv("HUBBUB_TRACKING")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    folders = [tmp_path / "a/x", tmp_path / "b/y"]
    for folder in folders:
        folder.mkdir(parents=True)
    assert len({tracking_uri(folder) for folder in folders}) == 1
    for folder in folders:
        client = connect(tracking_uri(folder), folder)
        run = client.create_run(experiment_of(client, folder))
        client.log_text(run.info.run_id, "text", "a.txt")
    assert len(client.search_runs([run.info.experiment_id])) == 2
    assert len(list((home / "hubbub/mlartifacts").rglob("a.txt"))) == 2
    assert (home / "hubbub").stat().st_mode & 0o777 == 0o700
    assert not any(path for folder in folders for path in folder.iterdir())


def test_a_database_in_the_output_folder_is_used_where_it_is_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HUBBUB_TRACKING", "user")
    assert database_of(tmp_path) == tmp_path / "home/hubbub/mlflow.db"
    (tmp_path / "mlflow.db").touch()
    assert database_of(tmp_path) == tmp_path / "mlflow.db"
    monkeypatch.setenv("HUBBUB_TRACKING", "output")
    assert database_of(tmp_path / "new") == tmp_path / "new/mlflow.db"
    monkeypatch.setenv("HUBBUB_TRACKING", "elsewhere")
    with pytest.raises(InputError, match="must be user"):
        database_of(tmp_path)


def test_two_processes_may_make_the_database_at_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from pipelines.reporting.mlflow_client import connect, tracking_uri;"
        "folder = Path(sys.argv[1]); print(len(connect(tracking_uri(folder), folder).search_experiments()))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [(one.communicate(timeout=120)[0], one.returncode) for one in started] == [("1\n", 0)] * 3


def test_a_database_that_cannot_be_opened_is_told_at_once(tmp_path):
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(InputError, match=r"mlflow\.db cannot be written: unable to open database file"):
        check_database(tmp_path / "mlflow.db")


# --------------------------------------------------------------------------------------------- disks


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/d/x"),
        OSError(errno.EROFS, "Read-only file system", "/d/x"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        sqlite3.OperationalError("database or disk is full"),
        RuntimeError("pyarrow: [Errno 122] Disk quota exceeded"),
    ],
)
def test_a_disk_that_refuses_is_one_line_whatever_library_met_it(error, monkeypatch, capsys):
    wrapped = RuntimeError("a stage failed")
    wrapped.__cause__ = error
    for one in (error, wrapped):
        code, said = ended(monkeypatch, capsys, one)
        assert code == 2
        assert len(said.strip().splitlines()) == 1
        assert "what is made stays, run again to continue" in said
        assert disk_fault(one) in said
    assert disk_fault(RuntimeError("a defect")) is None


def test_a_file_that_does_not_fit_leaves_the_old_one_and_nothing_half_written(tmp_path, monkeypatch):
    from pathlib import Path

    path = tmp_path / "state.json"
    storage.replace_bytes(b"old", str(path))

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    def flushed(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(os, "fsync", flushed)
    with pytest.raises(OSError, match="No space left"):
        storage.replace_bytes(b"new text", str(path))
    with pytest.raises(OSError, match="No space left"):
        storage.put_bytes(b"new text", str(tmp_path / "other"))
    assert [one.name for one in tmp_path.iterdir()] == ["state.json"]
    assert path.read_bytes() == b"old"


# --------------------------------------------------------------------------------- reasons, and habits


def training(**train):
    return Partition(partition_id="training", row_ids=(), depends={"train": train, "packs": {"a": "1"}})


def test_a_training_is_stale_for_what_changed_and_nothing_else(tmp_path):
    output, before = Output(tmp_path), training(lr=0.003, steps=4)
    folder = output.training(before.key)
    folder.mkdir(parents=True)
    assert why_trained(output, training(lr=0.001, steps=4)) == "new"
    remember_depends(folder, before.depends)
    assert why_trained(output, training(lr=0.001, steps=4)) == "train.lr 0.003 -> 0.001"
    (folder / "step-000002").mkdir()
    (folder / "step-000002/checkpoint.json").write_text("{}")
    assert why_trained(output, before) == "not finished: it goes on after step 2"
    (folder / "depends.json").write_text("")
    assert why_trained(output, training(lr=0.001, steps=4)) == "new"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "tiny", "--dry-run"), "hubbub plan RECIPE shows what would run"),
        (("run", "tiny", "--resume=last"), "every run goes on where the last one stopped"),
        (("run", "--config", "x.yaml"), "a recipe's file comes right after the verb"),
    ],
)
def test_options_of_other_programs_point_to_ours(arguments, said, monkeypatch, capsys):
    code, printed = ended(monkeypatch, capsys, arguments=arguments)
    assert code == 2
    assert said in printed


def test_the_version_is_printed(monkeypatch, capsys):
    assert ended(monkeypatch, capsys, arguments=("--version",)) == (0, "hubbub 0.1.0\n")


def test_a_download_that_is_tried_again_logs_no_signature(tmp_path, monkeypatch, caplog):
    from operators.store import cache

    def fails(url, _):
        raise OSError(f"GET {url}")

    monkeypatch.setattr(cache.storage, "download", fails)
    monkeypatch.setattr(cache.time, "sleep", lambda _: None)
    with caplog.at_level(logging.WARNING), pytest.raises(InputError) as refused:
        cache.Cache(tmp_path, 10**9).fetch(f"s3://b/k?X-Amz-Signature={SECRET}", 1, "0" * 32)
    assert "trying again" in caplog.text
    assert SECRET not in caplog.text + str(refused.value)
