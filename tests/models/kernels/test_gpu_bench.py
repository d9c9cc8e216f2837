"""The benchmark for a GPU runs without one, so that it is right where there is one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_it_measures_both_sides_on_the_same_documents():
    command = [sys.executable, "-m", "tests.bench.gpu", "tiny", "--capacity", "256", "--steps", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])["tiny"]
    assert min(found["tokens_per_s"], found["transformers_tokens_per_s"], found["over_transformers"]) > 0
