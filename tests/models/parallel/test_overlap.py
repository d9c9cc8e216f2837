"""Gradients that are summed during the backward pass are those that are summed after it."""

import json
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from models.parallel.overlap import OverlappedSums
from models.training import checkpoint
from tests.models.parallel.support import on_ranks
from tests.models.support import grid_spec, model_for
from tests.models.training.test_training import CONFIG, losses, run


def test_buckets_hold_every_parameter_once_the_last_ones_first():
    parameters = list(model_for(grid_spec()).parameters())
    sums = OverlappedSums(parameters, 4 * 3000)
    flat = [one for bucket in sums.buckets for one in bucket]
    assert [id(one) for one in flat] == [id(one) for one in reversed(parameters)]
    assert len(sums.buckets) > 5
    assert all(len(bucket) == 1 or sum(one.numel() for one in bucket) <= 3000 for bucket in sums.buckets)


class Watched:
    """What a rank does in a step, in order: passes, their ends, and sums that it begins."""

    def __init__(self, patch):
        self.events = []
        reduce, backward = dist.all_reduce, torch.Tensor.backward

        def watched_reduce(*given, async_op=False, **options):
            self.events.append("sum" if async_op else "wait")
            return reduce(*given, async_op=async_op, **options)

        def watched_backward(*given, **options):
            self.events.append("pass")
            backward(*given, **options)
            self.events.append("end")

        patch.setattr(dist, "all_reduce", watched_reduce)
        patch.setattr(torch.Tensor, "backward", watched_backward)


def _train(rank, world_size, folder, number):
    for name, bucket_mb in (("during", 2e-3), ("after", 0.0)):
        with pytest.MonkeyPatch.context() as patch:
            watched = Watched(patch)
            config = replace(CONFIG, steps=2, packs_per_step=number, bucket_mb=bucket_mb)
            run(folder / name, config, rank=rank, world_size=world_size)
        (folder / f"{name}-{rank}.json").write_text(json.dumps(watched.events))


def _with_parts_unused(rank, world_size, folder):
    """Each rank's pass leaves out a parameter that the other's has; one that neither has."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(3, 2)) for _ in range(4)]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.5)
    sums = OverlappedSums(parameters, 1)
    for _ in range(2):  # a second step begins anew
        with sums.during_backward():
            (parameters[rank].sum() + parameters[2].square().sum()).backward()
        sums.finish()
    once = [1.0 + 1, 1.0 + 1, 1.0 + 4 * parameters[2], torch.ones(3, 2)]
    twice = [2 * one + extra for one, extra in zip(once, (1, 1, 4 * parameters[2], 0), strict=True)]
    for parameter, expected in zip(parameters, twice, strict=True):
        torch.testing.assert_close(parameter.grad, torch.as_tensor(expected).expand(3, 2).detach())


def _both(rank, world_size, folder):
    _with_parts_unused(rank, world_size, folder)
    for number in (3, 1):
        (folder / str(number)).mkdir(exist_ok=True)
        _train(rank, world_size, folder / str(number), number)


@pytest.mark.filterwarnings("ignore")
def test_sums_begin_in_the_last_backward_pass_and_are_those_after_it(tmp_path):
    """Three packs on two ranks, one with two passes and one with one; and one pack, of which a rank has none."""
    on_ranks(2, _both, tmp_path)

    for number, passes in ((3, [1, 2]), (1, [0, 1])):
        folder = tmp_path / str(number)
        assert losses(folder / "during") == losses(folder / "after")
        one, other = (checkpoint.load(folder / n / "step-000002")[0] for n in ("during", "after"))
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
        counts = []
        for rank in range(2):
            events = {n: json.loads((folder / f"{n}-{rank}.json").read_text()) for n in ("during", "after")}
            assert "sum" not in events["after"]
            steps = [one.split() for one in " ".join(events["during"]).split("wait") if "sum" in one]
            counts.append([step.count("pass") for step in steps])
            for step in steps:
                if "pass" in step:
                    last = len(step) - 1 - step[::-1].index("pass")
                    assert "sum" not in step[:last]
                    assert step[last : step.index("end", last)].count("sum") > 5
        assert [sorted(of_step) for of_step in zip(*counts, strict=True)] == [passes] * 2
