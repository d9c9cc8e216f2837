"""Trainings in a row by the real program: killed in any of them, the bytes are those of a run that never was."""

import json
import os
import signal
import subprocess
import time

import pytest

from tests.conftest import write_corpus
from tests.pipelines.support import ROOT, command, hubbub, write_recipe

pytestmark = pytest.mark.slow

PHASES = """
phases:
- {name: one-talker, tasks: [asr], min_speakers: 1, max_speakers: 1, only: [projector, tokens], steps: 40, lr: 1.0e-2}
- {name: mixtures, only: [projector, tokens, lora], steps: 40}
"""


def trainings(output):
    """Lines of metrics of each training there, the oldest first."""
    found = sorted(output.glob("checkpoints/*/depends.json"), key=lambda path: path.stat().st_mtime_ns)
    paths = [path.with_name("metrics.jsonl") for path in found]
    return [path.read_text().splitlines() if path.exists() else [] for path in paths]


def kill_in_phase(number, arguments, output):
    """Start the program and kill it when a training has done some of its steps; return whether it had not ended."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command(*arguments), cwd=ROOT, start_new_session=True, **silent)
    try:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and process.poll() is None:
            done = trainings(output)
            if len(done) > number and len(done[number]) > 12:
                os.kill(process.pid, signal.SIGKILL)
                return True
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    return False


def bytes_of(output):
    """Weights of the last checkpoint of each training, in order, and the transcripts' root."""
    found = sorted(output.glob("checkpoints/*/depends.json"), key=lambda path: path.stat().st_mtime_ns)
    return [(path.parent / "step-000040/model.safetensors").read_bytes() for path in found]


@pytest.mark.timeout(1500)
def test_killed_in_each_phase_the_bytes_are_those_of_a_run_never_stopped(tmp_path):
    recipe = write_recipe(tmp_path / "recipe.yaml", write_corpus(tmp_path / "corpus"))
    text = recipe.read_text().replace("ffn_dim: 64", "ffn_dim: 64, lora_rank: 4").replace("every: 20", "every: 10")
    recipe.write_text(text + PHASES)
    arguments = ("run", recipe, "--workers", 1)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    hubbub(*arguments, "--output", whole)
    assert [kill_in_phase(number, (*arguments, "--output", cut), cut) for number in (0, 1)] == [True, True]
    done = hubbub(*arguments, "--output", cut)
    assert "cpWER" in done.stdout
    assert bytes_of(cut) == bytes_of(whole)
    assert len(set(bytes_of(whole))) == 2
    first, last = (json.loads(lines[0])["lr"] for lines in trainings(whole))
    assert first == pytest.approx(5 * last)  # 1e-2 and the recipe's 2e-3, at the first step of warm-up

    checkpoint = max(whole.glob("checkpoints/*/depends.json"), key=lambda path: path.stat().st_mtime_ns).parent
    lineage = json.loads(hubbub("lineage", checkpoint / "step-000040", "--json").stdout)
    assert lineage["started_from"]["step"] == 40
    assert hubbub("plan", recipe, "--output", whole).stdout.count("phase ") == 2
    kept = (whole / "recipe.json").read_bytes()
    hubbub("evaluate", recipe, "--output", whole, "--checkpoint", whole)
    assert (whole / "recipe.json").read_bytes() == kept  # an evaluation leaves the trained phase's recipe
    other = hubbub("run", recipe, "--output", whole, "--seed", 5, check=False)
    assert (other.returncode, "belongs to another recipe (seed" in other.stderr) == (2, True)
