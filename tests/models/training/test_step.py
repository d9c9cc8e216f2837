"""One optimizer step: what a GPU would have to wait for."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.config.options import Training
from models.kernels.loss import linear_cross_entropy
from models.sequence.batch import collate
from models.training.guard import StepGuard
from models.training.loader import StepPacks
from models.training.optimizers import make_optimizers
from models.training.step import Process, TrainingState, accumulate, run_step
from tests.models.support import document, grid_spec, joined, model_for
from tests.models.training.test_training_options import audio_answer

READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique")
"""Operations whose result the host has to know before it can go on."""


class HostReads(TorchDispatchMode):
    """Counts what would let the host wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0]
        is_mask = name in ("index", "index_put_", "_index_put_impl_") and any(
            one is not None and one.dtype is torch.bool for one in args[1]
        )
        if name.startswith(READS) or is_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def state_of(model, **options):
    config = Training(precision="float32", **options)
    return TrainingState(model, make_optimizers(model, config), StepGuard(0.0), "loop"), config


@pytest.mark.parametrize("layout", ["parallel", "flat", "depth"])
def test_a_pass_reads_nothing_back_from_the_device(layout):
    grid = grid_spec(layout)
    model = model_for(grid, dtype=torch.float32)
    batches = [collate([joined([document(grid, n), audio_answer(grid, 6)])], grid) for n in range(3)]
    assert all(batch.num_pads for batch in batches)
    with HostReads() as reads:
        accumulate(model, batches, "loop", torch.device("cpu"), Training(precision="float32"))
    assert reads.found == []
    with HostReads() as reads:
        float(batches[0].text_weights.sum())
    assert reads.found  # what is counted is counted


def test_gradients_of_a_step_are_those_of_a_plain_mean_and_clipped(monkeypatch):
    grid = grid_spec()
    batches = [collate([joined([document(grid, n)])], grid) for n in range(3)]
    found, plain = (model_for(grid, dtype=torch.float64) for _ in range(2))
    state, config = state_of(found, clip_norm=0.05, steps=10)
    monkeypatch.setattr("models.training.step._update", lambda *_: None)
    done = run_step(state, StepPacks(1, 0, tuple(batches)), config, Process(), should_save=False)
    losses = [plain(batch) for batch in batches]
    (sum(one.total for one in losses) / sum(float(one.weight) for one in losses)).backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.05)
    assert float(norm) > 0.05
    assert done.grad_norm == pytest.approx(float(norm), rel=1e-6)
    for one, other in zip(found.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("how", "is_kept"), [("graphs", True), ("none", False)])
def test_gradients_have_a_place_of_their_own_where_graphs_overwrite_theirs(how, is_kept):
    grid = grid_spec()
    model = model_for(grid, dtype=torch.float32)
    state, config = state_of(model, steps=10, compile=how)
    batch = collate([joined([document(grid, 1)])], grid)
    places = []

    def place(_):
        places.append(None if model.norm.weight.grad is None else model.norm.weight.grad.data_ptr())

    for step in (1, 2):
        handle = model.norm.weight.register_hook(place)
        run_step(state, StepPacks(step, 0, (batch,)), config, Process(), should_save=False)
        handle.remove()
        places.append(model.norm.weight.grad.data_ptr())
    assert (places[0] is not None and len(set(places)) == 1) is is_kept


def test_gradients_of_the_loss_are_scaled_in_place_unless_the_graph_is_kept():
    inputs = [torch.randn(5, 8, requires_grad=True), torch.randn(12, 8, requires_grad=True)]
    loss = linear_cross_entropy(*inputs, torch.arange(5)[:, None], torch.ones(5))
    held = [one.data_ptr() for one in loss.grad_fn.saved_tensors]
    kept = torch.autograd.grad(3 * loss, inputs, retain_graph=True)
    assert not {one.data_ptr() for one in kept} & set(held)
    again = torch.autograd.grad(3 * loss, inputs)
    assert [one.data_ptr() for one in again] == held
    torch.testing.assert_close(kept, again, rtol=0, atol=0)
