"""A checkpoint in parts is read as any other, is whole or is none, and goes on with any number of ranks."""

import json
import os
import shutil
import signal
import threading
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.config.errors import InputError
from models.config.header import check_checkpoint_files, steps, tensor_files, weights_digest
from models.parallel.parts import StoredTensors
from models.training import checkpoint
from models.training.mirror import Mirror
from tests.models.parallel.support import on_ranks
from tests.models.support import grid_spec, header, model_for
from tests.models.training.test_training import CONFIG, losses, run

GRID = grid_spec()
SHARDED = replace(CONFIG, shard="full", ema_decay=0.5, checkpoint_every=6)
PLACE = {"position": 8, "seed": 7, "packs": "toy", "grad_norms": [1.0], "validations": []}


class Writers:
    """Threads that write a checkpoint together, in place of ranks."""

    def __init__(self, rank, shared, size):
        self.rank, self.size, self._shared = rank, size, shared
        self.suffix = f"-{rank + 1:05d}-of-{size:05d}"

    def exchange(self, message):
        said, barrier = self._shared
        said[self.rank] = json.loads(json.dumps(message))
        barrier.wait(20)
        found = list(said)
        barrier.wait(20)
        return found


def whole_state():
    model = model_for(GRID, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    optimizer.step()
    means = {name: parameter.detach() + 1 for name, parameter in model.named_parameters()}
    return model, checkpoint.copy_state(model, [optimizer], means)


def part_of(state, rank, size):
    def rows(tensors):
        cut = {name: one if one.dim() == 0 else (*one.chunk(size), *[one[:0]] * size)[rank] for name, one in tensors}
        return {name: one.contiguous() for name, one in cut.items() if (len(one.shape) and len(one)) or not rank}

    return checkpoint.State(*(rows(one.items()) for one in (state.weights, state.averaged, state.moments)))


def save_parts(folders, state, step=2, url=None):
    """Write a state from a thread for each folder; return what each raised."""
    size = len(folders)
    shared, raised = ([None] * size, threading.Barrier(size)), [None] * size

    def write(rank):
        mirror = Mirror(folders[rank], url) if url else None
        try:
            writers = Writers(rank, shared, size)
            checkpoint.save_part(folders[rank], step, part_of(state, rank, size), header(GRID), PLACE, writers, mirror)
        except OSError as error:
            raised[rank] = error

    threads = [threading.Thread(target=write, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_parts_are_read_as_one_file_is(tmp_path, size):
    model, state = whole_state()
    whole = checkpoint.save(tmp_path / "whole", 2, state, header(GRID), PLACE)
    assert save_parts([tmp_path / "parts"] * size, state) == [None] * size
    path = tmp_path / "parts/step-000002"
    assert len(tensor_files(path, "model")) == len(tensor_files(path, "optimizer")) == size
    assert sorted(one.suffix for one in path.iterdir() if "of" in one.name) == [".safetensors"] * 3 * size
    assert [p.name for p in (tmp_path / "parts").iterdir()] == ["step-000002"]
    check_checkpoint_files(path)
    for raw in (False, True):
        one, other = (checkpoint.load(p, raw=raw)[0].state_dict() for p in (whole, path))
        assert all(torch.equal(other[name], tensor) for name, tensor in one.items())
    assert checkpoint.read_position(path) == checkpoint.read_position(whole)
    optimizers = [torch.optim.AdamW(model.parameters(), fused=True) for _ in range(2)]
    for optimizer, place in zip(optimizers, (whole, path), strict=True):
        checkpoint.load_moments(place, model, [optimizer])
    for parameter in model.parameters():
        for key, value in optimizers[0].state[parameter].items():
            assert torch.equal(optimizers[1].state[parameter][key], value)


def test_any_rows_are_read_from_any_parts(tmp_path):
    _, state = whole_state()
    save_parts([tmp_path] * 3, state)
    stored = StoredTensors(tmp_path / "step-000002", "raw")
    name = "audio_embedding.weight"
    table = state.weights[name]
    assert len(table) % 3  # parts differ in size
    for first in range(0, len(table) + 1, 5):
        for last in range(first, len(table) + 1, 7):
            assert torch.equal(stored.rows(name, first, last), table[first:last])
    assert stored.shape(name) == table.shape


def test_a_rank_writes_its_rows_alone(tmp_path):
    _, state = whole_state()
    save_parts([tmp_path] * 2, state)
    for kind, tensors in (("raw", state.weights), ("optimizer", state.moments)):
        parts = [load_file(tmp_path / "step-000002" / name) for name in tensor_files(tmp_path / "step-000002", kind)]
        sizes = [sum(one.numel() for one in part.values()) for part in parts]
        assert sum(sizes) == sum(one.numel() for one in tensors.values())
        assert max(sizes) < 0.6 * sum(sizes)


@pytest.mark.parametrize("name", ["model-00002-of-00002", "raw-00001-of-00002", "optimizer-00002-of-00002"])
def test_a_part_that_is_missing_or_damaged_is_named(tmp_path, name):
    model, state = whole_state()
    save_parts([tmp_path] * 2, state)
    path = tmp_path / "step-000002"
    before = weights_digest(path)
    file = path / f"{name}.safetensors"
    content = file.read_bytes()

    def read():
        checkpoint.load(path)
        checkpoint.load(path, raw=True)
        checkpoint.load_moments(path, model, [torch.optim.AdamW(model.parameters(), fused=True)])

    read()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for check in (read, lambda: check_checkpoint_files(path)):
        with pytest.raises(InputError, match=f"{name}.safetensors is damaged"):
            check()
    assert (weights_digest(path) != before) == name.startswith("model")
    file.unlink()
    for check in (read, lambda: check_checkpoint_files(path)):
        with pytest.raises(InputError, match=f"{name}.safetensors is missing"):
            check()


@pytest.mark.parametrize("kind", [OSError, SafetensorError, ValueError])
def test_where_one_rank_cannot_write_none_has_a_checkpoint(tmp_path, monkeypatch, kind):
    _, state = whole_state()
    save_parts([tmp_path] * 2, state, step=1)
    original = checkpoint.save_file

    def full(tensors, name):
        if "raw-00002" in name:
            raise kind("No space left on device")
        original(tensors, name)

    monkeypatch.setattr(checkpoint, "save_file", full)
    raised = save_parts([tmp_path] * 2, state, step=2)
    assert all("rank 1: No space left" in str(error) for error in raised)
    assert [one.name for one in tmp_path.iterdir()] == ["step-000001"]
    monkeypatch.undo()
    assert save_parts([tmp_path] * 2, state, step=2) == [None, None]
    assert steps(tmp_path) == [1, 2]


def test_ranks_with_folders_of_their_own_meet_at_the_url(tmp_path):
    _, state = whole_state()
    raised = save_parts([tmp_path / "a", tmp_path / "b"], state)
    assert "not one folder to all ranks" in str(raised[0])
    assert "not one folder to all ranks" in str(raised[1])
    url = f"memory://{tmp_path.name}/training"
    assert save_parts([tmp_path / "a", tmp_path / "b"], state, url=url) == [None, None]
    assert not steps(tmp_path / "a")
    assert not steps(tmp_path / "b")
    mirror = Mirror(tmp_path / "c", url)
    mirror.fetch(mirror.steps())
    check_checkpoint_files(tmp_path / "c/step-000002")
    weights = checkpoint.load(tmp_path / "c/step-000002", raw=True)[0].state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.weights.items())


def _go_on(rank, world_size, folder):
    run(folder, SHARDED, rank=rank, world_size=world_size)


def _same_start(folder, name):
    """A training that has come to step 6 and no further, as the one that was not interrupted has."""
    shutil.copytree(folder / "whole", folder / name)
    shutil.rmtree(folder / name / "step-000010")


def _whole(rank, world_size, folder):
    run(folder / "whole", SHARDED, rank=rank, world_size=world_size)
    if rank == 0:
        _same_start(folder, "same")
    torch.distributed.barrier()
    run(folder / "same", SHARDED, rank=rank, world_size=world_size)


@pytest.mark.filterwarnings("ignore")
def test_a_sharded_training_goes_on_to_the_bit_and_alone_to_rounding(tmp_path):
    on_ranks(2, _whole, tmp_path)
    names = {path.name for path in (tmp_path / "whole/step-000006").iterdir()}
    parts = {f"{kind}-0000{n}-of-00002.safetensors" for kind in ("model", "raw", "optimizer") for n in (1, 2)}
    assert names == parts | {"loader.json", "checkpoint.json"}
    assert losses(tmp_path / "same") == losses(tmp_path / "whole")
    for raw in (False, True):
        one, other = (checkpoint.load(tmp_path / n / "step-000010", raw=raw)[0] for n in ("whole", "same"))
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    _same_start(tmp_path, "alone")
    run(tmp_path / "alone", replace(SHARDED, shard="none"))
    assert losses(tmp_path / "alone") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    one, other = (checkpoint.load(tmp_path / n / "step-000010")[0] for n in ("whole", "alone"))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_sharded_training_goes_on_with_other_numbers_of_ranks(tmp_path):
    """Two ranks to step 6, then three or one sharded: the same packs, sums in another order."""
    on_ranks(2, _whole, tmp_path)
    for number in (1, 3):
        _same_start(tmp_path, f"on-{number}")
        on_ranks(number, _go_on, tmp_path / f"on-{number}")
        assert losses(tmp_path / f"on-{number}") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)


def _killed(rank, world_size, folder, point):
    original = getattr(checkpoint, point)

    def killed(*given):
        if rank == 0 or point == "_write_tensors":
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given)

    def on_checkpoint(step):
        if step == 9:
            setattr(checkpoint, point, killed)

    config = replace(SHARDED, checkpoint_every=3)
    run(folder, config, rank=rank, world_size=world_size, on_checkpoint=on_checkpoint)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("point", ["_write_tensors", "_write_rest", "_write_header", "_commit"])
def test_a_kill_while_parts_are_written_leaves_the_checkpoint_before(tmp_path, point):
    with pytest.raises(torch.multiprocessing.ProcessExitedException):
        on_ranks(2, _killed, tmp_path / "cut", point)
    assert steps(tmp_path / "cut")[-1] == 6
    check_checkpoint_files(tmp_path / "cut/step-000006")
    on_ranks(2, _go_on, tmp_path / "cut")
    assert steps(tmp_path / "cut")[-1] == 10
    run(tmp_path / "one", replace(SHARDED, shard="none"))
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
