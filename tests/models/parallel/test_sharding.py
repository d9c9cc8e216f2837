"""Groups of ranks that each hold all parameters together (HSDP)."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from models.config.header import steps, tensor_files
from models.config.options import Training
from models.parallel.sharding import own_part, rows_of, shard
from models.training import checkpoint
from tests.models.parallel.support import on_ranks
from tests.models.support import grid_spec, model_for
from tests.models.training.test_training import CONFIG, losses, run

GRID = grid_spec()
TWO_BY_TWO = replace(CONFIG, shard="full", shard_size=2, ema_decay=0.5, steps=6, packs_per_step=5, checkpoint_every=3)


def _holdings(rank, folder):
    """Write down which rows of each parameter a rank holds, and how many of them it stores."""
    model = model_for(GRID, dtype=torch.float32)
    whole = {name: one.detach().clone() for name, one in model.named_parameters()}
    shard(model, torch.float32, 2)
    rows = {}
    for name, parameter in model.named_parameters():
        first, last = rows_of(parameter)
        assert torch.equal(parameter.to_local().detach(), whole[name][first:last])
        stored = own_part(parameter, rank)
        rows[name] = (first, last, None if stored is None else len(stored))
    (folder / f"rows-{rank}.json").write_text(json.dumps(rows))


def _train(rank, world_size, folder):
    _holdings(rank, folder)
    run(folder / "whole", TWO_BY_TWO, rank=rank, world_size=world_size)
    if rank == 0:
        shutil.copytree(folder / "whole", folder / "again")
        shutil.rmtree(folder / "again/step-000006")
    dist.barrier()
    run(folder / "again", TWO_BY_TWO, rank=rank, world_size=world_size)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_groups_of_two_ranks_make_the_steps_of_one_rank(tmp_path):
    on_ranks(4, _train, tmp_path)
    rows = [json.loads((tmp_path / f"rows-{rank}.json").read_text()) for rank in range(4)]
    shapes = {name: len(one) for name, one in model_for(GRID).named_parameters()}
    for name, number in shapes.items():
        held = [one[name][:2] for one in rows]
        assert held[:2] == held[2:]  # each group has all rows ...
        assert held[0] == [0, -(-number // 2)]
        assert held[1] == [-(-number // 2), number]
        assert [one[name][2] for one in rows] == [held[0][1], number - held[0][1], None, None]  # ... the first stores
    assert steps(tmp_path / "whole") == [0, 3, 6]
    assert len(tensor_files(tmp_path / "whole/step-000006", "optimizer")) == 2
    run(tmp_path / "one", replace(TWO_BY_TWO, shard="none", shard_size=0))
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)
    one, four = (checkpoint.load(tmp_path / name / "step-000006", raw=True)[0] for name in ("one", "whole"))
    for a, b in zip(one.parameters(), four.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


def test_a_size_of_groups_without_sharding_is_refused():
    with pytest.raises(ValueError, match="shard_size needs --train"):
        Training(shard_size=2)


def _on_gpus(rank, world_size, folder, options):
    config = replace(CONFIG, precision="float32", attention="loop", checkpoint_every=5, **options)
    run(folder, replace(config, steps=5, schedule="wsd"), rank=rank, world_size=world_size, device="cuda")
    run(folder, replace(config, schedule="wsd"), rank=rank, world_size=world_size, device="cuda")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"bucket_mb": 2e-3}, {"shard": "full"}, {"context_size": 2}])
@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_on_gpus_train_and_go_on_as_one_on_a_cpu_does(tmp_path, ranks, options):
    """With NCCL, stopped after 5 steps; on one GPU too, where there are no others."""
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} CUDA devices")
    if ranks == 1 and "context_size" in options:
        pytest.skip("one rank is no group")
    run(tmp_path / "cpu", replace(CONFIG, schedule="wsd", steps=5))
    run(tmp_path / "cpu", replace(CONFIG, schedule="wsd"))
    on_ranks(ranks, _on_gpus, tmp_path / "gpu", options, backend="nccl")
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=5e-3)
