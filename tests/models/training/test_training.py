"""Training is exact to resume, and invariant to how a step's packs are cut up."""

import itertools
import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.config.header import steps
from models.config.options import Training
from models.config.schedule import learning_rate
from models.training import checkpoint
from models.training.augment import Augment
from models.training.loader import Loader, share, step_cost
from models.training.metrics import read_metrics
from models.training.order import Span, Stream
from tests.models.support import Source, document, grid_spec, header, joined, model_for, train_flat

GRID = grid_spec()
CONFIG = Training(steps=10, packs_per_step=4, warmup_steps=2, checkpoint_every=3, lr=5e-3)


def packs(number=9):
    return [joined([document(GRID, 10 * i + j) for j in range(1 + i % 3)], f"p{i}") for i in range(number)]


def run(folder, config=CONFIG, source=None, dtype=torch.float32, **options):
    folder.mkdir(parents=True, exist_ok=True)
    model = model_for(GRID, dtype=dtype)
    train_flat(
        model, source or Source(packs(), (4, 5)), GRID, config, seed=7, folder=folder, header=header(GRID), **options
    )
    return model


def losses(folder):
    return [record.loss for record in read_metrics(folder / "metrics.jsonl")]


def test_the_loss_falls(tmp_path):
    run(tmp_path, Training(steps=40, packs_per_step=4, warmup_steps=4, lr=1e-2, checkpoint_every=40))
    curve = losses(tmp_path)
    assert len(curve) == 40
    assert np.mean(curve[-5:]) < 0.8 * np.mean(curve[:5])


@pytest.mark.parametrize("stop_at", [1, 4, 6, 9])
def test_resumed_equals_uninterrupted_to_the_bit(tmp_path, stop_at):
    whole = run(tmp_path / "whole")

    class StoppedError(Exception):
        pass

    def stop(record):
        if record.step == stop_at:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(tmp_path / "cut", on_step=stop)
    source = Source(packs(), (4, 5))
    resumed = run(tmp_path / "cut", source=source)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert len(source.read) == (10 - (stop_at - 1) // 3 * 3) * 4  # only what the last checkpoint does not cover


def test_a_finished_training_does_nothing(tmp_path):
    run(tmp_path)
    source = Source(packs(), (4, 5))
    run(tmp_path, source=source)
    assert source.read == []


def test_a_metrics_line_cut_short_is_made_again(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/step-000010")
    path = tmp_path / "cut/metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    run(tmp_path / "cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.parametrize("packs_per_pass", [2, 3, 4])
def test_accumulation_changes_nothing_but_rounding(tmp_path, packs_per_pass):
    config = Training(**{**CONFIG.__dict__, "packs_per_pass": packs_per_pass})
    one, other = run(tmp_path / "a", dtype=torch.float64), run(tmp_path / "b", config, dtype=torch.float64)
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), rel=1e-5)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def _rank(rank, world_size, folder, port):
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    source = Source(packs(), (4, 5))
    run(folder, source=source, rank=rank, world_size=world_size)
    (folder / f"read-{rank}.json").write_text(json.dumps(source.read))
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, 3])
def test_more_ranks_make_the_same_steps_of_the_same_packs(tmp_path, world_size):
    import torch.multiprocessing as mp

    alone = Source(packs(), (4, 5))
    run(tmp_path / "one", source=alone)
    (tmp_path / "many").mkdir()
    mp.spawn(_rank, args=(world_size, tmp_path / "many", _free_port()), nprocs=world_size)
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    reads = [json.loads((tmp_path / f"many/read-{rank}.json").read_text()) for rank in range(world_size)]
    per_step = [alone.read[i : i + 4] for i in range(0, 40, 4)]
    place = [0] * world_size
    for expected in per_step:
        got = []
        for rank, read in enumerate(reads):
            number = -(-4 // world_size) if world_size == 2 else _number(expected, rank, world_size)
            got += read[place[rank] : place[rank] + number]
            place[rank] += number
        assert sorted(got) == sorted(expected)


def _number(names, rank, world_size):
    source = Source(packs(), (4, 5))
    by_name = {pack.pack_id: i for i, pack in enumerate(source.packs)}
    costs = [step_cost(*source.size(by_name[name]), 32) for name in names]
    return len(share(costs, world_size)[rank])


def _logged(folder, rank):
    """Write down what each step is given, as training takes it."""
    original = Loader.steps

    def steps(self, first, last):
        with open(folder / f"consumed-{rank}.jsonl", "a") as file:
            for packs in original(self, first, last):
                ids = [self.source[i].pack_id for i in self.share_of(self.indices(packs.step))]
                file.write(json.dumps({"step": packs.step, "ids": ids}) + "\n")
                file.flush()
                yield packs

    Loader.steps = steps


def _killed_rank(rank, world_size, folder, port, die_after, packs_per_pass):
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    if world_size > 1:
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
    _logged(folder, rank)

    def die(record):
        if record.step == die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    config = Training(**{**CONFIG.__dict__, "packs_per_pass": packs_per_pass})
    run(folder, config, source=Source(packs(), (4, 5)), rank=rank, world_size=world_size, on_step=die)
    if world_size > 1:
        dist.destroy_process_group()


@pytest.mark.slow
def test_killed_and_gone_on_with_more_ranks_the_same_packs_are_consumed(tmp_path):
    """1 rank, killed; 2 ranks, killed; 4 ranks, to the end: each step's packs are those of the undisturbed run."""
    import torch.multiprocessing as mp

    for name, runs in {
        "whole": [(1, None, 1)],
        "cut": [(1, 5, 1), (2, 8, 2), (4, None, 1)],
    }.items():
        (tmp_path / name).mkdir()
        for world_size, die_after, packs_per_pass in runs:
            arguments = (world_size, tmp_path / name, _free_port(), die_after, packs_per_pass)
            if die_after is None:
                mp.spawn(_killed_rank, args=arguments, nprocs=world_size)
            else:
                with pytest.raises(mp.ProcessExitedException, match="SIGKILL"):
                    mp.spawn(_killed_rank, args=arguments, nprocs=world_size)
                for path in (tmp_path / name).glob("consumed-*.jsonl"):
                    path.rename(path.with_suffix(f".{die_after}"))  # what died with them is made again
    consumed = {}
    for name in ("whole", "cut"):
        steps = {}
        for paths in (".5", ".8", ".jsonl"):
            attempt = {}
            for path in (tmp_path / name).glob(f"consumed-*{paths}"):
                for line in path.read_text().splitlines():
                    row = json.loads(line)
                    attempt.setdefault(row["step"], []).extend(row["ids"])
            steps.update({step: sorted(ids) for step, ids in attempt.items()})
        consumed[name] = steps
    assert consumed["cut"] == consumed["whole"]
    assert sorted(consumed["whole"]) == list(range(1, 11))
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), abs=1e-4)


def test_augmentation_hides_what_is_heard_never_what_is_predicted_whoever_reads_the_pack():
    source = Source(packs(), (4, 5))
    stream = Stream(source.components, 3)
    loaders = [
        Loader(source, stream, GRID, 4, rank=rank, world_size=2, augment=Augment(bands=2, spans=2, shift=1), seed=3)
        for rank in range(2)
    ]
    alone = Loader(source, stream, GRID, 4, augment=Augment(bands=2, spans=2, shift=1), seed=3)
    plain = Loader(source, stream, GRID, 4)
    changed = 0
    for step in (1, 2):
        whole = {tuple(b.text.tolist()): b for b in alone.load(step).batches}
        for loader in loaders:
            for batch in loader.load(step).batches:
                assert torch.equal(batch.audio, whole[tuple(batch.text.tolist())].audio)
        for one, other in zip(alone.load(step).batches, plain.load(step).batches, strict=True):
            assert torch.equal(one.audio_targets, other.audio_targets)
            assert torch.equal(one.text_targets, other.text_targets)
            changed += int((one.audio != other.audio).sum())
    # In these documents audio is predicted: nothing of it may be hidden, but for those too short to predict any.
    assert changed < 50
    only_text = [(pack, pack.loss_spans[:, 0] == 0) for pack in packs()]
    silent = [replace(p, loss_spans=p.loss_spans[t], loss_weights=p.loss_weights[t]) for p, t in only_text]
    heard = Loader(Source(silent), stream, GRID, 4, augment=Augment(bands=2, spans=2, shift=1), seed=3).load(1)
    bare = Loader(Source(silent), stream, GRID, 4).load(1)
    assert any(not torch.equal(a.audio, b.audio) for a, b in zip(heard.batches, bare.batches, strict=True))


def test_a_checkpoint_of_another_stream_is_refused(tmp_path):
    run(tmp_path, Training(**{**CONFIG.__dict__, "steps": 3}))
    other = Source(packs(), (4, 5))
    other.digest = "other"
    with pytest.raises(ValueError, match=r"was trained on packs toy000000000 with seed 7, not on packs other"):
        run(tmp_path, source=other)


def test_a_mixture_decides_which_packs_are_trained_on(tmp_path):
    components = {"a": (Span(0, 5),), "b": (Span(5, 4),)}
    source = Source(packs(), components=components)
    config = Training(**{**CONFIG.__dict__, "mixture": ("a=3,b=1",), "steps": 9})
    run(tmp_path, config, source=source)
    first = [name in {f"p{i}" for i in range(5)} for name in source.read]
    assert [sum(first[i : i + 4]) for i in range(0, 36, 4)] == [3] * 9
    epochs = [record.epoch for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert epochs[0] == 0 < epochs[-1]


def _free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_loss_that_is_no_number_names_the_packs(tmp_path):
    model = model_for(GRID, dtype=torch.float32)
    with torch.no_grad():
        model.text_head.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 1, in packs p\d"):
        train_flat(model, Source(packs()), GRID, CONFIG, seed=0, folder=tmp_path, header=header(GRID))


def test_checkpoints_are_whole_pruned_and_hold_no_pickle(tmp_path):
    run(tmp_path)
    assert steps(tmp_path) == [0, 9, 10]
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"metrics.jsonl", "loader.json", "model.safetensors", "optimizer.safetensors", "checkpoint.json"}
    model, step, read = checkpoint.load(tmp_path / "step-000010")
    assert (step, read) == (10, header(GRID))
    assert model.num_parameters() == model_for(GRID).num_parameters()


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path, monkeypatch):
    run(tmp_path, Training(**{**CONFIG.__dict__, "steps": 3}))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        run(tmp_path)
    assert steps(tmp_path) == [0, 3]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".step")]


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a Hubbub checkpoint"):
        checkpoint.load(tmp_path)
    run(tmp_path / "a", Training(**{**CONFIG.__dict__, "steps": 1}))
    path = tmp_path / "a/step-000001/model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged: it has 100 bytes"):
        checkpoint.load(tmp_path / "a/step-000001")


def test_the_rate_warms_up_and_decays():
    for schedule in ("cosine", "wsd"):
        config = Training(steps=100, warmup_steps=10, lr=1.0, schedule=schedule)
        rates = [learning_rate(step, config) for step in range(1, 101)]
        assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
        assert max(rates) == pytest.approx(1.0, abs=0.01)
        assert rates[-1] == pytest.approx(0.1)
        assert all(a >= b - 1e-12 for a, b in itertools.pairwise(rates[9:]))
    assert learning_rate(80, Training(steps=100, warmup_steps=10, lr=1.0, schedule="wsd")) == pytest.approx(
        1.0, abs=0.02
    )
