"""The default commands on a GPU: what a user types first, with no option that says how a GPU is to be used."""

import json
import math

import pytest
import soundfile
import torch

from tests.conftest import write_corpus
from tests.pipelines.support import hubbub, losses, write_recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


TASKS = ("--compose.tasks", "asr", "speak")


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda")
    recipe = write_recipe(folder / "recipe.yaml", write_corpus(folder / "corpus"))
    hubbub("run", recipe, "--output", folder / "out", *TASKS)
    return recipe, folder / "out"


def test_run_trains_and_evaluates(output):
    _, folder = output
    curve = losses(folder)
    assert all(map(math.isfinite, curve))
    assert sum(curve[-10:]) < 0.8 * sum(curve[:10])
    (metrics,) = folder.glob("evaluation/*/metrics.json")
    assert json.loads(metrics.read_text())


def test_evaluate_again_gives_the_same(output):
    recipe, folder = output
    before = {path: path.read_bytes() for path in folder.glob("evaluation/*/metrics.json")}
    hubbub("evaluate", recipe, "--output", folder, *TASKS)
    assert {path: path.read_bytes() for path in folder.glob("evaluation/*/metrics.json")} == before


def test_transcribe_and_speak_answer(output, tmp_path):
    _, folder = output
    checkpoint = max(folder.glob("checkpoints/*/step-*"))
    sound = next(folder.parent.glob("corpus/**/*.wav"))
    assert hubbub("transcribe", sound, "--checkpoint", checkpoint).stdout.strip()
    answer = tmp_path / "answer.wav"
    hubbub("speak", "[s0] hello [s1] good morning", "--checkpoint", checkpoint, "--output", answer, "--max-s", 1)
    assert soundfile.info(answer).frames > 0
