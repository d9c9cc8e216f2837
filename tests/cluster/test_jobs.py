"""Jobs on a real cluster of two nodes, with tokens: the same request is one job."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.conftest import write_corpus
from tests.operators.s3 import s3_environment
from tests.pipelines.support import ROOT, command, losses, roots, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]
DASHBOARD = "http://127.0.0.1:8299"
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@pytest.fixture(scope="module")
def environment():
    """A head that does no work and a worker node, started as the guide says."""
    env = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_DASHBOARD_ADDRESS": DASHBOARD,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    if "HUBBUB_TEST_S3" in os.environ:  # nodes have their credentials from their environment, as the guide says
        env |= {
            "AWS_ENDPOINT_URL": os.environ["HUBBUB_TEST_S3"],
            "AWS_ACCESS_KEY_ID": "hub",
            "AWS_SECRET_ACCESS_KEY": "hubsecret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }
    folder = Path(tempfile.mkdtemp(prefix="ray-jobs-"))  # a short name: it holds sockets
    common = ["--disable-usage-stats", "--object-store-memory", "300000000"]
    head = [
        "start",
        "--head",
        "--port",
        "6399",
        "--dashboard-port",
        "8299",
        "--num-cpus",
        "0",
        "--temp-dir",
        str(folder),
    ]
    # Nodes on one machine that share a folder delete each other's copy of the code, under a job that runs in it.
    worker = ["start", "--address", "127.0.0.1:6399", "--num-cpus", "2", "--temp-dir", str(folder / "worker")]
    # Jobs are handed to the head's agent; another Ray on the machine would take its default port.
    head += ["--dashboard-agent-listen-port", "52465"]
    worker += ["--dashboard-agent-listen-port", "52466"]
    started = [
        subprocess.run([*RAY, *arguments, *common], env=env, capture_output=True, text=True, timeout=120)
        for arguments in (head, worker)
    ]
    assert [done.returncode for done in started] == [0, 0], started
    yield env
    # Not by `ray stop`, which ends every Ray on the machine, that of other tests too.
    subprocess.run(["pkill", "--signal", "KILL", "--full", str(folder)], check=False)
    shutil.rmtree(folder, ignore_errors=True)


def hubbub(env, *arguments):
    return subprocess.run(command(*arguments), cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)


def test_a_run_is_handed_over_once_and_its_end_is_ours(environment, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.yaml", write_corpus(tmp_path / "corpus"))
    request = ("cluster", "submit", "--key", "nightly", "--wait", "--", "run", recipe, "--output", tmp_path / "out")
    first = hubbub(environment, *request)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "hubbub-nightly-1 succeeded" in first.stdout
    assert "cpWER" in first.stdout
    again = hubbub(environment, *request)
    assert "already there: succeeded" in again.stdout
    status = json.loads(hubbub(environment, "cluster", "status", "nightly", "--json").stdout)
    assert [(job["submission_id"], job["status"]) for job in status] == [("hubbub-nightly-1", "SUCCEEDED")]

    # The same as on one machine.
    alone = subprocess.run(
        command("run", recipe, "--output", tmp_path / "alone"), cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert alone.returncode == 0, alone.stderr
    assert roots(tmp_path / "out") == roots(tmp_path / "alone")
    assert losses(tmp_path / "out") == pytest.approx(losses(tmp_path / "alone"), abs=1e-4)


def test_what_fails_there_fails_here_and_is_tried_again(environment, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.yaml", write_corpus(tmp_path / "corpus"))
    request = (
        "cluster",
        "submit",
        "--key",
        "bad",
        "--wait",
        "--",
        "run",
        recipe,
        "--output",
        tmp_path / "out",
        "--pack.capacity",
        8,
    )
    for attempt in (1, 2):
        done = hubbub(environment, *request)
        assert done.returncode == 3
        assert f"hubbub-bad-{attempt} failed" in done.stdout


def test_two_schedulers_at_once_make_one_job(environment, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.yaml", write_corpus(tmp_path / "corpus"))
    request = ("cluster", "submit", "--key", "race", "--", "simulate", recipe, "--output", tmp_path / "out")
    both = [
        subprocess.Popen(command(*request), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.wait(timeout=600) for process in both] == [0, 0]
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        jobs = json.loads(hubbub(environment, "cluster", "status", "race", "--json").stdout)
        if all(job["status"] == "SUCCEEDED" for job in jobs):
            break
        time.sleep(2)
    assert [(job["submission_id"], job["status"]) for job in jobs] == [("hubbub-race-1", "SUCCEEDED")]


def test_preflight_looks_at_every_node(environment, tmp_path):
    small = ("--partition-gb", 0.1)
    done = hubbub(environment, "cluster", "preflight", "--ray-address", "127.0.0.1:6399", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing that would stop a run" in done.stdout
    done = hubbub(
        environment,
        "cluster",
        "preflight",
        "--ray-address",
        "127.0.0.1:6399",
        "--paths",
        tmp_path / "nowhere",
        "--train-workers",
        9,
    )
    assert done.returncode == 2
    assert "does not see" in done.stderr
    assert "9 training workers need" in done.stderr


def test_a_wrong_token_is_named(environment):
    done = hubbub({**environment, "RAY_AUTH_TOKEN": "0" * 64}, "cluster", "status")
    assert done.returncode == 2
    assert "RAY_AUTH_TOKEN" in done.stderr


def test_a_cluster_that_is_not_there_is_named():
    done = hubbub(os.environ, "cluster", "status", "--address", "http://127.0.0.1:1")
    assert done.returncode == 2
    assert "no Ray jobs server" in done.stderr


def test_every_night_on_object_storage_and_postgres(environment, tmp_path, monkeypatch, postgres):
    """Step 10 of the guide: what the corpus grew by is made, training goes on, twice a night is as good as once."""
    if "HUBBUB_TEST_S3" not in os.environ:
        pytest.skip("no S3 server (make test-slow starts one)")
    import fsspec
    from mlflow import MlflowClient

    bucket = s3_environment(monkeypatch, os.environ["HUBBUB_TEST_S3"])
    environment = {**environment, "MLFLOW_TRACKING_URI": postgres}
    manifest = write_corpus(tmp_path / "corpus", num_speakers=7)
    whole = manifest.read_text()
    manifest.write_text("".join(line for line in whole.splitlines(keepends=True) if '"s6"' not in line))
    recipe = write_recipe(tmp_path / "recipe.yaml", manifest)

    def night(number):
        """From an output folder that is new each time, as on a machine that is."""
        return hubbub(
            environment,
            "cluster",
            "submit",
            "--wait",
            "--key",
            f"night-{number}",
            "--",
            "run",
            recipe,
            "--update",
            "--train.start-from",
            "last",
            "--train.steps",
            10,
            "--store",
            bucket,
            "--output",
            tmp_path / f"out-{number}",
        )

    first = night(1)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "no matching checkpoint here yet" in first.stdout
    assert "already there: succeeded" in night(1).stdout
    manifest.write_text(whole)
    second = night(2)
    assert second.returncode == 0, second.stdout + second.stderr
    found = (tmp_path / "out-2/checkpoints").glob("*/step-000010/checkpoint.json")  # of this night, and what it took
    lineages = [json.loads(path.read_text())["lineage"]["started_from"] for path in found]
    (started,) = [one for one in lineages if one["kind"] == "checkpoint"]
    assert started["kind"] == "checkpoint"
    assert started["step"] == 10
    said = [line for line in second.stdout.splitlines() if " rows in " in line]
    assert {line.split()[0] for line in said} >= {"conversations", "codes", "packs"}
    assert all("made" in line for line in said if line.startswith(("conversations", "codes", "packs"))), said
    # A third with nothing new: everything is fresh, from a folder that never saw any of it.
    third = night(3)
    assert third.stdout.count("(fresh)") >= 5
    names = fsspec.filesystem("s3").find(bucket)
    trainings = {name.split("/checkpoints/")[1].split("/")[0] for name in names if "/checkpoints/" in name}
    assert len(trainings) == 2
    client = MlflowClient(postgres)
    experiment = client.get_experiment_by_name("hubbub")
    runs = client.search_runs([experiment.experiment_id], max_results=200)
    assert runs
    assert all(run.info.status == "FINISHED" for run in runs)
