"""Real servers, and nodes that come and go: run by `make test-slow`."""

import os
import subprocess
import time

import pytest

from models.training.metrics import read_metrics
from pipelines.plan.output import Output
from tests.conftest import write_corpus
from tests.operators.s3 import s3_environment
from tests.pipelines.support import (
    ROOT,
    STAGES,
    command,
    hubbub,
    in_the_middle,
    losses,
    roots,
    run_on_two_nodes,
    write_recipe,
)

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]


def test_mlflow_on_postgres_holds_what_sqlite_holds(tmp_path, monkeypatch, postgres):
    from mlflow import MlflowClient

    recipe = write_recipe(tmp_path / "recipe.yaml", write_corpus(tmp_path / "corpus"))
    found = []
    for uri in (f"sqlite:///{tmp_path}/mlflow.db", postgres):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        output = tmp_path / f"out-{len(found)}"
        hubbub("run", recipe, "--output", output)
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("hubbub")
        runs = client.search_runs([experiment.experiment_id])
        found.append(
            (
                roots(output),
                sorted((run.info.run_name, run.info.status) for run in runs),
                sorted({(i.dataset.name, i.dataset.digest) for run in runs for i in run.inputs.dataset_inputs}),
                sorted(len(run.outputs.model_outputs) for run in runs),
            )
        )
    assert found[0] == found[1]


@pytest.mark.nightly  # ranks without Ray make the same steps in tests/models/training
def test_two_training_workers_make_the_steps_of_one(tmp_path):
    recipe = write_recipe(tmp_path / "recipe.yaml", write_corpus(tmp_path / "corpus"))
    for number in (1, 2):
        hubbub("train", recipe, "--output", tmp_path / f"out-{number}", "--workers", 2, "--train-workers", number)
    assert losses(tmp_path / "out-2") == pytest.approx(losses(tmp_path / "out-1"), abs=1e-4)


@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
def test_training_grows_and_shrinks_with_the_cluster(tmp_path, monkeypatch):
    """It begins on the one node there is, takes in another that comes, and goes on when that dies."""

    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("HUBBUB_RESIZE_EVERY_S", "5")
    recipe = write_recipe(tmp_path / "recipe.yaml", write_corpus(tmp_path / "corpus"))
    changes = (
        "--train.steps",
        1200,
        "--train.checkpoint-every",
        50,
        "--train.num-threads",
        1,
        "--train.packs-per-step",
        4,
    )
    node = {"num_cpus": 2, "object_store_memory": 200_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0})
    cluster.add_node(**node)
    elastic = ("--ray-address", cluster.address, "--train-workers", 4, "--min-train-workers", 1)
    said = tmp_path / "said.log"
    with said.open("w") as file:
        process = subprocess.Popen(
            command("train", recipe, "--output", tmp_path / "elastic", *changes, *elastic),
            cwd=ROOT,
            stdout=file,
            stderr=file,
        )

    def ranks():
        return [
            record.num_ranks
            for path in tmp_path.glob("elastic/checkpoints/*/metrics.jsonl")
            for record in read_metrics(path)
        ]

    def wait_until(happened):
        while process.poll() is None and not happened():
            time.sleep(0.1)

    try:
        wait_until(lambda: len(ranks()) > 60)  # after the first checkpoint, or all steps are made again by more ranks
        second = cluster.add_node(**node)
        wait_until(lambda: ranks().count(4) > 100)  # a checkpoint at least
        cluster.remove_node(second, allow_graceful=False)
        process.wait(timeout=900)
    finally:
        process.kill()
        cluster.shutdown()
    assert process.returncode == 0, said.read_text()
    counts = ranks()
    assert (counts[0], 4 in counts, counts[-1]) == (2, True, 2)
    hubbub("train", recipe, "--output", tmp_path / "alone", *changes)
    # The same packs make every step; after a thousand steps, sums in another order have their way with losses.
    made = []
    for name in ("elastic", "alone"):
        (path,) = (tmp_path / name).glob("checkpoints/*/metrics.jsonl")
        made.append([(record.num_columns, record.num_documents) for record in read_metrics(path)])
    assert made[0] == made[1]
    assert losses(tmp_path / "elastic")[:100] == pytest.approx(losses(tmp_path / "alone")[:100], abs=1e-4)


@pytest.fixture
def bucket(monkeypatch):
    """A bucket of a real S3 server, or of moto's where there is none."""
    if "HUBBUB_TEST_S3" in os.environ:
        yield s3_environment(monkeypatch, os.environ["HUBBUB_TEST_S3"])
        return
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield s3_environment(monkeypatch, f"http://{host}:{port}")
    server.stop()


def test_data_sets_and_checkpoints_lie_on_object_storage(tmp_path, bucket):
    import fsspec

    recipe = write_recipe(tmp_path / "recipe.yaml", write_corpus(tmp_path / "corpus"))
    hubbub("run", recipe, "--output", tmp_path / "here")
    hubbub("run", recipe, "--output", tmp_path / "there", "--store", bucket)
    assert not (tmp_path / "there/data").exists()
    for name in ("utterances", "conversations", "codes", "packs", "hypotheses"):
        one, two = (Output(tmp_path / where).dataset(name).latest() for where in ("here", "there"))
        assert one.merkle_root == two.merkle_root
    assert losses(tmp_path / "there") == losses(tmp_path / "here")
    # Everything is fresh, also for somebody who comes with nothing but the URL.
    again = hubbub("run", recipe, "--output", tmp_path / "there")
    assert again.stdout.count("(fresh)") == 6
    other = hubbub("plan", recipe, "--output", tmp_path / "new", "--store", bucket)
    assert "stale" in other.stdout
    assert "verified" in hubbub("verify", recipe, "--output", tmp_path / "there").stdout
    assert "conversations" in hubbub("lineage", "packs", "--output", tmp_path / "there").stdout
    refused = hubbub("run", recipe, "--output", tmp_path / "there", "--store", "s3://elsewhere", check=False)
    assert (refused.returncode, "keeps its data sets at" in refused.stderr) == (2, True)
    names = fsspec.filesystem("s3").find(bucket)
    assert any("checkpoints" in name and name.endswith("step-000120/checkpoint.json") for name in names)


@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
def test_nodes_that_die_in_the_middle_of_every_stage_change_nothing(tmp_path):
    """Two nodes; the one that works is killed in each stage, and another comes."""
    recipe = write_recipe(tmp_path / "recipe.yaml", write_corpus(tmp_path / "corpus"))
    undisturbed, _ = run_on_two_nodes(recipe, tmp_path / "undisturbed", ())
    disturbed, killed = run_on_two_nodes(recipe, tmp_path / "disturbed", STAGES)
    print(f"killed in {killed}; disturbed over undisturbed {disturbed / undisturbed:.2f}")
    assert {"tokenize", "train"} <= set(killed)
    assert roots(tmp_path / "disturbed") == roots(tmp_path / "undisturbed")
    assert losses(tmp_path / "disturbed") == losses(tmp_path / "undisturbed")


def test_a_tracking_server_that_goes_away_does_not_end_the_run(tmp_path, monkeypatch):
    """It is stopped while training is at work; the same command records later what is missing."""
    import socket
    import sys
    import urllib.request

    from mlflow import MlflowClient

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"

    def serve():
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--port",
                str(port),
                "--workers",
                "1",
                "--backend-store-uri",
                f"sqlite:///{tmp_path}/server.db",
                "--artifacts-destination",
                str(tmp_path / "artifacts"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=1)
            except OSError:
                time.sleep(0.2)
            else:
                return server
        raise AssertionError("the server does not come up")

    def stop(server):
        import signal

        os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    recipe = write_recipe(tmp_path / "recipe.yaml", write_corpus(tmp_path / "corpus"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    server, output = serve(), tmp_path / "out"
    process = subprocess.Popen(
        command("run", recipe, "--output", output), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not in_the_middle("train", output):
        time.sleep(0.05)
    stop(server)
    out, error = process.communicate(timeout=900)
    assert process.returncode == 0, out + error
    assert "has stopped answering" in out
    assert "cpWER" in out
    server = serve()
    try:
        hubbub("run", recipe, "--output", output)
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("hubbub")
        runs = client.search_runs([experiment.experiment_id])
        assert {run.info.status for run in runs} == {"FINISHED"}
        named = {run.info.run_name: run for run in runs}
        assert {"index", "simulate", "tokenize", "pack", "train", "evaluate"} <= named.keys()
        curve = client.get_metric_history(named["train"].info.run_id, "loss")
        assert sorted(metric.step for metric in curve) == list(range(1, 121))
    finally:
        stop(server)
