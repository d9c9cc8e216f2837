"""Training longer goes on from before the learning rate falls, to the bytes of a training that was never shorter."""

import json
from dataclasses import replace

import pytest

from models.config.header import steps
from models.config.options import Training
from models.config.schedule import decay_begins, learning_rate
from models.config.settings import key_settings
from pipelines.plan.longer import take_over
from pipelines.plan.trained import remember_depends
from tests.models.training.test_training import losses, run

SHORT = Training(
    steps=12, packs_per_step=4, warmup_steps=2, checkpoint_every=5, keep_checkpoints=1, lr=5e-3, schedule="wsd"
)
LONG = replace(SHORT, steps=20)


def depends(config, **changes):
    return {"train": key_settings(config, {"start_from": None}), "seed": 7, "packs": {"train-0": "x"}, **changes}


def trained(folder, config, **changes):
    run(folder, config)
    remember_depends(folder, depends(config, **changes))
    return folder


def weights(folder, step):
    return (folder / f"step-{step:06d}/model.safetensors").read_bytes()


@pytest.mark.parametrize(("first", "second"), [(SHORT, LONG), (replace(LONG, keep_checkpoints=9), SHORT)])
def test_it_equals_a_training_that_was_never_shorter(tmp_path, first, second):
    trained(tmp_path / "first", first)
    with (tmp_path / "first/metrics.jsonl").open("a") as file:
        file.write('{"step": 1')  # cut short by a kill
    (tmp_path / "second").mkdir()
    step = take_over(tmp_path / "second", depends(second), second)
    assert 0 < step <= min(decay_begins(first), decay_begins(second))
    assert steps(tmp_path / "second") == [0, step]
    assert len(losses(tmp_path / "second")) == step
    run(tmp_path / "second", second)
    run(tmp_path / "alone", second)
    assert losses(tmp_path / "second") == losses(tmp_path / "alone")
    assert weights(tmp_path / "second", second.steps) == weights(tmp_path / "alone", second.steps)


def test_the_last_step_before_the_decay_is_kept(tmp_path):
    trained(tmp_path / "first", SHORT)
    assert decay_begins(SHORT) == 9
    assert steps(tmp_path / "first") == [0, 9, 12]
    assert [learning_rate(step, SHORT) == SHORT.lr for step in (9, 11)] == [True, False]
    assert {learning_rate(step, LONG) for step in range(2, 10)} == {SHORT.lr}


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (replace(LONG, lr=4e-3), {}),  # differs in more than its steps
        (LONG, {"seed": 8}),
        (LONG, {"packs": {"train-0": "y"}}),
        (replace(LONG, schedule="cosine"), {}),  # its rate depends on the number of steps from the beginning
        (replace(LONG, mixture=("grow",)), {}),  # and so do its packs
    ],
)
def test_nothing_is_taken_from_another_training(tmp_path, config, changes):
    trained(tmp_path / "first", SHORT)
    (tmp_path / "second").mkdir()
    assert take_over(tmp_path / "second", depends(config, **changes), config) == 0
    assert steps(tmp_path / "second") == []


def test_a_training_that_has_begun_and_a_damaged_note_take_nothing(tmp_path):
    trained(tmp_path / "first", SHORT)
    (tmp_path / "first/depends.json").write_text("{")
    (tmp_path / "second").mkdir()
    assert take_over(tmp_path / "second", depends(LONG), LONG) == 0
    remember_depends(tmp_path / "first", depends(SHORT))
    run(tmp_path / "second", replace(LONG, steps=5))
    assert take_over(tmp_path / "second", depends(LONG), LONG) == 0
    assert json.loads((tmp_path / "first/depends.json").read_text())["seed"] == 7
