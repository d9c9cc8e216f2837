"""Which attention is used: what device, type of numbers and torch can do, tried once; and computing in 16 bits."""

import importlib
import sys
import types
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.sequence.batch import collate
from models.speech_lm import model as model_module
from models.speech_lm import precision
from models.speech_lm.attention import backends, packed
from models.speech_lm.attention.backends import choose_backend, why_not
from models.speech_lm.attention.packed import PackedAttention, _Split, packed_attention
from models.speech_lm.decode.sampling import Sampling
from models.speech_lm.generate import generate_audio, greedy_text, talker_probabilities
from models.speech_lm.likelihood import negative_log_likelihoods
from tests.models.speech_lm.test_generate import END, nothing, prompt
from tests.models.support import document, grid_spec, joined, model_for

ALL = {"flash": "", "varlen": "", "flex": "", "loop": "", "mask": ""}
BOUNDARIES = (0, 20, 21, 37)


@pytest.fixture(autouse=True)
def tried_anew():
    backends._failure.cache_clear()
    yield
    backends._failure.cache_clear()


@pytest.fixture
def on_a_gpu(monkeypatch):
    """All backends are there, and each works that is not in the set."""
    broken = set()
    real = packed_attention

    def run(q, k, v, cu_seqlens, boundaries, max_seqlen, backend, prompts=None):
        if backend in broken:
            raise RuntimeError("no kernel image is available")
        return real(q, k, v, cu_seqlens, boundaries, max_seqlen, "loop", prompts)

    monkeypatch.setattr(backends, "available_backends", lambda device_type: ALL)
    monkeypatch.setattr(backends, "packed_attention", run)
    return broken


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_width", [7, 8, 64, 256, 320])
@pytest.mark.parametrize("broken", [(), ("flash",), ("flash", "varlen"), ("flash", "varlen", "flex")])
@pytest.mark.filterwarnings("ignore:attention")
def test_what_is_chosen_takes_the_type_and_the_width(on_a_gpu, dtype, head_width, broken):
    on_a_gpu.update(broken)
    chosen = choose_backend("cpu", "auto", dtype, head_width)
    assert why_not(chosen, dtype, head_width) == ""
    assert chosen not in broken, backends._failure("flex", "cpu", dtype, head_width)
    takes_16_bits = dtype in (torch.bfloat16, torch.float16) and head_width in (8, 64, 256)
    working = [one for one in ALL if one not in broken and (takes_16_bits or one not in ("flash", "varlen"))]
    assert chosen == working[0], backends._failure(working[0], "cpu", dtype, head_width)


@pytest.mark.parametrize("wanted", ["flash", "varlen"])
def test_a_wanted_one_that_cannot_take_the_numbers_is_refused(on_a_gpu, wanted):
    with pytest.raises(ValueError, match=f"attention {wanted} cannot be used: it takes 16 bits, not float32"):
        choose_backend("cpu", wanted, torch.float32, 64)
    with pytest.raises(ValueError, match="heads up to 256 wide"):
        choose_backend("cpu", wanted, torch.bfloat16, 12)
    assert choose_backend("cpu", wanted, torch.bfloat16, 64) == wanted


def test_one_that_fails_is_told_once_and_the_next_is_taken(on_a_gpu):
    on_a_gpu.add("flash")
    with pytest.warns(UserWarning, match="attention flash is not used on cpu: RuntimeError: no kernel image") as told:
        assert choose_backend("cpu", "auto", torch.bfloat16, 64) == "varlen"
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_backend("cpu", "auto", torch.bfloat16, 64) == "varlen"


def test_one_with_other_values_is_not_used(on_a_gpu, monkeypatch):
    right = backends.packed_attention

    def causal_throughout(q, k, v, cu_seqlens, boundaries, max_seqlen, backend, prompts=None):
        kept = prompts if backend != "flash" else None  # forgets that prompts are seen in both directions
        return right(q, k, v, cu_seqlens, boundaries, max_seqlen, backend, kept)

    monkeypatch.setattr(backends, "packed_attention", causal_throughout)
    with pytest.warns(UserWarning, match="attention flash is not used on cpu: values differ"):
        assert choose_backend("cpu", "auto", torch.bfloat16, 64) == "varlen"


def test_a_torch_without_grouped_heads_in_its_kernel_repeats_them(monkeypatch):
    """As before torch 2.12, whose `varlen_attn` has no `enable_gqa`."""
    calls = []

    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1)):
        assert query.shape[1] == key.shape[1]
        calls.append(window_size)
        parts = []
        for (a, b), (c, d) in zip(pairwise(cu_seq_q.tolist()), pairwise(cu_seq_k.tolist()), strict=True):
            one, keys, values = (x.transpose(0, 1) for x in (query[a:b], key[c:d], value[c:d]))
            seen = torch.ones(b - a, d - c, dtype=torch.bool)
            if window_size == (-1, 0):
                seen = seen.tril(d - c - (b - a))
            parts.append(F.scaled_dot_product_attention(one, keys, values, attn_mask=seen).transpose(0, 1))
        return torch.cat(parts)

    module = types.ModuleType("torch.nn.attention.varlen")
    module.varlen_attn = varlen_attn
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    torch.manual_seed(0)
    q, k, v = (torch.randn(37, heads, 8) for heads in (4, 2, 2))
    cu_seqlens = torch.tensor(BOUNDARIES, dtype=torch.int32)
    for prompts in (None, (5, 1, 9)):
        ours, plain = (
            packed_attention(q, k, v, cu_seqlens, BOUNDARIES, 20, way, prompts) for way in ("varlen", "loop")
        )
        torch.testing.assert_close(ours, plain)
    assert calls == [(-1, 0), (-1, -1), (-1, 0)]


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("backend", ["flex", "varlen", "mask"])
def test_what_follows_from_the_borders_is_made_once_for_all_layers(monkeypatch, backend):
    made = []
    if backend == "flex":
        flex = importlib.import_module("torch.nn.attention.flex_attention")
        right = flex.create_block_mask
        monkeypatch.setattr(flex, "create_block_mask", lambda *a, **k: made.append(1) or right(*a, **k))
    elif backend == "varlen":
        monkeypatch.setattr(packed, "_Split", lambda **k: made.append(1) or _Split(**k))
        monkeypatch.setattr(packed, "by_kernel", by_mask)
    else:
        right_tril = torch.Tensor.tril
        monkeypatch.setattr(torch.Tensor, "tril", lambda *a: made.append(1) or right_tril(*a))
    grid = grid_spec()
    model = model_for(grid, dtype=torch.float32, num_layers=3, prompt_attention="both").eval()
    batch = collate([joined([document(grid, 0), document(grid, 1)])], grid)
    with torch.no_grad():
        torch.testing.assert_close(model.states(batch, backend), model.states(batch, "loop"), rtol=1e-4, atol=1e-5)
    assert len(made) == 1


def by_mask(backend, q, k, v, borders, longest, *, causal):
    """Stand in for a GPU's kernel: each sequence alone, the causal mask aligned at the ends."""
    parts = []
    for (a, b), (c, d) in zip(*(pairwise(one.tolist()) for one in borders), strict=True):
        one, keys, values = (x.transpose(0, 1) for x in (q[a:b], k[c:d], v[c:d]))
        seen = torch.ones(b - a, d - c, dtype=torch.bool)
        seen = seen.tril(d - c - (b - a)) if causal else seen
        parts.append(F.scaled_dot_product_attention(one, keys, values, attn_mask=seen, enable_gqa=True).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("layout", ["parallel", "delay", "flat"])
def test_decoding_computes_in_16_bits_where_the_device_does(monkeypatch, layout):
    """As on a GPU: what is cached, masked and drawn goes together, and is what float32 gives, but for rounding."""
    grid = grid_spec(layout)
    model = model_for(grid, dtype=torch.float32)
    documents = [joined([document(grid, seed)]) for seed in range(3)]
    prompts, asked = [prompt([1, 9, 8]), prompt([1, 7])], [document(grid, seed, num_frames=6) for seed in (1, 2)]

    def all_of_it():
        found = np.array(negative_log_likelihoods(model, documents, grid))[:, 0]
        tokens = greedy_text(model, prompts, grid, end=-1, max_tokens=4)
        empty = [nothing()] * 2
        made = generate_audio(model, prompts, grid, given=empty, max_frames=4, end=END, sampling=GREEDY)
        talkers = talker_probabilities(model, [joined([one]) for one in asked], grid)
        return found, tokens, made, talkers

    losses, *_ = all_of_it()
    seen = []

    class Remembered(PackedAttention):
        def __call__(self, q, k, v):
            seen.append(q.dtype)
            return super().__call__(q, k, v)

    monkeypatch.setattr(model_module, "PackedAttention", Remembered)
    monkeypatch.setattr(model_module, "precision_of", lambda *_: "bf16")
    monkeypatch.setattr(precision, "precision_of", lambda *_: "bf16")
    rounded, tokens, made, talkers = all_of_it()
    assert set(seen) == {torch.bfloat16}
    np.testing.assert_allclose(rounded, losses, rtol=0.03)
    assert [len(one) for one in tokens] == [4, 4]
    assert all(np.isfinite(one).all() for one in talkers)
    assert len(made) == 2


GREEDY = Sampling(temperature=0, repetition_window=0)


def test_a_batch_is_trained_on_in_the_precision_of_the_recipe():
    grid = grid_spec()
    model = model_for(grid, dtype=torch.float32)
    batch = collate([joined([document(grid, 0)])], grid)
    for wanted, other in (("auto", "float32"), ("bf16", "bf16")):
        assert precision.precision_of("cpu", wanted) == other
        with precision.computing("cpu", wanted):
            assert torch.is_autocast_enabled("cpu") is (other == "bf16")
            assert torch.isfinite(model(batch).total)
