"""What there is: versions, the device's measured ceilings, and what the defaults choose on it."""

import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from models.config.options import Training
from models.config.shape import SIZES
from models.kernels import fused
from models.speech_lm.attention.backends import available_backends, choose_backend
from models.speech_lm.flops import peak_flops
from models.speech_lm.precision import precision_of, type_of
from tests.bench.gpu_parts.runs import conversations, small_model, trained
from tests.bench.gpu_parts.setting import Figure, Setting

PACKAGES = ("triton", "transformers", "flash-attn", "liger-kernel", "cut-cross-entropy", "numba", "pyarrow")


def environment(setting: Setting) -> Iterator[Figure]:
    """Yield versions, and the rates of a matrix product and of a copy, which later parts are measured by."""
    yield Figure("device", torch.cuda.get_device_name() if setting.is_cuda else "cpu")
    yield Figure("python", sys.version.split()[0])
    yield Figure("torch", torch.__version__)
    for name in PACKAGES:
        try:
            yield Figure(name, version(name))
        except PackageNotFoundError:
            yield Figure(name, "not installed")
    if setting.is_cuda:
        free, total = torch.cuda.mem_get_info()
        yield Figure("memory free of total, GB", f"{free / 1e9:.1f} of {total / 1e9:.1f}")
    top = peak_flops(torch.device(setting.device))
    least = 0.6 * top / 1e12 if top else None
    yield setting.speed("matrix product bf16, TFLOP/s", setting.matmul_flop_per_s / 1e12, least=least)
    yield setting.speed("copy, TB/s", setting.bytes_per_s / 1e12)


def defaults(setting: Setting) -> Iterator[Figure]:
    """Yield what the defaults choose on the device, and whether a training with them runs."""
    precision = precision_of(setting.device)
    shape = SIZES["tiny"]
    yield Figure("precision", precision)
    yield Figure("attention there is", ", ".join(available_backends(setting.device)))
    yield Figure("attention", choose_backend(setting.device, "auto", type_of(precision), shape.head_dim))
    tried = fused.tried_kernels(f"{setting.device}:0") if setting.is_cuda else None
    faster = ", ".join(sorted(tried.faster)) if tried else ""
    used = "of a CPU" if not setting.is_cuda else f"Triton: {faster or 'none is faster'}" if tried else "plain torch"
    is_fine = tried is not None or not setting.is_cuda
    yield Figure("kernels", used, "Triton, on a GPU", is_fine, is_required=True)
    with tempfile.TemporaryDirectory() as folder:
        config = Training(steps=3, packs_per_step=2)
        records = trained(small_model(shape), conversations(4, 256), config, Path(folder), setting.device)
    yield setting.holds("a training runs", len(records) == 3 and all(record.loss > 0 for record in records))
