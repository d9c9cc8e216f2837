"""Recipes of several trainings in a row: what each phase is, and whose output folder it is."""

from dataclasses import replace

import pytest

from models.config.shape import Shape
from operators.errors import InputError
from pipelines.plan.start import _is_update, shape_of
from pipelines.recipes.files import from_mapping, load_recipe, recipe_of, to_json, write_recipe
from pipelines.recipes.named import tiny
from pipelines.recipes.phase import Phase
from pipelines.recipes.phases import changed_phases, check_phases, in_phase, start_of
from pipelines.recipes.recipe import Recipe

ALONE = Phase(name="alone", tasks=("asr",), min_speakers=1, max_speakers=1, only=("projector",), lr=0.1, steps=7)
TOGETHER = Phase(name="together", patience=0, train_conversations=9)


def staged(**changes):
    return replace(tiny(), phases=(ALONE, TOGETHER), **changes)


def test_a_phase_is_the_recipe_with_what_the_phase_gives():
    recipe = staged()
    one, two = in_phase(recipe, 0), in_phase(recipe, 1, "here")
    assert (one.casting.min_speakers, one.casting.max_speakers, one.compose.tasks) == (1, 1, ("asr",))
    assert (one.train.only, one.train.lr, one.train.steps) == (("projector",), 0.1, 7)
    assert (one.train.start_from, two.train.start_from) == (None, "here")
    expected = replace(tiny(), name="tiny-together", casting=replace(tiny().casting, train_conversations=9))
    assert two == replace(expected, train=replace(tiny().train, start_from="here"))
    assert (one.casting.test_conversations, two.casting.test_conversations) == (1, 4)  # the last one is evaluated
    assert one.phases == two.phases == ()


def test_the_first_phase_starts_from_the_recipes_initial_weights_and_the_digest_knows_the_phases():
    recipe = staged(train=replace(tiny().train, start_from="llm"))
    assert in_phase(recipe, 0).train.start_from == "llm"
    assert recipe.digest != replace(recipe, phases=(ALONE,)).digest != replace(recipe, phases=()).digest


def test_a_number_that_a_phase_gives_is_not_left_to_the_corpus():
    recipe = replace(load_recipe("custom"), phases=(Phase(name="a", steps=5), Phase(name="b", train_conversations=5)))
    assert set(recipe.fit) - set(in_phase(recipe, 0).fit) == {"steps"}
    assert set(recipe.fit) - set(in_phase(recipe, 1).fit) == {"conversations"}


def test_phases_are_written_and_read_as_any_other_field(tmp_path):
    recipe = staged()
    write_recipe(recipe, tmp_path)
    assert recipe_of(tmp_path) == recipe
    read = from_mapping(Recipe, {"phases": [{"name": "alone", "only": ["projector"], "lr": 0.1}]}, "file", tiny())
    assert read.phases == (Phase(name="alone", only=("projector",), lr=0.1),)
    with pytest.raises(InputError, match=r"unknown key phases\.rate"):
        from_mapping(Recipe, {"phases": [{"name": "alone", "rate": 1}]}, "file", tiny())
    assert '"phases"' in to_json(recipe)


def test_a_folder_is_anothers_unless_a_phase_of_this_recipe_was_run_there(tmp_path):
    recipe = staged()
    assert changed_phases(tmp_path, recipe) == []
    assert start_of(tmp_path) is None
    for mine in (in_phase(recipe, 0), in_phase(recipe, 1, "runs/x/checkpoints/abc/step-000007")):
        write_recipe(mine, tmp_path)
        assert changed_phases(tmp_path, recipe) == []
        assert start_of(tmp_path) == mine.train.start_from
    write_recipe(replace(in_phase(recipe, 1), seed=3), tmp_path)
    assert changed_phases(tmp_path, recipe) == ["seed: 3 -> 0"]


def test_every_phase_is_checked_before_the_first_is_run():
    check_phases(staged())
    with pytest.raises(InputError, match=r"train\.only lora needs .* --model\.lora-rank 16"):
        check_phases(replace(staged(), phases=(ALONE, replace(TOGETHER, only=("lora",)))))
    frozen = replace(staged(), model=replace(tiny().model, lora_rank=4))
    with pytest.raises(InputError, match=r"which model\.lora_rank freezes"):
        check_phases(replace(frozen, phases=(ALONE, replace(TOGETHER, only=("llm",)))))


def test_a_later_phase_may_add_low_rank_updates_and_compression(monkeypatch):
    begun = Shape(encoder="e", lora_rank=0)
    monkeypatch.setattr("pipelines.plan.start._ours", lambda name: name)
    monkeypatch.setattr("pipelines.plan.start.read_header", lambda _: (3, type("H", (), {"shape": begun})))
    wanted = Shape(encoder="e", lora_rank=8, encoder_rank=4, compress="ctc")
    recipe = replace(tiny(), model=wanted, train=replace(tiny().train, start_from="there"))
    assert shape_of(recipe) == wanted
    assert _is_update("front_end.hearing.update_up.11")
    assert _is_update("blocks.0.ffn.down.update_down")
    assert not _is_update("blocks.11")
