"""What clusters are made from: read by the rules of each kind, and agreeing with what is pinned."""

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cluster.session import ROOT
from pipelines.cli.main import VERBS

FOLDER = ROOT / "cluster"
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
MANIFESTS = sorted(path for path in (FOLDER / "kubernetes").glob("*.yaml") if path.stem != "kustomization")
KINDS = {
    "RayCluster": "ray.io/v1",
    "RayJob": "ray.io/v1",
    "RayCronJob": "ray.io/v1",
    "CronJob": "batch/v1",
    "Deployment": "apps/v1",
    "Service": "v1",
    "PersistentVolumeClaim": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
}
KUSTOMIZATION = FOLDER / "kubernetes/kustomization.yaml"


def documents(path):
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def everything(node, key):
    """All values of a key, however deep."""
    if isinstance(node, dict):
        found = [node[key]] if key in node else []
        return found + [value for child in node.values() for value in everything(child, key)]
    if isinstance(node, list):
        return [value for child in node for value in everything(child, key)]
    return []


def ray_spec(document):
    spec = document["spec"]
    spec = spec.get("jobTemplate", spec)
    return spec.get("rayClusterSpec", spec) if document["kind"] != "CronJob" else None


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_what_kubernetes_reads(path):
    for document in documents(path):
        assert document["apiVersion"] == KINDS[document["kind"]]
        assert {"name", "generateName"} & document["metadata"].keys()
        for container in (c for containers in everything(document, "containers") for c in containers):
            assert container["image"] in (f"hubbub:{VERSION}", "postgres:15")
            assert {"requests", "limits"} <= container["resources"].keys()
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= {volume["name"] for volumes in everything(document, "volumes") for volume in volumes}
            for variable in container.get("env", []):
                assert ("value" in variable) != ("valueFrom" in variable)
                secret = re.search("KEY$|TOKEN|PASSWORD|KEY_ID", variable["name"])
                assert not (secret and "value" in variable), "credentials come from the secret"


def pods(path):
    """Every pod template's spec in a file, and whether it is a Ray head's."""
    found = []

    def look(node, name):
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "template":
                    found.append((value["spec"], name == "headGroupSpec"))
                look(value, key if key != "template" else name)
        elif isinstance(node, list):
            for value in node:
                look(value, name)

    for document in documents(path):
        look(document, "")
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_keep_to_the_schemas_of_kubernetes(path):
    """Ray's own kinds have no schema there; their pods have."""
    import kubernetes_validate

    for document in documents(path):
        if not document["apiVersion"].startswith("ray.io"):
            kubernetes_validate.validate(document, "1.32", strict=True)
    for spec, _ in pods(path):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}
        kubernetes_validate.validate(pod, "1.32", strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_pods_have_no_more_rights_than_they_need(path):
    assert pods(path) or path.stem == "networkpolicy"
    for spec, is_head in pods(path):
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        # The autoscaler, beside a head, asks for pods.
        assert is_head or spec["automountServiceAccountToken"] is False
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]
            assert "PASSWORD" not in str(container.get("command", "")) + str(container.get("args", ""))


def test_nobody_talks_to_anybody_unless_it_is_said():
    policies = {one["metadata"]["name"]: one["spec"] for one in documents(FOLDER / "kubernetes/networkpolicy.yaml")}
    assert policies.pop("nothing-by-default") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        for rule in spec.get("ingress", []):
            assert rule["from"], f"{name} lets everyone in"
            assert all(one.get("podSelector") for one in rule["from"]), f"{name} lets whole namespaces in"
    # Whoever is selected stands in some other file.
    labels = [{"ray.io/cluster": "hubbub"}, {"batch.kubernetes.io/job-name": "one"}]
    labels += [found for path in MANIFESTS for found in everything(documents(path), "labels")]
    for spec in policies.values():
        chosen = spec["podSelector"].get("matchLabels", {}).items()
        keys = [one["key"] for one in spec["podSelector"].get("matchExpressions", [])]
        assert any(chosen <= one.items() and all(key in one for key in keys) for one in labels)


def test_mlflow_and_ray_ask_who_is_there():
    server = next(one for one in documents(FOLDER / "kubernetes/mlflow.yaml") if one["metadata"]["name"] == "mlflow")
    (container,) = everything(server, "containers")[0]
    assert "--app-name=basic-auth" in container["command"]
    for path in FOLDER.rglob("*"):
        if path.suffix in (".yaml", ".sh") and "ray start" in path.read_text():
            assert "RAY_AUTH_MODE=token" in path.read_text(), path
            assert "dashboard-host=0.0.0.0" not in path.read_text(), path
    for name in ("raycluster", "rayjob", "raycronjob"):
        for spec, _ in pods(FOLDER / f"kubernetes/{name}.yaml"):
            env = {one["name"]: one for one in spec["containers"][0]["env"]}
            assert env["RAY_AUTH_MODE"]["value"] == "token"
            assert {"RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD"} <= env.keys()


def test_every_image_can_be_named_by_digest():
    named = {one["name"] for one in yaml.safe_load(KUSTOMIZATION.read_text())["images"]}
    used = {image.split(":")[0] for path in MANIFESTS for image in everything(documents(path), "image")}
    assert used == named
    assert (FOLDER / "Dockerfile").read_text().count("FROM $BASE") == 1


HOSTS = {"mlflow:5000": 200, "elsewhere.example:5000": 403}
"""What MLflow answers to requests for a host's name."""


@pytest.mark.slow
def test_mlflow_lets_in_whoever_knows_the_password_of_the_file(tmp_path, monkeypatch):
    """The settings that `mlflow.yaml` tells to put into a secret, with SQLite in place of PostgreSQL."""
    import os
    import signal
    import socket
    import sys
    import time

    import requests
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    text = (FOLDER / "kubernetes/mlflow.yaml").read_text()
    settings = re.search(r"<<EOF\n(.*?)#   EOF", text, re.DOTALL).group(1).replace("#   ", "")
    url = re.search(r"database_uri = (.*)", settings).group(1)
    settings = settings.replace(url, f"sqlite:///{tmp_path}/auth.db").replace("$password", "correct-horse-battery")
    (tmp_path / "auth.ini").write_text(settings)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    env = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32,
    }
    given = [word for word in everything(documents(FOLDER / "kubernetes/mlflow.yaml"), "command")[-1] if "--a" in word]
    assert [word.split("=")[0] for word in given] == ["--app-name", "--allowed-hosts", "--artifacts-destination"]
    command = [
        "mlflow",
        "server",
        given[0],
        f"{given[1]},127.0.0.1:*",
        "--host=0.0.0.0",
        f"--port={port}",
        "--workers=1",
    ]
    command += [f"--backend-store-uri=sqlite:///{tmp_path}/mlflow.db", f"--artifacts-destination={tmp_path}/artifacts"]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command], env=env, cwd=tmp_path, start_new_session=True, stdout=log, stderr=log
        )
    try:
        uri, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 400
        while True:
            said = (tmp_path / "server.log").read_text()
            assert server.poll() is None, said
            assert time.monotonic() < deadline, said
            try:
                if requests.get(f"{uri}/health", timeout=30).ok:
                    break
            except (requests.ConnectionError, requests.Timeout):
                time.sleep(0.5)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        experiments, known = (
            f"{uri}/api/2.0/mlflow/experiments/search?max_results=1",
            ("hubbub", "correct-horse-battery"),
        )
        asked = {name: requests.get(experiments, auth=known, headers={"Host": name}, timeout=30) for name in HOSTS}
        assert {name: answer.status_code for name, answer in asked.items()} == HOSTS
        with pytest.raises(MlflowException, match="401"):
            MlflowClient(uri).search_experiments()
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "hubbub")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-password-here")
        with pytest.raises(MlflowException, match="401"):
            MlflowClient(uri).search_experiments()
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct-horse-battery")
        assert MlflowClient(uri).create_experiment("speech")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


@pytest.mark.parametrize("name", ["raycluster", "rayjob", "raycronjob"])
def test_ray_clusters_have_the_pinned_version_and_their_own_groups_for_cpus_and_gpus(name):
    (document,) = documents(FOLDER / f"kubernetes/{name}.yaml")
    spec = ray_spec(document)
    assert spec["rayVersion"] == PINNED["ray"]
    assert "token" in str(everything(spec, "env"))
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert groups["gpu"]["minReplicas"] == groups["gpu"]["replicas"] == 0
    assert all(g["minReplicas"] <= g["replicas"] <= g["maxReplicas"] for g in groups.values())
    gpus = {name: "nvidia.com/gpu" in str(everything(group, "requests")) for name, group in groups.items()}
    assert gpus == {"cpu": False, "gpu": True}


@pytest.mark.parametrize("name", ["rayjob", "raycronjob", "cronjob"])
def test_jobs_call_the_program_as_it_is(name):
    (document,) = documents(FOLDER / f"kubernetes/{name}.yaml")
    if name == "cronjob":
        (container,) = everything(document, "containers")[0]
        words = [*container["command"], *container["args"]]
        words = ["hubbub", *words[words.index("--") + 1 :]]
        assert document["spec"]["concurrencyPolicy"] == "Forbid"
    else:
        (entrypoint,) = everything(document, "entrypoint")
        words = entrypoint.split()
    assert words[0] == "hubbub"
    assert words[1] in VERBS
    from pipelines.cli.stages import parse

    given = [f"--corpus.manifests={ROOT}" if w.startswith("--corpus.manifests=") else w for w in words[2:]]
    parsed = parse(words[1], given)
    assert parsed.store.startswith("s3://")
    if name != "cronjob":
        assert parsed.ray_address == "auto"
    schedule = document["spec"].get("schedule")
    assert (schedule is None) == (name == "rayjob")
    assert schedule is None or len(schedule.split()) == 5


@pytest.mark.parametrize("name", ["ray-up-aws.yaml", "ray-up-local.yaml"])
def test_ray_up_accepts_its_files(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((FOLDER / name).read_text())
    if name == "ray-up-local.yaml":
        assert "RAY_AUTH_MODE=token" in str(config)
    validate_config(prepare_config(config))


def test_the_slurm_script_is_a_script_and_hands_its_arguments_on():
    path = FOLDER / "slurm.sh"
    assert subprocess.run(["bash", "-n", path], capture_output=True).returncode == 0
    assert 'hubbub "$@" --ray-address "$address"' in path.read_text()


def test_the_image_installs_what_is_pinned():
    text = (FOLDER / "Dockerfile").read_text()
    assert f"python:{'.'.join(PYTHON)}" in text
    assert "-c constraints.txt" in text
    for source in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())
    extras = re.search(r'"\.\[(.+)\]"', text).group(1).split(",")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) <= known.keys()


def test_everything_that_setup_installs_is_pinned():
    pins = {canonicalize_name(name): version for name, version in PINNED.items()}
    missing, seen = {}, set()
    queue = [("hubbub", extra) for extra in ("", "dev", "demo", "lyra", "align", "codecs", "cluster")]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            wanted = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another platform's, or an optional one that is not installed
            continue
        version = metadata.version(name).split("+")[0]
        if name != "hubbub" and pins.get(name) != version:
            missing[name] = version
        for requirement in map(Requirement, wanted):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                depended = canonicalize_name(requirement.name)
                queue += [(depended, one) for one in ("", *requirement.extras)]
    assert len(seen) > 100
    assert not missing, (
        "installed, but not so in constraints.txt: write `pip freeze --all --exclude pip --exclude-editable` there"
    )


PYTHON = ("3", "11")


def test_no_manifest_holds_a_credential():
    for path in [*Path(FOLDER).rglob("*.yaml"), *Path(FOLDER).rglob("*.sh")]:
        assert not re.search(
            r"(password|secret|token)\s*[:=]\s*[\"']?[A-Za-z0-9]{12,}", path.read_text(), re.IGNORECASE
        )
