"""Which checkpoints of a training are its last and its best, and whether it is done: here, or only in the store."""

import dataclasses
import json

import pytest

from models.config.header import POSITION
from models.config.intact import sealed
from models.config.options import Training
from pipelines.plan.output import Output
from pipelines.plan.trained import evaluated_name, last_name, located, training_committed
from pipelines.recipes.recipe import Evaluation, Recipe
from tests.models.support import header
from tests.models.training.test_training import GRID

KEY = "0123456789abcdef"
LOSSES = [(10, 3.0), (20, 2.0), (30, 2.5), (40, 2.2)]
PATIENT = Recipe(train=Training(steps=100, patience=2, keep_best=1), evaluate=Evaluation(checkpoint="best"))


def write(folder, validations, steps):
    """What planning looks at of checkpoints."""
    for step in steps:
        path = folder / f"step-{step:06d}"
        path.mkdir(parents=True)
        path.joinpath("checkpoint.json").write_bytes(sealed({"step": step, **dataclasses.asdict(header(GRID))}))
        seen = [one for one in validations if one[0] <= step]
        path.joinpath(POSITION).write_text(json.dumps({"validations": seen}))


@pytest.fixture(params=["here", "in the store"])
def place(tmp_path, request):
    """An output folder, and the folder where checkpoints are written: its own, or the store's."""
    store = "" if request.param == "here" else (tmp_path / "store").as_uri()
    output = Output(tmp_path / "out", store)
    url = output.training_url(KEY)
    return output, output.training(KEY) if url is None else (tmp_path / "store" / "checkpoints" / KEY[:12])


def test_a_training_that_ended_early_is_done_and_its_best_is_found(place):
    output, folder = place
    assert not training_committed(PATIENT, output, KEY)
    write(folder, LOSSES[:3], [0, 20, 30])
    assert not training_committed(PATIENT, output, KEY)  # one validation without a lower loss: it may go on
    write(folder, LOSSES, [40])
    assert training_committed(PATIENT, output, KEY)
    impatient = dataclasses.replace(PATIENT, train=Training(steps=100), evaluate=Evaluation())
    assert not training_committed(impatient, output, KEY)
    assert (last_name(PATIENT), last_name(impatient)) == ("last", "step-000100")
    assert (evaluated_name(PATIENT), evaluated_name(impatient)) == ("best", "step-000100")
    best, last = (located(output.training(KEY) / name, output.training_url(KEY)) for name in ("best", "last"))
    assert (best.name, last.name) == ("step-000020", "step-000040")
    assert best.joinpath("checkpoint.json").exists()
    assert last.joinpath("checkpoint.json").exists()


def test_a_training_that_went_to_the_last_step_is_done(place):
    output, folder = place
    write(folder, [], [0, 100])
    assert training_committed(PATIENT, output, KEY)
