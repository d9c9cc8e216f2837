"""The CPU's norms, rotation, SwiGLU and embedding sums are their plain references, in values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from models.config.shape import Shape
from models.kernels import fused
from models.speech_lm.transformer import Attention, RMSNorm, SwiGLU, rotary

DTYPES = {torch.float32: 1e-5, torch.float64: 1e-11}


def both(work, *inputs):
    """Outputs and gradients of some work, as the program does it and by torch's own operations."""
    found = []
    for plain in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if plain:
                patch.setattr(fused, "is_supported", lambda *_: False)
            out = work()
            loss = sum((one * torch.linspace(-1, 1, one.numel(), dtype=one.dtype).view_as(one)).sum() for one in out)
            found.append((*out, *torch.autograd.grad(loss, inputs)))
    return zip(*found, strict=True)


def drawn(*shape, dtype):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape))).requires_grad_()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 8), (7, 24), (3, 5, 16)])
def test_norm(shape, dtype):
    x = drawn(*shape, dtype=dtype)
    norm = RMSNorm(shape[-1], eps=1e-6).to(dtype)
    torch.nn.init.normal_(norm.weight)
    for one, other in both(lambda: (norm(x),), x, norm.weight):
        torch.testing.assert_close(one, other, rtol=DTYPES[dtype], atol=DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "rows"), [(4, 2, (9,)), (3, 3, (1,)), (6, 1, (4, 3))])
def test_heads(num_heads, num_kv_heads, rows, qk_norm, dtype):
    shape = Shape(dim=num_heads * 6, num_heads=num_heads, num_kv_heads=num_kv_heads, qk_norm=qk_norm, qkv_bias=True)
    attention = Attention(shape).to(dtype)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    x = drawn(*rows, shape.dim, dtype=dtype)
    cos, sin = (part.to(dtype) for part in rotary(torch.arange(rows[-1]) * 3, shape))
    used = [parameter for name, parameter in attention.named_parameters() if not name.startswith("out.")]
    for one, other in both(lambda: attention.heads(x, cos, sin), x, *used):
        torch.testing.assert_close(one, other, rtol=10 * DTYPES[dtype], atol=100 * DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu(dtype):
    ffn = SwiGLU(Shape(dim=8, num_heads=2, num_kv_heads=1, ffn_dim=13)).to(dtype)
    x = drawn(5, 8, dtype=dtype)
    for one, other in both(lambda: (ffn(x),), x, *ffn.parameters()):
        torch.testing.assert_close(one, other, rtol=DTYPES[dtype], atol=DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [0, 1, 50])
def test_embedding_sum_leaves_frozen_rows_alone(number, dtype):
    streams, size = 3, 4
    offsets = torch.arange(streams) * (size + 1)
    ids = torch.randint(0, size + 1, (number, streams), generator=torch.Generator().manual_seed(number))
    table = drawn(streams * (size + 1), 6, dtype=dtype)
    with torch.no_grad():
        table[offsets + size] = 0.0
    scale = drawn(number, 6, dtype=dtype)
    counted = (ids != size).to(dtype)
    fast = fused.embedding_sum(table, ids + offsets, offsets + size)
    plain = F.embedding_bag(ids + offsets, table, mode="sum", per_sample_weights=counted)
    torch.testing.assert_close(fast, plain)
    gradients = [torch.autograd.grad((one * scale).sum(), table)[0] for one in (fast, plain)]
    torch.testing.assert_close(*gradients)
    assert not gradients[0][offsets + size].any()


def test_gradients_are_derivatives():
    x, weight = drawn(4, 6, dtype=torch.float64), drawn(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, w: fused.rms_norm(a, w, 1e-3), (x, weight))
    assert torch.autograd.gradcheck(fused.swiglu, (x,))
    cos, sin = (part.double() for part in rotary(torch.arange(4), Shape(dim=12, num_heads=2, num_kv_heads=1)))
    qkv, scales = drawn(4, 24, dtype=torch.float64), [drawn(6, dtype=torch.float64) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda a, *s: fused.heads(a, s, cos, sin, (2, 1), 1e-3), (qkv, *scales))


def test_half_precision_and_other_devices_use_torchs_own():
    assert fused.is_supported(torch.zeros(1), "norm")
    assert not fused.is_supported(torch.zeros(1, dtype=torch.bfloat16), "norm")
    assert not fused.is_supported(torch.zeros(1, device="meta"), "norm")
