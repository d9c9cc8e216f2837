"""The kernels of a GPU, without one: run by Triton's interpreter, and compiled for an H100 by Triton's compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.kernels import fused

pytest.importorskip("triton", reason="no Triton here: it is for Linux only")
ROOT = Path(__file__).parents[3]


def python(*arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, env=kept | environment
    )


def test_interpreted_each_is_its_plain_reference():
    file = "tests/models/kernels/interpreted_kernels.py"
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", file, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout
    assert "16 passed" in done.stdout


def test_a_device_where_they_fail_falls_back(monkeypatch, caplog):
    fused.tried_kernels.cache_clear()
    assert fused.tried_kernels("cuda:7") is None  # there is none
    assert "not using Triton kernels on cuda:7" in caplog.text
    monkeypatch.setenv("HUBBUB_KERNELS", "plain")
    fused.tried_kernels.cache_clear()
    caplog.clear()
    assert fused.tried_kernels("cuda:7") is None
    assert not caplog.text
    fused.tried_kernels.cache_clear()


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from models.kernels import triton_kernels as k

whole = {"width", "num_rows", "half", "num_q", "num_k", "vocab_size"}
exact = {"weight", "inverse", "of_weight", "of_weights", "q_weight", "k_weight", "cos", "sin", "shares", "losses"}
sizes = {"BLOCK": 1024, "BLOCK_H": 16, "BLOCK_D": 32, "ENTRIES": 16, "NORMED": True, "GRADIENT": True}
for dtype in ("bf16", "fp32"):
    for name in ("_norm_forward", "_norm_backward", "_heads_forward", "_heads_backward", "_swiglu_forward",
                 "_swiglu_backward", "_bag_sum", "_cross_entropy"):
        kernel = getattr(k, name)
        kinds = {}
        for arg in kernel.arg_names:
            kinds[arg] = (
                "constexpr" if arg in sizes else "i32" if arg in whole else "fp32" if arg in ("eps", "z_weight")
                else "*i64" if arg in ("ids", "ends", "targets") else "*fp32" if arg in exact else "*" + dtype
            )
        used = {arg: sizes[arg] for arg in kernel.arg_names if arg in sizes}
        compiled = triton.compile(ASTSource(kernel, kinds, used), target=GPUTarget("cuda", 90, 32))
        print(name, dtype, len(compiled.asm["cubin"]))
"""


def test_each_compiles_for_an_h100(tmp_path):
    done = python("-c", COMPILE, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    sizes = [int(line.split()[-1]) for line in done.stdout.splitlines()]
    assert len(sizes) == 16
    assert min(sizes) > 1000
