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
MANIFESTS = sorted((FOLDER / "kubernetes").glob("*.yaml"))
KINDS = {
    "RayCluster": "ray.io/v1",
    "RayJob": "ray.io/v1",
    "RayCronJob": "ray.io/v1",
    "CronJob": "batch/v1",
    "Deployment": "apps/v1",
    "Service": "v1",
    "PersistentVolumeClaim": "v1",
}


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
