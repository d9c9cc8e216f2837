"""Columns split over ranks make the loss and the gradients of one rank that has them all."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from models.config.errors import InputError
from models.config.groups import check_context, check_groups
from models.config.options import Training
from models.parallel.context import ContextGroup, make_context
from models.sequence.batch import collate
from models.training.metrics import read_metrics
from models.training.step import accumulate, weighted
from tests.models.parallel.support import on_ranks
from tests.models.support import SHAPE, Source, document, grid_spec, header, joined, model_for, train_flat
from tests.models.training.test_training import CONFIG, GRID, losses, run
from tests.models.training.test_validation import held_out, validations

ALONE = torch.device("cpu")


def batches(grid):
    long = joined([document(grid, seed, num_frames=5 + 9 * seed) for seed in range(4)])
    short = document(grid, 9, num_frames=1, num_text=1)  # fewer columns than ranks
    return [collate([long, document(grid, 7)], grid), collate([short], grid)]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_every_column_and_every_cell_is_some_ranks(size):
    for batch in batches(grid_spec()):
        parts = [ContextGroup(rank, size, None).part(batch) for rank in range(size)]
        number = len(batch.text)
        begins = ContextGroup(0, size, None).borders(max(number, size))
        assert all(len(one.text) > 0 for one in parts)
        for name, shifted in (("text", 0), ("positions", 0), ("audio", 0), ("audio_columns", 1), ("text_from", 1)):
            pieces = [getattr(one, name) + shifted * begin for one, begin in zip(parts, begins, strict=False)]
            assert torch.equal(torch.cat(pieces)[:number], getattr(batch, name))
        for name in ("text_targets", "text_weights", "audio_targets", "audio_weights"):
            pieces = sorted(str(row) for one in parts for row in getattr(one, name).tolist())
            assert pieces == sorted(str(row) for row in getattr(batch, name).tolist())
        assert sum(one.num_pads for one in parts) == batch.num_pads


def _compare(size, layout, config, context, backend="loop", **shape):
    """Hold sums and gradients over the group against those of a rank with all columns."""
    grid = grid_spec(layout)
    found = []
    for group in (None, context):
        model = model_for(grid, **shape)
        model.recompute = config.recompute
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        made = [weighted(batch, config) for batch in batches(grid)]
        sums = accumulate(model, made, backend, ALONE, config, context=group)
        if group is not None:
            for tensor in (sums, *(parameter.grad for parameter in model.parameters())):
                dist.all_reduce(tensor)
        found.append((sums, dict(model.named_parameters())))
    (sums, whole), (others, spread) = found
    torch.testing.assert_close(others, sums, rtol=1e-6, atol=0.0)  # losses are summed in float32
    assert sums[1] > 0
    for name, parameter in whole.items():
        assert parameter.grad.abs().max() > 0, name
        torch.testing.assert_close(spread[name].grad, parameter.grad, rtol=1e-6, atol=1e-7, msg=name)


def _gradients(rank, world_size):
    context = make_context(world_size)
    config = Training(packs_per_step=2)
    _compare(world_size, "parallel", config, context)
    _compare(world_size, "parallel", config, context, "mask", prompt_attention="both")
    _compare(world_size, "parallel", replace(config, recompute="all"), context, prompt_attention="both")
    _compare(world_size, "delay", replace(config, document_mask=False), context)
    _compare(world_size, "depth", config, context, num_kv_heads=1)
    _compare(world_size, "parallel", config, context, tie_text=True, num_kv_heads=4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_sums_and_gradients_are_those_of_one_rank(size):
    """Causal and two-way prompts, without document mask, fewer kv heads than ranks, ranks without a column."""
    on_ranks(size, _gradients)


def _trained(rank, world_size, folder, options):
    run(folder, replace(CONFIG, **options), rank=rank, world_size=world_size, validation=held_out())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shard", [{}, {"shard": "full"}, {"shard": "full", "shard_size": 2}])
def test_two_groups_of_two_ranks_train_as_one_rank_does(tmp_path, shard):
    """Each group reads packs of its own, one of them a pass fewer; validations are shared out likewise."""
    options = {"steps": 4, "packs_per_step": 3, "validate_every": 2}
    run(tmp_path / "one", replace(CONFIG, **options), validation=held_out())
    on_ranks(4, _trained, tmp_path / "four", options | shard | {"context_size": 2})
    assert losses(tmp_path / "four") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    one, four = (validations(tmp_path / name) for name in ("one", "four"))
    assert [v.loss for v in four] == pytest.approx([v.loss for v in one], abs=1e-4)
    one, four = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "four"))
    for name in ("num_columns", "num_documents", "num_frames", "flops"):
        assert [getattr(r, name) for r in four] == pytest.approx([getattr(r, name) for r in one])


def test_what_cannot_be_split_is_refused():
    config = Training(context_size=4)
    check_groups(config, 8)
    check_context(config, SHAPE)
    with pytest.raises(InputError, match="context_size is 4, which does not divide the 6 training workers"):
        check_groups(config, 6)
    with pytest.raises(InputError, match="does not divide the 4 heads"):
        check_context(replace(config, context_size=3), SHAPE)
    with pytest.raises(InputError, match="needs whole recordings"):
        check_context(config, replace(SHAPE, encoder="some"))
    with pytest.raises(ValueError, match="CTC and activity losses need whole"):
        replace(config, ctc_weight=0.1)


@pytest.mark.parametrize("options", [{"context_size": 2}, {"shard": "full", "shard_size": 2}])
def test_groups_that_do_not_fit_are_refused_before_anything_is_read(options):
    source = Source([])
    with pytest.raises(InputError, match="does not divide the 3 training workers"):
        train_flat(
            model_for(GRID),
            source,
            GRID,
            replace(CONFIG, **options),
            seed=0,
            folder=None,
            header=header(GRID),
            rank=0,
            world_size=3,
        )
    assert source.read == []
