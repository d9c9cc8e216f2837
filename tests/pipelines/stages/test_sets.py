"""Recipes of sets: they test without a train split, with the settings of the checkpoint that they test."""

import dataclasses
import json

import pytest

from operators.errors import InputError
from pipelines.plan.context import RunOptions
from pipelines.plan.output import Output
from pipelines.plan.sets import check_training_split, fitted, is_set
from pipelines.recipes.named import RECIPES
from pipelines.run import run
from pipelines.stages import plan_recipe
from tests.golden.fingerprints import Road, index_corpus
from tests.operators.corpus.sets.test_given import conversation, write_list, write_sounds
from tests.pipelines.support import hubbub, make_stale


@pytest.fixture
def listed(tmp_path):
    """A set's recipe for a list of one mixture."""
    write_sounds(tmp_path)
    recipe = RECIPES["frozen"]()
    recorded = (str(write_list(tmp_path, conversation())),)
    return dataclasses.replace(recipe, corpus=dataclasses.replace(recipe.corpus, recorded=recorded, audio_roots=()))


def test_a_set_is_simulated_and_tokenized_without_a_train_split(listed, tmp_path):
    assert is_set(listed)
    road = Road(listed, Output(tmp_path / "out"))
    index_corpus(road)
    plan, output = plan_recipe(listed, road.output), road.output
    assert [p.partition_id for p in plan.stage("conversations").partitions] == ["test-recorded-00000"]
    for name in ("conversations", "codes"):
        make_stale(plan.stage(name), listed, output)
    codes = output.dataset("codes")
    (partition,) = plan.stage("codes").partitions
    (row,) = codes.open(codes.committed(partition)).read_all().to_pylist()
    assert json.loads(row["user_columns"]) == {"overlap": 20}
    assert [turn["speaker"] for turn in row["turns"]] == ["a", "b"]


def test_only_a_set_with_a_train_split_can_train(listed):
    check_training_split(listed, has_train=True)
    with pytest.raises(InputError, match="train split"):
        check_training_split(listed, has_train=False)


@pytest.mark.slow
def test_a_set_without_a_train_split_stops_before_training(listed, tmp_path):
    with pytest.raises(InputError, match=r"no conversation of the train split.*hubbub evaluate frozen --checkpoint"):
        run(listed, RunOptions(output=tmp_path / "out"), "train")


def test_other_recipes_still_need_both_splits(tmp_path):
    from tests.golden.fingerprints import recipe_of, write_corpus

    recipe = recipe_of(*write_corpus(tmp_path / "corpus"))
    recipe = dataclasses.replace(recipe, casting=dataclasses.replace(recipe.casting, train_conversations=0))
    recipe = dataclasses.replace(recipe, corpus=dataclasses.replace(recipe.corpus, recorded=()))
    assert not is_set(recipe)
    road = Road(recipe, Output(tmp_path / "out"))
    index_corpus(road)
    with pytest.raises(InputError, match="train split has no conversation"):
        plan_recipe(recipe, road.output)


def test_a_set_takes_the_settings_of_the_checkpoint(listed, tmp_path):
    from pipelines.plan.header import header_of

    trained = dataclasses.replace(listed, compose=dataclasses.replace(listed.compose, group=1, layout="depth"))
    header = dataclasses.asdict(header_of(trained, {}))
    folder = tmp_path / "run/checkpoints/abc/step-000010"
    folder.mkdir(parents=True)
    (folder / "checkpoint.json").write_text(json.dumps({"step": 10, **header}))
    recipe = fitted(listed, tmp_path / "run")
    assert (recipe.compose.layout, recipe.compose.group) == ("depth", 1)
    columns = recipe.compose.layout_of(recipe.encode.spec).num_columns(
        int(recipe.compose.window_s * recipe.encode.spec.frame_rate_hz)
    )
    assert recipe.pack.capacity >= columns + 16
    assert recipe.corpus == listed.corpus
    with pytest.raises(InputError, match="no checkpoint"):
        fitted(listed, tmp_path / "nowhere")


@pytest.mark.slow
@pytest.mark.ray
def test_a_checkpoint_is_evaluated_on_a_set(listed, tmp_path, corpus):
    from tests.pipelines.support import write_recipe

    recipe = write_recipe(tmp_path / "recipe.yaml", corpus)
    hubbub("train", recipe, "--output", tmp_path / "trained", "--train.steps", 2, "--workers", 1)
    done = hubbub(
        "evaluate",
        "frozen",
        "--checkpoint",
        tmp_path / "trained",
        "--corpus.recorded",
        *listed.corpus.recorded,
        "--corpus.audio-roots",
        tmp_path,
        "--evaluate.max-tokens",
        4,
        "--output",
        tmp_path / "out",
        "--workers",
        1,
    )
    assert "on 1 conversations" in done.stdout
