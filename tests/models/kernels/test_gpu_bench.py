"""The benchmark for a GPU runs without one, so that it is right where there is one."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.bench import clocks, gpu

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_it_measures_all_sides_on_the_same_documents():
    pytest.importorskip("transformers", reason="transformers (extra `codecs`) is not installed")
    command = [sys.executable, "-m", "tests.bench.gpu", "tiny", "--capacity", "256", "--steps", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    found = result["tiny"]
    assert min(found["tokens_per_s"], found["transformers_tokens_per_s"], found["over_transformers"]) > 0
    assert found["rounds"] >= 5
    for rates in (found["spreads"]["ours"], found["spreads"]["transformers"], found["spreads"]["over"]["plain"]):
        assert 0 < rates["low"] <= rates["median"] <= rates["high"]
    assert result["torch"] == torch.__version__
    # Of 256 columns 32,768 logits each are made: the loss is most of a tiny model's work.
    assert 0.5 < found["loss_share_of_flops"] < 1
    assert found["parameters"] > 2 * found["text_size"] * 128


def test_every_pack_is_full():
    for capacity in (256, 2048):
        packs = gpu.packs_of(8, capacity)
        assert len(packs) == 8
        for pack in packs:
            assert gpu.FULL * capacity <= sum(one.num_columns for one in pack) <= capacity


def test_transformers_sees_the_same_documents_padded_and_packed(monkeypatch):
    pytest.importorskip("transformers", reason="transformers (extra `codecs`) is not installed")
    monkeypatch.setattr(gpu, "TEXT_SIZE", 2000)
    packs = gpu.packs_of(2, 256)
    padded = gpu.Padded("tiny", packs, "cpu", recompute=False)
    packed = gpu.Packed("tiny", packs, "cpu", recompute=False)
    packed.model.load_state_dict(padded.model.state_dict())
    for number in range(2):
        assert float(packed.loss(number).detach()) == pytest.approx(float(padded.loss(number).detach()), rel=1e-5)
    # As one document it is another loss: the equality above is of the borders.
    packed.batches[0]["position_ids"] = torch.arange(packed.batches[0]["input_ids"].shape[1])[None]
    assert abs(float(packed.loss(0).detach()) / float(padded.loss(0).detach()) - 1) > 1e-4


def test_works_have_turns_and_are_timed_apart():
    called = []

    def slow():
        called.append("slow")
        time.sleep(0.02)

    times = clocks.in_turn({"slow": slow, "fast": lambda: called.append("fast")}, "cpu", rounds=3, calls=2, warm=1)
    assert called == [*["slow"] * 3, *["fast"] * 6, *["slow"] * 6, *["fast"] * 3]
    assert all(len(one.wall_s) == 3 for one in times.values())
    assert min(times["slow"].wall_s) >= 0.02 > max(times["fast"].wall_s)


def test_a_device_that_waits_for_the_host_is_not_busy():
    x = torch.randn(400, 400)

    def works():
        for _ in range(5):
            torch.mm(x, x)

    def waits():
        works()
        time.sleep(0.2)

    assert clocks.busy(waits, "cpu").share < 0.5
    assert clocks.busy(works, "cpu").share > clocks.busy(waits, "cpu").share


def test_peak_memory_is_that_of_the_work():
    assert clocks.peak_memory(lambda: torch.ones(64, 2**20), "cpu") == pytest.approx(4 * 64 * 2**20, rel=0.2)
