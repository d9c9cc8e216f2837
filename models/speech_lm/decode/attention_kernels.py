"""Attention of one query a head to a static cache, as two Triton kernels: parts of the columns at once, then their sum.

A GPU has more processors than a few sequences have heads: alone, one kernel a head would leave most of it idle. Work
goes by a row's own length, not by the window. Source: Dao et al. 2023, "Flash-Decoding for long-context inference"
(crfm.stanford.edu/2023/10/12/flashdecoding.html); the sum is that of Milakov and Gimelshein 2018, arXiv:1805.02867.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import torch
import triton
import triton.language as tl

_COLUMNS = 64
_PROGRAMS = 512
"""How many are enough for a GPU: some four for each of the processors of an H100."""
_MOST_PARTS = 32


@triton.jit
def _attend_part(
    q, new_keys, new_values, keys, values, lengths, sums, tops, weights, scale, parts, groups, share, width,
    row_stride, column_stride, group_stride,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Attend with the heads that share keys to one part of a row's columns; keep sums, maxima and sums of weights.

    The part that the newest column falls in also writes its key and value to the cache.
    """
    place, part = tl.program_id(0), tl.program_id(1)
    row, group = (place // groups).to(tl.int64), place % groups
    head, at, column = tl.arange(0, ROWS), tl.arange(0, WIDTH), tl.arange(0, COLUMNS)
    length = (tl.load(lengths + row) + 1).to(tl.int32)  # the newest column sees itself
    size = tl.cdiv(tl.cdiv(length, parts), COLUMNS) * COLUMNS
    begin = part * size
    end = tl.minimum(begin + size, length)
    inside = (head < share)[:, None] & (at < width)[None, :]
    query = tl.load(q + (place * share + head)[:, None] * width + at[None, :], mask=inside, other=0.0)
    first = row * row_stride + group * group_stride
    new_key = tl.load(new_keys + place * width + at, mask=at < width, other=0.0)
    new_value = tl.load(new_values + place * width + at, mask=at < width, other=0.0)
    newest = length - 1
    if (begin <= newest) & (newest < end):
        there = first + newest.to(tl.int64) * column_stride + at
        tl.store(keys + there, new_key, mask=at < width)
        tl.store(values + there, new_value, mask=at < width)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    weight = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(begin, end, COLUMNS):
        seen = start + column < end
        cells = first + (start + column)[:, None].to(tl.int64) * column_stride + at[None, :]
        is_old = (start + column < newest)[:, None] & (at < width)[None, :]
        is_new = (start + column == newest)[:, None]  # what was just written may not be seen in memory yet
        key = tl.where(is_new, new_key[None, :], tl.load(keys + cells, mask=is_old, other=0.0))
        value = tl.where(is_new, new_value[None, :], tl.load(values + cells, mask=is_old, other=0.0))
        score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        score = tl.where(seen[None, :], score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, axis=1))
        share_of = tl.exp(score - higher[:, None])
        kept = tl.exp(top - higher)
        weight = weight * kept + tl.sum(share_of, axis=1)
        total = total * kept[:, None] + tl.dot(share_of.to(value.dtype), value, input_precision="ieee")
        top = higher
    to = (place * parts + part) * ROWS + head
    tl.store(tops + to, top)
    tl.store(weights + to, weight)
    tl.store(sums + to[:, None] * WIDTH + at[None, :], total)


@triton.jit
def _add_parts(
    sums, tops, weights, out, parts, share, width,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Add up the parts of one head."""
    place, head = tl.program_id(0), tl.program_id(1)
    part, at = tl.arange(0, PARTS), tl.arange(0, WIDTH)
    there = (place * parts + part) * ROWS + head
    top = tl.load(tops + there, mask=part < parts, other=float("-inf"))
    share_of = tl.exp(top - tl.max(top, axis=0))
    weight = tl.sum(share_of * tl.load(weights + there, mask=part < parts, other=0.0), axis=0)
    found = tl.load(sums + there[:, None] * WIDTH + at[None, :], mask=(part < parts)[:, None], other=0.0)
    total = tl.sum(found * share_of[:, None], axis=0) / weight
    tl.store(out + (place * share + head) * width + at, total.to(out.dtype.element_ty), mask=at < width)


def attend_in_parts(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """Write the newest column of each row to the cache; return its attention (B, H, D) to all columns of its row.

    Args:
        q: queries (B, H, D).
        k: keys (B, G, D).
        v: values (B, G, D).
        keys: (B, W, G, D), heads next to each other in memory; every H / G query heads share one.
        values: (B, W, G, D), with the strides of keys.
        lengths: (B,) columns before the newest one, fewer than W.
    """
    assert keys.stride() == values.stride()
    rows, columns, groups, width = keys.shape
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    share = q.shape[1] // groups
    padded_rows, padded_width = max(16, triton.next_power_of_2(share)), max(16, triton.next_power_of_2(width))
    parts = max(1, min(_MOST_PARTS, _PROGRAMS // (rows * groups), triton.cdiv(columns, _COLUMNS)))
    size = (rows * groups, parts, padded_rows)
    sums = torch.empty((*size, padded_width), dtype=torch.float32, device=q.device)
    tops, weights = (torch.empty(size, dtype=torch.float32, device=q.device) for _ in range(2))
    out = torch.empty_like(q)
    _attend_part[rows * groups, parts](
        q, k, v, keys, values, lengths, sums, tops, weights, width**-0.5, parts, groups, share, width,
        keys.stride(0), keys.stride(1), keys.stride(2),
        ROWS=padded_rows, WIDTH=padded_width, COLUMNS=_COLUMNS,
    )  # fmt: skip
    _add_parts[rows * groups, share](
        sums, tops, weights, out, parts, share, width, ROWS=padded_rows, WIDTH=padded_width, PARTS=_MOST_PARTS
    )
    return out
