"""Attention over a static cache: both ways are the same, and what is beyond a row's length counts for nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.speech_lm.decode.attention import _tried, attend, bias_of, disagreement

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_heads_that_share_keys_can_be_queries_of_one(groups):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 8, 16, generator=generator)
    keys, values = (torch.randn(3, 20, groups, 16, generator=generator) for _ in range(2))
    lengths = torch.tensor([1, 20, 7])
    bias = bias_of(lengths - 1, 20, torch.float32)
    plain, folded = (attend(q, keys, values, bias, folded=way) for way in (False, True))
    torch.testing.assert_close(plain, folded)
    shared = q.view(3, groups, -1, 16)
    for row, length in enumerate(lengths.tolist()):
        scores = torch.einsum("ghd,lgd->ghl", shared[row], keys[row, :length]) / 4
        expected = torch.einsum("ghl,lgd->ghd", scores.softmax(dim=-1), values[row, :length])
        torch.testing.assert_close(plain[row], expected.flatten(0, 1))


def python(*arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, env=kept | environment
    )


def test_interpreted_the_kernel_is_sdpa():
    pytest.importorskip("triton", reason="no Triton here: it is for Linux only")
    file = "tests/models/speech_lm/decode/interpreted_attention.py"
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", file, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from models.speech_lm.decode import attention_kernels as k

sizes = {"ROWS": 16, "WIDTH": 64, "COLUMNS": 64, "PARTS": 32}
kinds = {"lengths": "*i64", "scale": "fp32"} | dict.fromkeys(("sums", "tops", "weights"), "*fp32")
kinds |= dict.fromkeys(("q", "new_keys", "new_values", "keys", "values", "out"), "*bf16")
kinds |= dict.fromkeys(sizes, "constexpr")
for name in ("_attend_part", "_add_parts"):
    kernel = getattr(k, name)
    used = {arg: sizes[arg] for arg in kernel.arg_names if arg in sizes}
    source = ASTSource(kernel, {arg: kinds.get(arg, "i32") for arg in kernel.arg_names}, used)
    print(name, len(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]))
"""


def test_the_kernel_compiles_for_an_h100(tmp_path):
    pytest.importorskip("triton", reason="no Triton here: it is for Linux only")
    done = python("-c", COMPILE, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [int(line.split()[-1]) > 1000 for line in done.stdout.splitlines()] == [True, True]


def test_a_device_where_the_kernel_fails_attends_by_sdpa_with_one_warning(monkeypatch):
    with pytest.warns(UserWarning, match="decoding on cuda:7 attends by SDPA") as given:
        assert [_tried("cuda:7", 4, 2, 16) for _ in range(2)] == [None, None]  # there is none
    assert len(given) == 1
    monkeypatch.setenv("HUBBUB_KERNELS", "plain")
    assert _tried("cuda:8", 4, 2, 16) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, to run the kernel")
def test_on_a_gpu_the_kernel_is_used_and_is_sdpa():
    for heads, groups, width in ((16, 8, 64), (32, 8, 128), (4, 4, 32)):
        kernel = _tried("cuda:0", heads, groups, width)
        assert kernel is not None
        for rows in (1, 32, 96):
            assert disagreement(kernel, "cuda:0", (rows, heads, groups, width), torch.bfloat16) < 0.03
