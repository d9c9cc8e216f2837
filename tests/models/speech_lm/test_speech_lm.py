"""The property that packing stands on: packed equals each document alone, in loss and gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.kernels.loss import linear_cross_entropy
from models.layouts import LAYOUTS
from models.sequence.batch import collate
from models.speech_lm.attention.backends import choose_backend
from models.speech_lm.attention.packed import packed_attention
from models.speech_lm.generate import greedy_text
from tests.models.support import V, document, grid_spec, joined, model_for

VARIANTS = [(name, group) for name in LAYOUTS for group in ((1, 3) if LAYOUTS[name].has_groups else (1,))]


def loss_and_gradients(model, batches, backend="loop"):
    model.zero_grad()
    total, weight = 0.0, 0.0
    for batch in batches:
        loss = model(batch, backend)
        loss.total.backward()
        total, weight = total + float(loss.total.detach()), weight + float(loss.weight)
    return total, weight, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("layout", "group"), VARIANTS)
@pytest.mark.parametrize("backend", ["loop", "mask"])
@pytest.mark.parametrize("prompt_attention", ["causal", "both"])
def test_packed_equals_each_document_alone(layout, group, backend, prompt_attention):
    grid = grid_spec(layout, group)
    documents = [document(grid, seed) for seed in range(7)]
    model = model_for(grid, prompt_attention=prompt_attention)
    alone = loss_and_gradients(model, [collate([d], grid) for d in documents])
    packed = loss_and_gradients(model, [collate([joined(documents)], grid)], backend)
    two_packs = loss_and_gradients(model, [collate([joined(documents[:3]), joined(documents[3:])], grid)], backend)
    for other in (packed, two_packs):
        assert other[0] == pytest.approx(alone[0], rel=1e-12)
        assert other[1] == pytest.approx(alone[1], rel=1e-6)  # weights are float32
        for name, gradient in alone[2].items():
            torch.testing.assert_close(other[2][name], gradient, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize(("layout", "group"), VARIANTS)
def test_a_planted_leak_is_seen(layout, group):
    """The test above must be able to fail: one document that sees its neighbor changes the loss."""
    grid = grid_spec(layout, group)
    documents = [document(grid, seed) for seed in range(4)]
    model = model_for(grid)
    batch = collate([joined(documents)], grid)
    right = float(model(batch).total.detach())
    merged = (*batch.boundaries[:1], *batch.boundaries[2:])
    leaky = replace(batch, boundaries=merged, cu_seqlens=torch.tensor(merged, dtype=torch.int32))
    assert abs(float(model(leaky).total.detach()) - right) > 1e-4


@pytest.mark.parametrize(("layout", "group"), VARIANTS)
@pytest.mark.parametrize("prompt_attention", ["causal", "both"])
def test_no_predicted_column_sees_a_later_one(layout, group, prompt_attention):
    grid = grid_spec(layout, group)
    model = model_for(grid, prompt_attention=prompt_attention)
    one, other = document(grid, 1, num_frames=9, num_text=6), document(grid, 1, num_frames=9, num_text=6)
    changed = other.text_tokens.copy()
    changed[-3:] = (changed[-3:] % 30) + 1
    other = replace(other, text_tokens=changed)
    with torch.no_grad():
        first, second = (model.states(collate([d], grid)) for d in (one, other))
    column = one.num_columns - 3
    assert torch.equal(first[:column], second[:column])
    assert not torch.equal(first[column:], second[column:])


def test_a_prompt_is_seen_in_both_directions_where_asked():
    grid = grid_spec()
    one = document(grid, 1, num_frames=9, num_text=6)
    spans = np.array([[0, 10, 16]], np.int32)  # nothing in the prompt is predicted
    one = replace(one, loss_spans=spans, loss_weights=np.ones(1, np.float32))
    changed = one.codes[:-1] + bytes([one.codes[-1] ^ 0x11])
    for attention, sees in (("causal", False), ("both", True)):
        model = model_for(grid, prompt_attention=attention)
        with torch.no_grad():
            first, second = (model.states(collate([replace(one, codes=codes)], grid)) for codes in (one.codes, changed))
        assert torch.equal(first[0], second[0]) != sees
    batch = collate([joined([one, document(grid, 2)])], grid)
    assert batch.prompts[0] == 10
    assert all(0 < p <= b - a for p, a, b in zip(batch.prompts, batch.boundaries, batch.boundaries[1:], strict=False))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("lengths", [(1,), (3, 1, 17), (5, 64, 2, 33), (2, 400, 30)])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("prompted", [False, True])
def test_attention_by_documents_equals_the_masked_oracle(lengths, kv_heads, dtype, prompted):
    torch.manual_seed(0)
    total = sum(lengths)
    boundaries = tuple(torch.tensor([0, *lengths]).cumsum(0).tolist())
    cu = torch.tensor(boundaries, dtype=torch.int32)
    q, k, v = (torch.randn(total, h, 8, dtype=dtype, requires_grad=True) for h in (4, kv_heads, kv_heads))
    results = []
    prompts = tuple(1 + i * 5 % n for i, n in enumerate(lengths)) if prompted else None
    for backend in ("loop", "mask"):
        out = packed_attention(q, k, v, cu, boundaries, max(lengths), backend, prompts)
        results.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v))))
    tolerance = 1e-10 if dtype is torch.float64 else 2e-5
    for loop, mask in zip(*results, strict=True):
        torch.testing.assert_close(loop, mask, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_flex_attention_sees_what_the_mask_does(prompted):
    """Forward only: on a CPU it has no backward pass."""
    torch.manual_seed(0)
    lengths = (5, 64, 2, 33)
    boundaries = tuple(torch.tensor([0, *lengths]).cumsum(0).tolist())
    cu = torch.tensor(boundaries, dtype=torch.int32)
    q, k, v = (torch.randn(sum(lengths), h, 16) for h in (4, 2, 2))
    prompts = (3, 20, 1, 33) if prompted else None
    with torch.no_grad():
        flex, mask = (packed_attention(q, k, v, cu, boundaries, 64, backend, prompts) for backend in ("flex", "mask"))
    torch.testing.assert_close(flex, mask, rtol=1e-5, atol=1e-5)


def test_without_a_mask_of_documents_each_sees_those_before_it():
    grid = grid_spec()
    one, two = document(grid, 1, num_frames=6), document(grid, 2, num_frames=6)
    model = model_for(grid)
    batch = collate([joined([one, two])], grid)
    alone = model.states(collate([one], grid))
    with torch.no_grad():
        masked, open_ = model.states(batch), model.states(batch.unmasked())
    torch.testing.assert_close(masked[: len(alone)], alone)
    torch.testing.assert_close(open_[: len(alone)], alone)  # the first has nothing before it
    assert (open_[len(alone) :] - masked[len(alone) :]).abs().max() > 1e-3


def test_backends_that_cannot_run_here_are_refused():
    assert choose_backend("cpu") == "loop"
    with pytest.raises(ValueError, match="attention varlen cannot run on cpu"):
        choose_backend("cpu", "varlen")


@pytest.mark.parametrize(
    ("rows", "streams", "size", "chunk"), [(1, 1, 5, 4), (37, 3, 11, 8), (64, 2, 33, 64), (0, 2, 3, 4)]
)
def test_chunked_loss_equals_the_plain_one(rows, streams, size, chunk):
    torch.manual_seed(0)
    hidden = torch.randn(rows, 12, requires_grad=True)
    weight = torch.randn(streams * size, 12, requires_grad=True)
    targets = torch.randint(0, size + 1, (rows, streams))  # `size` is the ignored id
    weights = torch.rand(rows)
    ours = linear_cross_entropy(hidden, weight, targets, weights, ignored=size, chunk=chunk)
    logits = (hidden @ weight.T).view(rows, streams, size)
    chosen = torch.log_softmax(logits, -1).gather(-1, targets.clamp(max=size - 1)[..., None])[..., 0]
    plain = -(chosen * (targets != size) * weights[:, None]).sum()
    torch.testing.assert_close(ours, plain)
    if rows:
        for a, b in zip(
            torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(plain, (hidden, weight)), strict=True
        ):
            torch.testing.assert_close(a, b)


def test_pad_cells_add_nothing_and_learn_nothing():
    grid = grid_spec("delay")
    model = model_for(grid)
    loss_and_gradients(model, [collate([document(grid, 3, num_frames=5)], grid)])
    pads = torch.arange(1, grid.layout.num_streams + 1) * (V + 1) - 1
    assert (model.audio_embedding.weight[pads] == 0).all()
    assert (model.audio_embedding.weight.grad[pads] == 0).all()
    assert (model.text_embedding.weight.grad[0] == 0).all()


def test_bad_packs_are_refused():
    grid = grid_spec()
    good = document(grid, 0, num_frames=4)
    with pytest.raises(ValueError, match="do not use up its streams"):
        collate([replace(good, text_tokens=good.text_tokens[:-1])], grid)
    spans = good.loss_spans.copy()
    spans[0, 1] = 0
    with pytest.raises(ValueError, match="first column"):
        collate([replace(good, loss_spans=spans)], grid)
    spans = good.loss_spans.copy()
    spans[:, 0] = 1
    with pytest.raises(ValueError, match="without audio"):
        collate([replace(good, loss_spans=spans)], grid)


@pytest.mark.parametrize("prompt_attention", ["causal", "both"])
@pytest.mark.parametrize(("layout", "group"), VARIANTS)
def test_decoding_with_the_cache_equals_decoding_anew(layout, group, prompt_attention):
    """Prompts of unequal lengths, prefilled packed and continued together, say what each says alone."""
    grid = grid_spec(layout, group)
    model = model_for(grid, seed=3, prompt_attention=prompt_attention).eval()
    prompts = [
        replace(document(grid, s), loss_spans=np.zeros((0, 3), np.int32), loss_weights=np.zeros(0, np.float32))
        for s in range(5)
    ]
    together = greedy_text(model, prompts, grid, end=1, max_tokens=12)
    for prompt, answer in zip(prompts, together, strict=True):
        expected, text, segments = [], prompt.text_tokens, prompt.segments.copy()
        for _ in range(12):
            current = replace(
                prompt,
                text_tokens=text,
                segments=segments,
                num_columns=int(segments[-1, 1] + segments[-1, 2]),
                cu_seqlens=np.array([0, segments[-1, 1] + segments[-1, 2]], np.int32),
            )
            if expected:  # what was generated is no prompt
                spans = np.array([[0, prompt.num_columns, current.num_columns]], np.int32)
                current = replace(current, loss_spans=spans, loss_weights=np.ones(1, np.float32))
            with torch.no_grad():
                logits = model.text_logits(model.states(collate([current], grid))[-1])
            logits[0] = -torch.inf
            token = int(logits.argmax())
            if token == 1:
                break
            expected.append(token)
            text = np.append(text, token).astype(np.int32)
            segments[-1, 2] += 1
        assert answer == expected
