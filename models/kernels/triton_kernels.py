"""RMSNorm, rotary embedding, SwiGLU, embedding sums and cross-entropy as Triton kernels, each with its gradient.

They compute on a GPU what `fused` computes on a CPU; each reads its input once and writes its result once. Values and
gradients are tested under Triton's interpreter, and compilation for an H100 is tested too
(tests/models/kernels/test_triton_kernels.py). `fused` imports this module on a GPU and uses it after `kernel_trial`.

Reductions over rows are one partial sum per program, added up in order: no atomics, so that results are reproducible to
the bit.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,type-arg,untyped-decorator"

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

_PROGRAMS = 512
"""Programs that rows are divided among where each makes a partial sum: several per multiprocessor of a GPU."""


@triton.jit
def _norm_forward(x, weight, out, inverse, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    value = tl.load(x + row * width + at, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, axis=0) / width + eps)
    tl.store(inverse + row, scale)
    factor = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (value * scale * factor).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _norm_backward(x, weight, inverse, gradient, of_x, of_weight, num_rows, width, BLOCK: tl.constexpr):
    program, step = tl.program_id(0), tl.num_programs(0)
    at = tl.arange(0, BLOCK)
    inside = at < width
    factor = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for number in range(program, num_rows, step):
        row = tl.cast(number, tl.int64)
        scale = tl.load(inverse + row)
        scaled = tl.load(x + row * width + at, mask=inside, other=0.0).to(tl.float32) * scale
        slope = tl.load(gradient + row * width + at, mask=inside, other=0.0).to(tl.float32)
        total += slope * scaled
        slope *= factor
        mean = tl.sum(slope * scaled, axis=0) / width
        result = (slope - scaled * mean) * scale
        tl.store(of_x + row * width + at, result.to(of_x.dtype.element_ty), mask=inside)
    tl.store(of_weight + program * width + at, total, mask=inside)


@triton.jit
def _rotation(cos, sin, row, i, half, rotated, inside):
    """Return the cosines and sines of a row's position; 1 and 0 for values, which are not rotated."""
    c = tl.load(cos + row * half + i, mask=inside, other=1.0).to(tl.float32)
    s = tl.load(sin + row * half + i, mask=inside, other=0.0).to(tl.float32)
    return tl.where(rotated, c, 1.0), tl.where(rotated, s, 0.0)


@triton.jit
def _scale(q_weight, k_weight, i, h, num_q, rotated, inside):
    """Return the weight of each head's norm; 1 for values, which are not normed."""
    q = tl.load(q_weight + i, mask=inside, other=0.0).to(tl.float32)
    k = tl.load(k_weight + i, mask=inside, other=0.0).to(tl.float32)
    return tl.where(rotated, tl.where(h < num_q, q, k), 1.0)


@triton.jit
def _heads_forward(
    qkv,
    q_weight,
    k_weight,
    cos,
    sin,
    q,
    k,
    v,
    half,
    num_q,
    num_k,
    eps,
    NORMED: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    h, i = tl.arange(0, BLOCK_H)[:, None], tl.arange(0, BLOCK_D)[None, :]
    total, width = num_q + 2 * num_k, 2 * half
    inside, rotated = (h < total) & (i < half), h < num_q + num_k
    begin = qkv + (row * total + h) * width + i
    first = tl.load(begin, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(begin + half, mask=inside, other=0.0).to(tl.float32)
    if NORMED:
        mean = (tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)) / width
        inverse = tl.where(rotated, (1.0 / tl.sqrt(mean + eps))[:, None], 1.0)
        first *= inverse * _scale(q_weight, k_weight, i, h, num_q, rotated, i < half)
        second *= inverse * _scale(q_weight + half, k_weight + half, i, h, num_q, rotated, i < half)
    c, s = _rotation(cos, sin, row, i, half, rotated, i < half)
    one, other = first * c - second * s, first * s + second * c
    kind = q.dtype.element_ty
    is_q, is_k, is_v = h < num_q, (h >= num_q) & rotated, (h >= num_q + num_k) & (h < total)
    at_q = q + (row * num_q + h) * width + i
    at_k = k + (row * num_k + h - num_q) * width + i
    at_v = v + (row * num_k + h - num_q - num_k) * width + i
    tl.store(at_q, one.to(kind), mask=inside & is_q)
    tl.store(at_q + half, other.to(kind), mask=inside & is_q)
    tl.store(at_k, one.to(kind), mask=inside & is_k)
    tl.store(at_k + half, other.to(kind), mask=inside & is_k)
    tl.store(at_v, one.to(kind), mask=inside & is_v)
    tl.store(at_v + half, other.to(kind), mask=inside & is_v)


@triton.jit
def _heads_backward(
    qkv,
    q_weight,
    k_weight,
    cos,
    sin,
    of_q,
    of_k,
    of_v,
    of_qkv,
    of_weights,
    num_rows,
    half,
    num_q,
    num_k,
    eps,
    NORMED: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    program, step = tl.program_id(0), tl.num_programs(0)
    h, i = tl.arange(0, BLOCK_H)[:, None], tl.arange(0, BLOCK_D)[None, :]
    column = tl.arange(0, BLOCK_D)
    total, width = num_q + 2 * num_k, 2 * half
    inside, rotated = (h < total) & (i < half), h < num_q + num_k
    is_q, is_k, is_v = h < num_q, (h >= num_q) & rotated, (h >= num_q + num_k) & (h < total)
    sum_q1, sum_q2 = tl.zeros((BLOCK_D,), tl.float32), tl.zeros((BLOCK_D,), tl.float32)
    sum_k1, sum_k2 = tl.zeros((BLOCK_D,), tl.float32), tl.zeros((BLOCK_D,), tl.float32)
    for number in range(program, num_rows, step):
        row = tl.cast(number, tl.int64)
        at_q = of_q + (row * num_q + h) * width + i
        at_k = of_k + (row * num_k + h - num_q) * width + i
        at_v = of_v + (row * num_k + h - num_q - num_k) * width + i
        one = tl.load(at_q, mask=inside & is_q, other=0.0).to(tl.float32)
        one += tl.load(at_k, mask=inside & is_k, other=0.0).to(tl.float32)
        one += tl.load(at_v, mask=inside & is_v, other=0.0).to(tl.float32)
        other = tl.load(at_q + half, mask=inside & is_q, other=0.0).to(tl.float32)
        other += tl.load(at_k + half, mask=inside & is_k, other=0.0).to(tl.float32)
        other += tl.load(at_v + half, mask=inside & is_v, other=0.0).to(tl.float32)
        c, s = _rotation(cos, sin, row, i, half, rotated, i < half)
        first, second = one * c + other * s, other * c - one * s
        if NORMED:
            begin = qkv + (row * total + h) * width + i
            x1 = tl.load(begin, mask=inside, other=0.0).to(tl.float32)
            x2 = tl.load(begin + half, mask=inside, other=0.0).to(tl.float32)
            mean = (tl.sum(x1 * x1, axis=1) + tl.sum(x2 * x2, axis=1)) / width
            inverse = (1.0 / tl.sqrt(mean + eps))[:, None]
            x1 *= inverse
            x2 *= inverse
            sum_q1 += tl.sum(tl.where(is_q, first * x1, 0.0), axis=0)
            sum_q2 += tl.sum(tl.where(is_q, second * x2, 0.0), axis=0)
            sum_k1 += tl.sum(tl.where(is_k, first * x1, 0.0), axis=0)
            sum_k2 += tl.sum(tl.where(is_k, second * x2, 0.0), axis=0)
            scaled1 = first * _scale(q_weight, k_weight, i, h, num_q, rotated, i < half)
            scaled2 = second * _scale(q_weight + half, k_weight + half, i, h, num_q, rotated, i < half)
            product = ((tl.sum(scaled1 * x1, axis=1) + tl.sum(scaled2 * x2, axis=1)) / width)[:, None]
            first = tl.where(rotated, (scaled1 - x1 * product) * inverse, first)
            second = tl.where(rotated, (scaled2 - x2 * product) * inverse, second)
        end = of_qkv + (row * total + h) * width + i
        tl.store(end, first.to(of_qkv.dtype.element_ty), mask=inside)
        tl.store(end + half, second.to(of_qkv.dtype.element_ty), mask=inside)
    if NORMED:
        place = of_weights + program * 4 * half + column
        tl.store(place, sum_q1, mask=column < half)
        tl.store(place + half, sum_q2, mask=column < half)
        tl.store(place + 2 * half, sum_k1, mask=column < half)
        tl.store(place + 3 * half, sum_k2, mask=column < half)


@triton.jit
def _swiglu_forward(gate_up, out, width, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gate = tl.load(gate_up + row * 2 * width + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + (row * 2 + 1) * width + at, mask=inside, other=0.0).to(tl.float32)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * width + at, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_backward(gate_up, gradient, out, width, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gate = tl.load(gate_up + row * 2 * width + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + (row * 2 + 1) * width + at, mask=inside, other=0.0).to(tl.float32)
    slope = tl.load(gradient + row * width + at, mask=inside, other=0.0).to(tl.float32)
    open_share = 1.0 / (1.0 + tl.exp(-gate))
    of_gate = slope * up * open_share * (1.0 + gate * (1.0 - open_share))
    of_up = slope * gate * open_share
    tl.store(out + row * 2 * width + at, of_gate.to(out.dtype.element_ty), mask=inside)
    tl.store(out + (row * 2 + 1) * width + at, of_up.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _bag_sum(table, ids, ends, out, width, ENTRIES: tl.constexpr, BLOCK: tl.constexpr):
    """Sum the rows of a table that each bag's ids index; a bag's ids end where the next bag's begin."""
    bag, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    begin = tl.load(ends + bag - 1, mask=bag > 0, other=0)
    end = tl.load(ends + bag)
    total = tl.zeros((ENTRIES, BLOCK), tl.float32)
    for start in range(begin, end, ENTRIES):
        entry = start + tl.arange(0, ENTRIES)
        row = tl.load(ids + entry, mask=entry < end, other=0).to(tl.int64)
        inside = (entry < end)[:, None] & (at < width)[None, :]
        total += tl.load(table + row[:, None] * width + at[None, :], mask=inside, other=0.0).to(tl.float32)
    result = tl.sum(total, axis=0)
    tl.store(out + bag * width + at, result.to(out.dtype.element_ty), mask=at < width)


@triton.jit
def _cross_entropy(logits, targets, shares, losses, vocab_size, z_weight, GRADIENT: tl.constexpr, BLOCK: tl.constexpr):
    """Write a cell's loss and, if GRADIENT, overwrite its logits with their gradient."""
    cell = tl.program_id(0).to(tl.int64)
    begin = logits + cell * vocab_size
    target, share = tl.load(targets + cell), tl.load(shares + cell)
    chosen = tl.load(begin + target).to(tl.float32)
    at = tl.arange(0, BLOCK)
    peak, mass = tl.full((), float("-inf"), tl.float32), tl.zeros((), tl.float32)
    for start in range(0, vocab_size, BLOCK):
        value = tl.load(begin + start + at, mask=start + at < vocab_size, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(peak, tl.max(value, axis=0))
        mass = mass * tl.exp(peak - higher) + tl.sum(tl.exp(value - higher), axis=0)
        peak = higher
    level = peak + tl.log(mass)
    tl.store(losses + cell, (level - chosen + z_weight * level * level) * share)
    if GRADIENT:
        tl.debug_barrier()  # all threads have read the target's logit
        scale = share * (1.0 + 2.0 * z_weight * level)
        for start in range(0, vocab_size, BLOCK):
            inside = start + at < vocab_size
            value = tl.load(begin + start + at, mask=inside, other=float("-inf")).to(tl.float32)
            slope = tl.exp(value - level) * scale - tl.where(start + at == target, share, 0.0)
            tl.store(begin + start + at, slope.to(logits.dtype.element_ty), mask=inside)


def _out_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the type of a result: under autocast that of the next matrix product, else that of the input."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def _warps(block: int) -> int:
    return min(16, max(1, block // 512))


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        x = x.contiguous()
        rows, block = x.numel() // x.shape[-1], triton.next_power_of_2(x.shape[-1])
        out = torch.empty_like(x, dtype=_out_dtype(x))
        inverse = x.new_empty(rows, dtype=torch.float32)
        if rows:
            _norm_forward[(rows,)](x, weight, out, inverse, x.shape[-1], eps, BLOCK=block, num_warps=_warps(block))
        ctx.save_for_backward(x, weight, inverse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        width, rows = x.shape[-1], len(inverse)
        block, programs = triton.next_power_of_2(width), max(1, min(_PROGRAMS, rows))
        of_x, of_weight = torch.empty_like(x), x.new_empty(programs, width, dtype=torch.float32)
        _norm_backward[(programs,)](
            x,
            weight,
            inverse,
            gradient.contiguous(),
            of_x,
            of_weight,
            rows,
            width,
            BLOCK=block,
            num_warps=_warps(block),
        )
        return of_x, of_weight.sum(0).to(weight.dtype), None


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        q_weight: torch.Tensor | None,
        k_weight: torch.Tensor | None,
        cos: torch.Tensor,
        sin: torch.Tensor,
        counts: tuple[int, int],
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        qkv, cos, sin = qkv.contiguous(), cos.contiguous(), sin.contiguous()
        (num_q, num_k), rows = counts, qkv.numel() // qkv.shape[-1]
        width = qkv.shape[-1] // (num_q + 2 * num_k)
        places = [qkv.new_empty(*qkv.shape[:-1], number, width) for number in (num_q, num_k, num_k)]
        blocks = {
            "BLOCK_H": triton.next_power_of_2(num_q + 2 * num_k),
            "BLOCK_D": triton.next_power_of_2(width // 2),
        }
        ctx.launch = {**blocks, "NORMED": q_weight is not None, "num_warps": _warps(2 * blocks["BLOCK_H"] * width)}
        ctx.sizes = rows, width // 2, num_q, num_k, eps
        ctx.save_for_backward(qkv, q_weight, k_weight, cos, sin)
        if rows:
            weights = (qkv if weight is None else weight for weight in (q_weight, k_weight))
            _heads_forward[(rows,)](qkv, *weights, cos, sin, *places, width // 2, num_q, num_k, eps, **ctx.launch)
        return places[0], places[1], places[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        qkv, q_weight, k_weight, cos, sin = ctx.saved_tensors
        rows, half = ctx.sizes[:2]
        programs = max(1, min(_PROGRAMS, rows))
        out = torch.empty_like(qkv)
        of_weights = qkv.new_empty(programs, 4 * half, dtype=torch.float32)
        weights = (qkv if weight is None else weight for weight in (q_weight, k_weight))
        _heads_backward[(programs,)](
            qkv, *weights, cos, sin, *(one.contiguous() for one in gradients), out, of_weights, *ctx.sizes, **ctx.launch
        )
        if q_weight is None:
            return out, None, None, None, None, None, None
        of_q, of_k = of_weights.sum(0).chunk(2)
        return out, of_q.to(q_weight.dtype), of_k.to(k_weight.dtype), None, None, None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: torch.Tensor) -> torch.Tensor:
        gate_up = gate_up.contiguous()
        width = gate_up.shape[-1] // 2
        out = gate_up.new_empty(*gate_up.shape[:-1], width)
        ctx.save_for_backward(gate_up)
        if out.numel():
            _swiglu_forward[(out.numel() // width, triton.cdiv(width, 1024))](gate_up, out, width, BLOCK=1024)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (gate_up,) = ctx.saved_tensors
        width = gate_up.shape[-1] // 2
        out = torch.empty_like(gate_up)
        if out.numel():
            grid = (gate_up.numel() // (2 * width), triton.cdiv(width, 1024))
            _swiglu_backward[grid](gate_up, gradient.contiguous(), out, width, BLOCK=1024)
        return out


def _summed(table: torch.Tensor, ids: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    out = table.new_empty(len(ends), table.shape[-1])
    if out.numel():
        grid = (len(ends), triton.cdiv(table.shape[-1], 128))
        _bag_sum[grid](table.contiguous(), ids, ends, out, table.shape[-1], ENTRIES=16, BLOCK=128)
    return out


class _EmbeddingSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, ids: torch.Tensor, frozen_rows: torch.Tensor) -> torch.Tensor:
        ctx.num_rows = len(table)
        ctx.save_for_backward(ids, frozen_rows)
        ends = torch.arange(1, len(ids) + 1, device=ids.device) * ids.shape[1]
        return _summed(table, ids.contiguous(), ends)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        ids, frozen_rows = ctx.saved_tensors
        # The gradient of a row of the table is a sum too: of the gradients of the outputs that contain the row. Frozen
        # rows, which may be in nearly every output, are left out.
        flat = ids.flatten()
        frozen = torch.zeros(ctx.num_rows, dtype=torch.bool, device=ids.device).index_fill_(0, frozen_rows, True)
        users = torch.where(frozen[flat], ctx.num_rows, flat)
        used_by = users.sort(stable=True).indices.div_(ids.shape[1], rounding_mode="floor")
        counts = torch.zeros(ctx.num_rows + 1, dtype=torch.int64, device=ids.device)
        counts.scatter_add_(0, users, torch.ones_like(users))
        return _summed(gradient.contiguous(), used_by, counts[:-1].cumsum(0)), None, None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Compute `models.kernels.fused.rms_norm`, with the same shapes, on a GPU."""
    out: torch.Tensor = _Norm.apply(x, weight, eps)
    return out


def heads(
    qkv: torch.Tensor,
    scales: tuple[torch.Tensor | None, ...],
    cos: torch.Tensor,
    sin: torch.Tensor,
    counts: tuple[int, int],
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute `models.kernels.fused.heads`, with the same shapes, on a GPU."""
    q, k, v = _Heads.apply(qkv, *scales, cos, sin, counts, eps)
    return q, k, v


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """Compute `models.kernels.fused.swiglu`, with the same shapes, on a GPU."""
    out: torch.Tensor = _SwiGLU.apply(gate_up)
    return out


def embedding_sum(table: torch.Tensor, ids: torch.Tensor, frozen_rows: torch.Tensor) -> torch.Tensor:
    """Compute `models.kernels.fused.embedding_sum`, with the same shapes, on a GPU."""
    out: torch.Tensor = _EmbeddingSum.apply(table, ids, frozen_rows)
    return out


def cross_entropy_(
    logits: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor, z_weight: float, *, gradient: bool
) -> torch.Tensor:
    """Return the weighted losses (C,) of cells with logits (C, V), which their gradient may overwrite.

    Args:
        logits: (C, V), contiguous.
        targets: (C,) ids, all in [0, V).
        shares: (C,) float32; weight of each cell's loss.
        z_weight: weight of the squared logarithm of each softmax's denominator.
        gradient: whether the logits are overwritten with the gradient of the sum of the losses.

    Source: Hsu et al. 2024, "Liger Kernel", arXiv:2410.10989, section 3.2; Milakov and Gimelshein 2018, "Online
    normalizer calculation for softmax", arXiv:1805.02867, algorithm 3.
    """
    losses = torch.empty_like(shares)
    if len(losses):
        block = min(4096, triton.next_power_of_2(logits.shape[-1]))
        _cross_entropy[(len(losses),)](
            logits,
            targets,
            shares,
            losses,
            logits.shape[-1],
            z_weight,
            GRADIENT=gradient,
            BLOCK=block,
            num_warps=_warps(block),
        )
    return losses
