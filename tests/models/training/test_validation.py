"""Validation: its loss is the plain one, whatever the ranks; it decides what is kept, and when training ends."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.codecs.codec import pack_codes
from models.config.header import POSITION, steps
from models.sequence.batch import collate
from models.sequence.documents import PackedDocuments
from models.training import checkpoint
from models.training.guard import StepGuard
from models.training.metrics import ValidationRecord, best_steps, read_records
from models.training.step import Process, TrainingState
from models.training.validation import Validator
from tests.models.support import Source, document, joined, model_for, spans
from tests.models.training.test_training import CONFIG, GRID, _free_port, losses, run

CHEAP = replace(CONFIG, steps=8, packs_per_step=2, num_threads=1, validate_every=2, checkpoint_every=3)


def held_out():
    """Seven packs of two components."""
    made = [joined([document(GRID, 5000 + 10 * i + j) for j in range(1 + i % 2)], f"v{i}") for i in range(7)]
    return Source(made, components={"asr": spans((4,)), "continue": (replace(spans((1,))[0], first=4, size=3),)})


def validations(folder):
    """The lines of validation.jsonl but for the time, which no two runs share."""
    return [replace(one, seconds=0.0) for one in read_records(folder / "validation.jsonl", ValidationRecord)]


def plain_loss(path, packed):
    model = checkpoint.load(path)[0].eval()
    with torch.no_grad():
        made = [model(collate([one], GRID)) for one in packed]
    return sum(float(loss.total) for loss in made) / sum(float(loss.weight) for loss in made)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_loss_is_that_of_the_checkpoint_on_those_packs(tmp_path, ema_decay):
    config = replace(CHEAP, checkpoint_every=2, keep_checkpoints=9, ema_decay=ema_decay, hide_bands=2, packs_per_pass=3)
    source = held_out()
    run(tmp_path, config, validation=source)
    found = validations(tmp_path)
    assert [one.step for one in found] == [2, 4, 6, 8]
    assert {f"validation.loss.{name}" for name in ("asr", "continue")} < found[0].values().keys()
    for one in found:
        path = tmp_path / f"step-{one.step:06d}"
        assert one.loss == pytest.approx(plain_loss(path, source.packs), rel=1e-5)
        assert one.components["asr"] == pytest.approx(plain_loss(path, source.packs[:4]), rel=1e-5)
        assert one.components["continue"] == pytest.approx(plain_loss(path, source.packs[4:]), rel=1e-5)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_validation_changes_no_step(tmp_path, ema_decay):
    config = replace(CHEAP, ema_decay=ema_decay)
    watched, alone = run(tmp_path / "watched", config, validation=held_out()), run(tmp_path / "alone", config)
    assert losses(tmp_path / "watched") == losses(tmp_path / "alone")
    for a, b in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not (tmp_path / "alone/validation.jsonl").exists()
    names = [tmp_path / f"{which}/step-000008/model.safetensors" for which in ("watched", "alone")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_without_an_interval_nothing_is_validated(tmp_path):
    run(tmp_path, replace(CHEAP, validate_every=0), validation=held_out())
    assert validations(tmp_path) == []
    with pytest.raises(ValueError, match="counts validations"):
        replace(CHEAP, validate_every=0, patience=1)
    with pytest.raises(ValueError, match="no validation packs"):
        run(tmp_path / "other", replace(CHEAP, patience=1))


def _rank(rank, world_size, folder, port, shard):
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    number = 0 if shard == "full" else 3
    config = replace(CHEAP, steps=4, shard=shard, ema_decay=0.5, packs_per_pass=2, validate_conversations=number)
    judge = lambda model: (1.0 + rank, 4.0 + 2 * rank)  # noqa: E731
    run(folder, config, rank=rank, world_size=world_size, validation=held_out(), judge=judge)
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_every_pack_is_counted_once_whatever_the_ranks(world_size):
    """Where ranks hold parts of the parameters, they also make as many passes as each other."""
    config = replace(CHEAP, packs_per_pass=2)
    model = model_for(GRID)
    state = TrainingState(model, [], StepGuard(0.0), "loop")
    (whole,) = sums_of_ranks(state, replace(config, packs_per_pass=1), 1)
    torch.testing.assert_close(sum(sums_of_ranks(state, config, world_size)), whole)
    passes, forward = [], model.forward
    model.forward = lambda *given, **named: (passes.append(None), forward(*given, **named))[1]
    torch.testing.assert_close(sum(sums_of_ranks(state, replace(config, shard="full"), world_size)), whole)
    assert len(passes) == world_size * -(-4 // world_size)  # 2 of four packs and 2 of three


def sums_of_ranks(state, config, world_size):
    """What each of some ranks adds to the sums, before they are added up."""
    ranks = [Process(rank=rank, world_size=world_size) for rank in range(world_size)]
    with torch.no_grad():
        return [Validator(held_out(), GRID, config, rank)._sums(state) for rank in ranks]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shard", ["none", "full"])
def test_ranks_share_the_packs_and_have_one_loss(tmp_path, shard):
    """Five passes of two ranks: one rank has a pass less, and waits for nothing."""
    import torch.multiprocessing as mp

    run(tmp_path / "one", replace(CHEAP, steps=4, ema_decay=0.5), validation=held_out())
    (tmp_path / "two").mkdir()
    mp.spawn(_rank, args=(2, tmp_path / "two", _free_port(), shard), nprocs=2)
    one, two = validations(tmp_path / "one"), validations(tmp_path / "two")
    assert [v.step for v in one] == [v.step for v in two] == [2, 4]
    assert [v.loss for v in two] == pytest.approx([v.loss for v in one], abs=1e-4)
    assert [v.components for v in two] == [pytest.approx(v.components, abs=1e-4) for v in one]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert [v.cpwer for v in two] == ([None] * 2 if shard == "full" else [pytest.approx(0.3)] * 2)


# ------------------------------------------------------------------------------------------------------ cpWER, too

JUDGED = replace(CHEAP, validate_conversations=3, keep_checkpoints=1)


def sure(model):
    """A judge that goes by the weights: errors are highest at the start, lowest after 4 steps of 8."""
    with torch.no_grad():
        at = sum(float(p.abs().sum()) for p in model.parameters())
    sure.seen.append((model.training, at))
    return (9.0, 5.0, 7.0, 8.0)[(len(sure.seen) - 1) % 4], 10.0


@pytest.mark.parametrize("best_by", ["loss", "cpwer"])
def test_what_is_best_goes_by_what_was_asked_for(tmp_path, best_by):
    sure.seen = []
    run(tmp_path, replace(JUDGED, best_by=best_by, keep_best=1), validation=held_out(), judge=sure)
    found = validations(tmp_path)
    assert [one.cpwer for one in found] == [0.9, 0.5, 0.7, 0.8]
    assert found[0].values()["validation.cpwer"] == 0.9
    (best,) = best_steps([(one.step, one.value(best_by)) for one in found], 1)
    assert steps(tmp_path) == sorted({0, best, 8})
    assert best == 4 or best_by == "loss"
    kept = json.loads((tmp_path / "step-000008" / POSITION).read_text())["validations"]
    assert [value for _, value in kept] == [one.value(best_by) for one in found]
    # It is asked with the weights of each validation, ready for use.
    assert not any(training for training, _ in sure.seen)
    assert len({at for _, at in sure.seen}) == 4


def test_a_judge_changes_no_step(tmp_path):
    sure.seen = []
    run(tmp_path / "judged", JUDGED, validation=held_out(), judge=sure)
    run(tmp_path / "alone", CHEAP, validation=held_out(), judge=sure)
    assert len(sure.seen) == 4
    assert losses(tmp_path / "judged") == losses(tmp_path / "alone")
    assert [one.cpwer for one in validations(tmp_path / "alone")] == [None] * 4


def test_what_cannot_be_judged_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"needs --train\.validate-conversations"):
        replace(CHEAP, best_by="cpwer")
    with pytest.raises(ValueError, match="shard full"):
        replace(JUDGED, shard="full")
    with pytest.raises(ValueError, match="no conversations to transcribe"):
        run(tmp_path / "a", replace(JUDGED, best_by="cpwer"), validation=held_out())
    with pytest.raises(ValueError, match="no word is said"):
        run(tmp_path / "b", JUDGED, validation=held_out(), judge=lambda model: (0.0, 0.0))


# ------------------------------------------------------------------------------- what is learnt by heart does not hold


def noisy(seed):
    """A document whose text follows from its audio but for one token in three, which can only be learnt by heart."""
    rng = np.random.default_rng(seed)
    said = rng.integers(0, 16, 6)
    codes = np.where(rng.random((4, 6)) < 0.2, rng.integers(0, 16, (4, 6)), np.tile(said, (4, 1)))
    text = np.where(rng.random(6) < 0.35, rng.integers(1, 17, 6), said + 1)
    return PackedDocuments(
        pack_id=f"d{seed}",
        num_columns=13,
        cu_seqlens=np.array([0, 13], np.int32),
        segments=np.array([[0, 0, 1], [1, 1, 6], [0, 7, 6]], np.int32),
        text_tokens=np.concatenate([[20], text]).astype(np.int32),
        codes=pack_codes(codes, 4),
        loss_spans=np.array([[0, 7, 13]], np.int32),
        loss_weights=np.ones(1, np.float32),
    )


def several(first, number=3):
    return Source([joined([noisy(first + 100 * i + j) for j in range(8)], f"p{first}-{i}") for i in range(number)])


OVERFIT = replace(
    CONFIG,
    steps=160,
    packs_per_step=3,
    packs_per_pass=3,
    lr=1e-2,
    num_threads=1,
    validate_every=10,
    checkpoint_every=80,
)


def test_the_checkpoint_that_is_kept_is_the_best_on_what_was_not_trained_on(tmp_path):
    """The training loss falls to the end; the validation loss rises long before."""
    source = several(90_000)
    run(tmp_path, replace(OVERFIT, keep_checkpoints=1, keep_best=1), source=several(0), validation=source)
    curve = [(one.step, one.loss) for one in validations(tmp_path)]
    (best,) = best_steps(curve, 1)
    assert best < 100
    assert dict(curve)[160] > 1.2 * dict(curve)[best]
    assert np.mean(losses(tmp_path)[-10:]) < np.mean(losses(tmp_path)[best - 10 : best])
    assert steps(tmp_path) == [0, best, 160]
    assert plain_loss(tmp_path / f"step-{best:06d}", source.packs) == pytest.approx(dict(curve)[best], rel=1e-5)


class GoneError(Exception):
    """The machine is gone."""


@pytest.mark.parametrize("gone", [45])
def test_training_ends_early_and_when_resumed_does_all_the_same(tmp_path, gone):
    config = replace(OVERFIT, keep_checkpoints=1, keep_best=2, patience=6, checkpoint_every=20)

    def train(name, **options):
        return run(tmp_path / name, config, source=several(0), validation=several(90_000), **options)

    train("whole")
    last = steps(tmp_path / "whole")[-1]
    curve = [(one.step, one.loss) for one in validations(tmp_path / "whole")]
    assert best_steps(curve, 1) == [last - 60]  # six validations without a lower loss
    assert gone < last < config.steps
    assert steps(tmp_path / "whole") == sorted({0, last, *best_steps(curve, 2)})

    def stop(record):
        if record.step == gone:
            raise GoneError

    with pytest.raises(GoneError):
        train("cut", on_step=stop)
    train("cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert validations(tmp_path / "cut") == validations(tmp_path / "whole")
    assert steps(tmp_path / "cut") == steps(tmp_path / "whole")
    ends = [json.loads((tmp_path / f"{name}/step-{last:06d}/{POSITION}").read_text()) for name in ("whole", "cut")]
    assert ends[0] == ends[1]
    read = several(0)
    run(tmp_path / "whole", config, source=read, validation=several(90_000))  # it is done
    assert read.read == []
    assert steps(tmp_path / "whole")[-1] == last
