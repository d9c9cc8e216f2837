"""Kernels, attention and the loss, one by one at real sizes: against float64, measured ceilings, and torch's own."""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from models.kernels import fused, plain
from models.kernels.loss import full_cross_entropy, linear_cross_entropy
from models.speech_lm.attention.backends import available_backends, why_not
from models.speech_lm.attention.packed import packed_attention
from models.speech_lm.flops import attention_pairs
from tests.bench.clocks import busy, in_turn, peak_memory, timed
from tests.bench.gpu_parts.setting import Figure, Setting, exact_float32, far

EPS = 1e-6
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Distance to float64 on the same inputs, relative to its norm; a gradient sums thousands of rounded products."""
Work = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """An operation with its plain reference."""

    name: str
    ours: Work
    plain: Work
    inputs: list[torch.Tensor]
    moved: int
    """Values that the forward and backward pass must read and write at least."""


def _draw(setting: Setting, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, device=setting.device, dtype=dtype).requires_grad_()


def _chosen(name: str, kind: plain.Kind) -> Work:
    """Return an operation as the model chooses it: fused where its input is supported, plain elsewhere."""

    def work(x: torch.Tensor, *rest: object) -> torch.Tensor | tuple[torch.Tensor, ...]:
        done: torch.Tensor = getattr(fused if fused.is_supported(x, kind) else plain, name)(x, *rest)
        return done

    return work


def _cases(setting: Setting, dtype: torch.dtype) -> Iterator[Case]:
    """Yield the operations at the sizes of a 0.6b model and a pack of 8,192 columns."""
    rows, dim, ffn, heads, kept, width = (64, 32, 48, 4, 2, 8) if setting.is_small else (8192, 1024, 3584, 16, 8, 64)
    streams = 8 if setting.is_small else 80
    yield Case(
        "rms_norm",
        lambda x, w: _chosen("rms_norm", "norm")(x, w, EPS),
        lambda x, w: plain.rms_norm(x, w, EPS),
        [_draw(setting, rows, dim, dtype=dtype), _draw(setting, dim)],
        5 * rows * dim,
    )
    angles = torch.rand(rows, 1, width // 2, device=setting.device) * 6
    cos, sin = angles.cos(), angles.sin()
    total = (heads + 2 * kept) * width
    yield Case(
        "heads",
        lambda x, q, k: _chosen("heads", "heads")(x, (q, k), cos, sin, (heads, kept), EPS),
        lambda x, q, k: plain.heads(x, (q, k), cos, sin, (heads, kept), EPS),
        [_draw(setting, rows, total, dtype=dtype), _draw(setting, width), _draw(setting, width)],
        5 * rows * total,
    )
    yield Case(
        "swiglu",
        _chosen("swiglu", "swiglu"),
        plain.swiglu,
        [_draw(setting, rows, 2 * ffn, dtype=dtype)],
        8 * rows * ffn,
    )
    offsets = torch.arange(streams, device=setting.device) * 17
    ids = torch.randint(0, 16, (rows, streams), device=setting.device) + offsets
    yield Case(
        "embedding_sum",
        lambda t: _chosen("embedding_sum", "embedding sum")(t, ids, offsets + 16),
        lambda t: plain.embedding_sum(t, ids, offsets + 16),
        [_draw(setting, streams * 17, dim, dtype=dtype)],
        2 * (rows + streams * 17) * dim,
    )
    cells, size = (48, 300) if setting.is_small else (2048, 151_936)
    targets = torch.randint(0, size, (cells, 1), device=setting.device)
    weights = torch.ones(cells, device=setting.device)
    yield Case(
        "cross_entropy",  # states 64 wide: the passes over the logits are what it costs
        lambda h, w: linear_cross_entropy(h, w, targets, weights),
        lambda h, w: full_cross_entropy(h, w.to(h.dtype), targets, weights),
        [_draw(setting, cells, 64, dtype=dtype), (_draw(setting, size, 64) * 0.3).detach().requires_grad_()],
        6 * cells * size,
    )


def _slopes(work: Work, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Draw gradients of a work's outputs; 1 for a loss."""
    out = work(*inputs)
    parts = [out] if isinstance(out, torch.Tensor) else list(out)
    return [torch.randn_like(one) if one.dim() else torch.ones_like(one) for one in (part.detach() for part in parts)]


def _results(work: Work, inputs: list[torch.Tensor], slopes: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return values and gradients of a work."""
    out = work(*inputs)
    parts = [out] if isinstance(out, torch.Tensor) else list(out)
    grads = torch.autograd.grad(parts, inputs, [slope.to(one) for slope, one in zip(slopes, parts, strict=True)])
    return [*(one.detach() for one in parts), *grads]


def kernels(setting: Setting) -> Iterator[Figure]:
    """Yield each kernel's distance to float64, its time beside what its bytes take, and torch's time by two clocks."""
    # Those too that a training would leave out, for torch's own are faster.
    os.environ["HUBBUB_KERNELS"] = "all"
    fused.tried_kernels.cache_clear()
    try:
        with exact_float32():
            for dtype in (torch.float32, torch.bfloat16):
                for case in _cases(setting, dtype):
                    yield from _kernel(setting, case, dtype)
    finally:
        del os.environ["HUBBUB_KERNELS"]
        fused.tried_kernels.cache_clear()


def _kernel(setting: Setting, case: Case, dtype: torch.dtype) -> Iterator[Figure]:
    name = f"{case.name} {'bf16' if dtype is torch.bfloat16 else 'float32'}"
    # Reference and kernel get the same inputs, rounded to the type.
    inputs = [one.detach().to(dtype).to(one.dtype).requires_grad_() for one in case.inputs]
    slopes = _slopes(case.ours, inputs)
    exact = _results(case.plain, [one.detach().double().requires_grad_() for one in inputs], slopes)
    off = [far(a, b) for a, b in zip(_results(case.ours, inputs, slopes), exact, strict=True)]
    yield setting.right(f"{name}: distance to float64", max(off), TOLERANCE[dtype])
    del exact

    def ours() -> None:
        _results(case.ours, inputs, slopes)

    def torchs() -> None:
        _results(case.plain, inputs, slopes)

    times = in_turn({"ours": ours, "torch": torchs}, setting.device, rounds=5, calls=3)
    # Where no profiler may look at the device, the gaps between kernels count too.
    mine, other = (
        busy(work, setting.device).kernel_s or median(times[which].device_s)
        for which, work in (("ours", ours), ("torch", torchs))
    )
    floor = case.moved * inputs[0].element_size() / setting.bytes_per_s
    yield Figure(f"{name}: kernels' time, us (that of its bytes)", f"{mine * 1e6:.1f} ({floor * 1e6:.1f})")
    yield setting.speed(f"{name}: share of the measured bandwidth", floor / mine, least=0.6)
    yield setting.speed(f"{name}: kernels' time over torch's", mine / other, most=1)
    wall = median(times["ours"].wall_s) / median(times["torch"].wall_s)
    yield setting.speed(f"{name}: wall time over torch's", wall, most=1)


def _documents(total: int) -> list[int]:
    """Return lengths of documents, a median of 300 columns with a long tail, that fill a pack."""
    rng, lengths = np.random.default_rng(0), []
    while total:
        length = min(total, int(np.clip(rng.lognormal(np.log(300), 0.8), 32, 4096)))
        lengths.append(length)
        total -= length
    return lengths


def attention(setting: Setting) -> Iterator[Figure]:
    """Yield each backend's distance to float64, forward and backward, and its rate; also with bidirectional prompts."""
    total, heads, kept = (192, 4, 2) if setting.is_small else (8192, 16, 8)
    lengths = [1, 37, total - 38] if setting.is_small else _documents(total)
    bounds = (0, *itertools.accumulate(lengths))
    borders = torch.tensor(bounds, dtype=torch.int32, device=setting.device)
    for width in (16,) if setting.is_small else (64, 128):
        drawn = [_draw(setting, total, number, width).detach().bfloat16() for number in (heads, kept, kept)]
        slope = torch.randn(total, heads, width, device=setting.device).bfloat16()
        for prompts in (None, tuple(length // 2 for length in lengths)):

            def results(backend: str, dtype: torch.dtype, given=prompts, values=drawn, at=slope) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
                inputs = [one.to(dtype).requires_grad_() for one in values]
                out = packed_attention(*inputs, borders, bounds, max(lengths), backend, given)
                return [out.detach(), *torch.autograd.grad(out, inputs, at.to(dtype))]

            exact = results("loop", torch.float64)
            flops = 12 * heads * width * attention_pairs(lengths, list(prompts) if prompts else None)
            for backend, dtype in itertools.product(available_backends(setting.device), TOLERANCE):
                name = f"{backend} {'bf16' if dtype is torch.bfloat16 else 'float32'}, {width} wide"
                name += ", bidirectional prompts" if prompts else ""
                if why_not(backend, dtype, width):
                    continue
                try:
                    with exact_float32():
                        off = [far(a, b) for a, b in zip(results(backend, dtype), exact, strict=True)]
                except Exception as error:  # a backend that fails is a figure; the others are measured all the same
                    # `choose_backend` takes the next one then: slower, not wrong.
                    yield Figure(f"{name}: runs", f"no: {type(error).__name__}: {error}"[:200], "yes", False)
                    continue
                yield setting.right(f"{name}: distance to float64", max(off), TOLERANCE[dtype])
                if dtype is torch.bfloat16:
                    cost = timed(lambda go=results, by=backend: go(by, torch.bfloat16), setting.device, rounds=5)
                    yield setting.speed(f"{name}: TFLOP/s, forward and backward", flops / median(cost.device_s) / 1e12)


def loss(setting: Setting) -> Iterator[Figure]:
    """Yield what the loss costs at the vocabulary of a Qwen3: time, memory, distance to float64; and its peers'."""
    rows, dim, size = (128, 32, 500) if setting.is_small else (8192, 1024, 151_936)
    hidden = _draw(setting, rows, dim, dtype=torch.bfloat16)
    matrix = (_draw(setting, size, dim) * 0.02).detach().requires_grad_()
    targets = torch.randint(0, size, (rows,), device=setting.device)
    weights = torch.ones(rows, device=setting.device)
    ways: dict[str, Work] = {
        "ours": lambda h, w: linear_cross_entropy(h, w, targets[: len(h), None], weights[: len(h)])
    }
    ways["all logits at once"] = lambda h, w: full_cross_entropy(
        h, w.to(h.dtype), targets[: len(h), None], weights[: len(h)]
    )
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        liger = LigerFusedLinearCrossEntropyLoss(reduction="sum")
        ways["liger-kernel"] = lambda h, w: liger(w.to(h.dtype), h, targets[: len(h)])
    except ImportError:
        yield Figure("liger-kernel", "not installed")
    try:
        from cut_cross_entropy import linear_cross_entropy as cut

        ways["cut-cross-entropy"] = lambda h, w: cut(h, w.to(h.dtype), targets[: len(h)], reduction="sum")
    except ImportError:
        yield Figure("cut-cross-entropy", "not installed")
    few, one = [hidden.detach()[:64].requires_grad_(), matrix], [torch.ones((), device=setting.device)]
    exact = _results(
        lambda h, w: full_cross_entropy(h, w, targets[:64, None], weights[:64].double()),
        [few[0].detach().double().requires_grad_(), matrix.detach().bfloat16().double().requires_grad_()],
        one,
    )
    flops = 6 * rows * dim * size
    for name, way in ways.items():
        try:
            off = [far(a, b) for a, b in zip(_results(way, few, one), exact, strict=True)]

            def work(by: Work = way) -> list[torch.Tensor]:
                return _results(by, [hidden, matrix], one)

            work()
            used = peak_memory(work, setting.device)
            cost = timed(work, setting.device, rounds=5)
        except Exception as error:  # a peer that fails is a figure
            yield setting.holds(f"{name}: runs", name != "ours", f"{type(error).__name__}: {error}"[:200])
            continue
        if name == "ours":
            yield setting.right("ours: distance to float64", max(off), TOLERANCE[torch.bfloat16])
        else:
            yield Figure(f"{name}: distance to float64", float(f"{max(off):.3g}"))
        yield setting.speed(f"{name}: ms, forward and backward", median(cost.wall_s) * 1e3)
        share = flops / median(cost.device_s) / setting.matmul_flop_per_s
        yield setting.speed(f"{name}: share of the matrix product's rate", share, least=0.5 if name == "ours" else None)
        yield setting.speed(f"{name}: peak memory, GB", used / 1e9)
