"""CTC without a matrix of all logits: values and gradients of torch's own, and no large tensor."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from models.kernels.ctc import full_ctc, likeliest, linear_ctc

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
V, WIDTH = 5000, 24


def sequences(device="cpu", seed=0):
    """Three sequences: one with repeats, one whose labels take all of its frames, one that shares labels."""
    generator = torch.Generator().manual_seed(seed)
    inputs, texts = torch.tensor([30, 4, 17]), [[7, 7, 4999, 7], [12, 13, 12, 14], [4999, 3]]
    hidden = torch.randn(int(inputs.sum()), WIDTH, generator=generator)
    weight = torch.randn(V, WIDTH, generator=generator) * 0.3
    weight[0] = 0.0  # as a blank that shares the table of embeddings
    labels = torch.tensor([label for text in texts for label in text])
    lengths = torch.tensor([len(text) for text in texts])
    tensors = (hidden.requires_grad_(), weight.requires_grad_())
    return *(t.detach().to(device).requires_grad_() for t in tensors), *(
        t.to(device) for t in (labels, inputs, lengths)
    )


def by_torch(hidden, weight, labels, inputs, lengths):
    """Of each sequence alone, by torch's CTC on all of its logits in float64."""
    total = hidden.new_zeros((), dtype=torch.float64)
    parts = zip(hidden.split(inputs.tolist()), labels.split(lengths.tolist()), strict=True)
    for part, text in parts:
        scores = F.linear(part.double(), weight.double()).log_softmax(-1)[:, None]
        total = total + F.ctc_loss(scores, text[None], (len(part),), (len(text),), reduction="sum")
    return total


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loss", [linear_ctc, full_ctc])
def test_values_and_gradients_are_those_of_torch_on_all_logits(loss, device):
    found = []
    for one in (loss, by_torch):
        hidden, weight, *rest = sequences(device)
        value = one(hidden, weight, *rest)
        (value * 0.7).backward()
        found.append((float(value.detach()), hidden.grad, weight.grad))
    (value, of_hidden, of_weight), (their_value, their_hidden, their_weight) = found
    assert value == pytest.approx(their_value, rel=1e-5)
    torch.testing.assert_close(of_hidden, their_hidden, rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(of_weight, their_weight, rtol=1e-3, atol=2e-5)
    assert of_weight[100].abs().sum() > 0  # a token that no text has is in the denominators


def test_another_blank_than_the_first_token():
    hidden, weight, *rest = sequences()
    moved = torch.cat([weight[1:], weight[:1]])  # the blank is the last one now
    labels = rest[0] - 1
    torch.testing.assert_close(
        linear_ctc(hidden, moved, labels, *rest[1:], blank=V - 1), linear_ctc(hidden, weight, *rest)
    )


def test_a_frozen_matrix_costs_no_gradient_and_changes_none():
    found = []
    for trained in (True, False):
        hidden, weight, *rest = sequences()
        weight.requires_grad_(trained)
        linear_ctc(hidden, weight, *rest).backward()
        found.append((hidden.grad, weight.grad))
    assert found[1][1] is None
    torch.testing.assert_close(found[0][0], found[1][0])


class Largest(TorchDispatchMode):
    """Remembers how many values the largest tensor had that any operation returned."""

    values = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, torch.Tensor):
                self.values = max(self.values, one.numel())
        return out


def test_no_matrix_of_frames_times_vocabulary_is_held():
    frames, size, width = 1500, 30_000, 8
    hidden = torch.randn(frames, width, requires_grad=True)
    weight = torch.randn(size, width)
    rest = torch.arange(1, 41), torch.tensor([frames]), torch.tensor([40])
    with Largest() as seen:
        linear_ctc(hidden, weight, *rest).backward()
    assert seen.values <= 8_000_000 + size < frames * size / 5
    with Largest() as seen:
        likeliest(hidden, weight)
    assert seen.values <= 8_000_000 + size


@pytest.mark.parametrize("device", DEVICES)
def test_the_likeliest_token_is_that_of_all_logits(device):
    hidden, weight, *_ = sequences(device)
    hidden, weight = hidden.detach().repeat(60, 1), weight.detach()
    assert torch.equal(likeliest(hidden, weight), F.linear(hidden, weight).argmax(1))
    assert likeliest(hidden[:0], weight).shape == (0,)
