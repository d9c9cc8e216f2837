"""Numbers that a recipe leaves to the corpus: which ones are open, and what they become."""

import dataclasses

import pytest

from models.config.shape import SIZES
from operators.corpus.cast import Casting
from operators.simulate.converse import Converse
from pipelines.cli.stages import parse
from pipelines.plan.fitting import CONVERSATIONS, STEPS, Speech, fit
from pipelines.plan.output import Output
from pipelines.recipes.check import check_recipe
from pipelines.recipes.files import from_mapping, load_recipe, to_json
from pipelines.recipes.named import custom
from pipelines.recipes.open import settled, without_given
from pipelines.recipes.recipe import OPEN, Recipe
from pipelines.stages import plan_recipe
from tests.conftest import write_corpus
from tests.golden.fingerprints import Road, index_corpus

ALL = tuple(OPEN)
TEN_MINUTES, HUNDRED_HOURS = Speech(150, 600.0, 0.0), Speech(36_000, 360_000.0, 0.0)


@pytest.mark.parametrize(
    ("text", "arguments", "left"),
    [
        ("{}", (), ALL),
        ("train: {steps: 300}", (), ("window", "capacity", "conversations", "size")),
        ("{}", ("--train.steps", "300"), ("window", "capacity", "conversations", "size")),
        ("{}", ("--train.steps=300", "--compose.window-s=9"), ("capacity", "conversations", "size")),
        ("model: {num_layers: 3}", ("--pack.capacity", "4096"), ("window", "conversations", "steps")),
        ("model: {size: small}\ncasting: {train_conversations: 7}", (), ("window", "capacity", "steps")),
        ("{}", ("--model.size", "base"), ("window", "capacity", "conversations", "steps")),
        ("fit: [steps]\ntrain: {steps: 5}", (), ("steps",)),
        ("extends: demo", (), ()),
        ("{}", ("--fit", "size"), ("size",)),
    ],
)
def test_what_is_given_is_not_left_to_the_corpus(tmp_path, text, arguments, left):
    """Even where it is given as the default has it."""
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    recipe = parse("run", [str(path), *arguments]).recipe
    assert recipe.fit == left
    path.with_suffix(".json").write_text(to_json(recipe))
    assert load_recipe(str(path.with_suffix(".json"))) == recipe


@pytest.mark.parametrize("layout", ["parallel", "delay", "flat"])
@pytest.mark.parametrize("max_duration_s", [4.0, 30.0, 90.0])
def test_windows_fit_into_packs_whatever_the_layout(layout, max_duration_s):
    data = {
        "compose": {"layout": layout},
        "converse": {"max_duration_s": max_duration_s},
        "corpus": {"manifests": ["x"]},
    }
    recipe = settled(from_mapping(Recipe, data, "test", custom()))
    assert recipe.compose.window_s == min(30.0, max_duration_s)
    codec = recipe.encode.spec
    columns = recipe.compose.layout_of(codec).num_columns(int(recipe.compose.window_s * codec.frame_rate_hz))
    assert columns + 16 < recipe.pack.capacity < 4 * max(columns, 512)
    check_recipe(recipe)


def test_ten_minutes_and_a_hundred_hours_both_have_sensible_numbers():
    recipe = settled(custom())
    small, large = (fit(recipe, speech)[0] for speech in (TEN_MINUTES, HUNDRED_HOURS))
    assert (small.casting.train_conversations, small.train.steps, small.model) == (200, 300, SIZES["tiny"])
    assert large.casting.train_conversations == 36_000  # each utterance three times, three to a conversation of 30 s
    assert 10_000 < large.train.steps < 30_000
    assert large.model == SIZES["small"]
    for one in (small, large):
        assert CONVERSATIONS[0] <= one.casting.train_conversations <= CONVERSATIONS[1]
        assert STEPS[0] <= one.train.steps <= STEPS[1]


def test_only_open_numbers_are_fitted_and_the_line_says_each():
    given = without_given(custom(), ["train.steps", "model.dim"])
    recipe, said = fit(given, HUNDRED_HOURS)
    assert recipe.train == given.train
    assert recipe.model == given.model
    assert "36000 conversations" in said
    assert "steps" not in said
    assert fit(dataclasses.replace(given, fit=()), HUNDRED_HOURS) == (dataclasses.replace(given, fit=()), "")


def test_weights_to_start_from_decide_the_size():
    recipe = dataclasses.replace(custom(), train=dataclasses.replace(custom().train, start_from="last"))
    assert fit(recipe, HUNDRED_HOURS)[0].model == recipe.model


def test_a_recipe_is_the_same_one_before_and_after_it_is_fitted():
    recipe = load_recipe("custom")
    assert fit(recipe, HUNDRED_HOURS)[0].digest == recipe.digest
    assert dataclasses.replace(recipe, fit=()).digest != recipe.digest


def test_the_plan_has_the_numbers_of_the_corpus(tmp_path):
    recipe = dataclasses.replace(
        custom(),
        corpus=dataclasses.replace(custom().corpus, manifests=(str(write_corpus(tmp_path / "corpus")),)),
        casting=Casting(max_speakers=2, test_conversations=2, test_speakers=0.34),
        converse=Converse(min_turns=2, max_turns=3),
    )
    road = Road(recipe, Output(tmp_path / "out"))
    index_corpus(road)
    plan = plan_recipe(recipe, road.output)
    assert plan.fitting.startswith("0.2 min of training speech: 200 conversations")
    assert sum(len(p.row_ids) for p in plan.stage("conversations").partitions if "train" in p.partition_id) == 200
    fewer = dataclasses.replace(recipe, casting=dataclasses.replace(recipe.casting, train_conversations=50), fit=())
    plan = plan_recipe(fewer, road.output)
    assert sum(len(p.row_ids) for p in plan.stage("conversations").partitions if "train" in p.partition_id) == 50
