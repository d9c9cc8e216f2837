"""Preempted machines: one checkpoint for each that is announced, and no end of a run, however many there are."""

from types import SimpleNamespace

import pytest

from models.config.header import steps
from models.config.options import Training
from pipelines.execute.fit import failure_config
from pipelines.execute.train_worker import Preemption
from tests.models.training.test_training import losses, run


@pytest.fixture
def announced(monkeypatch):
    """Nodes that Ray announces, by the number of the check from which on it does."""
    import ray.train

    nodes, calls = {}, []

    def info():
        calls.append(None)
        known = [node for node, first in nodes.items() if len(calls) >= first]
        return SimpleNamespace(preempted_node_ids=known) if known else None

    monkeypatch.setattr(ray.train, "get_preemption_info", info)
    return nodes


def test_each_announced_node_is_one_checkpoint_and_training_goes_on(announced, tmp_path, monkeypatch):
    """With an error instead, Ray Train would end the run at the fourth: `max_failures` is 3."""
    monkeypatch.setattr(Preemption, "EVERY", 2)
    announced.update({f"node{number}": number for number in range(1, 6)})
    config = Training(steps=13, packs_per_step=1, checkpoint_every=13, keep_checkpoints=9)
    run(tmp_path, config, should_save=Preemption())
    assert steps(tmp_path) == [0, 2, 4, 6, 8, 10, 13]  # the check after step 12 has nothing new
    assert len(losses(tmp_path)) == 13


def test_ray_train_begins_anew_after_any_number_of_preemptions_but_not_of_failures():
    from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
    from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError
    from ray.train.v2.api.preemption import PreemptionInfo

    preempted = PreemptionError(PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"node": [0]}))
    failed = WorkerGroupError("failed", {0: RuntimeError("ours")})
    policy = DefaultFailurePolicy(failure_config())
    assert [policy.make_decision(preempted).name for _ in range(20)] == ["RETRY"] * 20
    assert [policy.make_decision(failed).name for _ in range(4)] == ["RETRY"] * 3 + ["RAISE"]
