"""The house: layers, where packages come from, and what importing them drags in."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipelines", "operators", "models", "cluster")


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_are_those_of_this_repository(name):
    assert Path(importlib.import_module(name).__file__).is_relative_to(ROOT)


def test_layers_hold():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": ".", "PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


def test_operators_and_models_load_without_ray_mlflow_and_operators_without_torch_where_they_need_none():
    code = (
        "import sys; import operators.simulate.render, operators.simulate.converse, operators.corpus.manifest;"
        "import operators.store.dataset, models.codecs.dmel;"
        "print(sorted({'ray', 'mlflow', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_there_is_no_junk_drawer():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert path.stem not in ("utils", "common", "helpers", "base", "misc"), path
            assert len(path.read_text().splitlines()) <= 520, f"{path} is too long to read in one go"


def test_nothing_persisted_is_a_pickle():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            assert "import pickle" not in text, path
            assert "torch.save" not in text, path
            assert "torch.load" not in text, path
