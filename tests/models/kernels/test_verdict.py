"""Which kernels a GPU uses: the right and faster ones, tried once by device and versions."""

import json
import types

import pytest
import torch

from models.kernels import fused, verdict

CPU = torch.device("cpu")


@pytest.fixture
def kernels(monkeypatch, tmp_path):
    """Kernels of which the norm is slower than torch's own; every trial is counted."""
    pytest.importorskip("triton", reason="no Triton here: it is for Linux only")
    monkeypatch.setenv("HUBBUB_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "kernels.py"
    source.write_text("one")
    made = types.SimpleNamespace(__file__=str(source), trials=[], failures=[])
    times = {"norm": (0.66, 0.35), "swiglu": (0.28, 0.63), "heads": (1.0, 1.0)}
    monkeypatch.setattr(verdict, "disagreements", lambda *_: made.trials.append("right") or made.failures)
    monkeypatch.setattr(verdict, "compared", lambda *_: made.trials.append("fast") or times.items())
    return made


def test_a_kernel_that_is_slower_is_not_used_and_the_trial_is_remembered(kernels, tmp_path):
    first = verdict.verdict(kernels, CPU)
    assert first.faster == ("swiglu", "heads")
    assert verdict.verdict(kernels, CPU) == first
    assert kernels.trials == ["right", "fast"]
    (file,) = (tmp_path / "cache/kernels").iterdir()
    file.write_text(file.read_text()[:20])  # a torn file is no verdict
    assert verdict.verdict(kernels, CPU) == first
    assert kernels.trials == ["right", "fast"] * 2


def test_other_kernels_or_another_torch_are_tried_anew(kernels, tmp_path, monkeypatch):
    verdict.verdict(kernels, CPU)
    (tmp_path / "kernels.py").write_text("two")
    verdict.verdict(kernels, CPU)
    monkeypatch.setattr(torch, "__version__", "9.9")
    verdict.verdict(kernels, CPU)
    assert len(kernels.trials) == 6


def test_a_wrong_kernel_is_not_timed_and_none_is_used(kernels, tmp_path):
    kernels.failures = ["norm: off"]
    assert verdict.verdict(kernels, CPU).faster == ()
    assert kernels.trials == ["right"]
    (file,) = (tmp_path / "cache/kernels").iterdir()
    assert json.loads(file.read_text())["failures"] == ["norm: off"]


def test_only_the_faster_ones_serve_an_operation(kernels, monkeypatch):
    class OnCuda:
        device, dtype = torch.device("cuda:0"), torch.bfloat16

    fused.tried_kernels.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    assert fused.gpu_kernels(OnCuda, "norm") is None
    assert fused.gpu_kernels(OnCuda, "swiglu") is not None
    fused.tried_kernels.cache_clear()
    monkeypatch.setenv("HUBBUB_KERNELS", "all")
    assert fused.gpu_kernels(OnCuda, "norm") is not None
    fused.tried_kernels.cache_clear()
