import dataclasses
import json
import re

import pytest
import yaml

from operators.errors import InputError
from pipelines.plan.context import RunOptions
from pipelines.recipes.check import check_recipe
from pipelines.recipes.files import differences, from_mapping, load_recipe, to_json
from pipelines.recipes.named import RECIPES, demo, tiny
from pipelines.recipes.phases import in_phase
from pipelines.recipes.recipe import Recipe
from pipelines.run import run
from pipelines.use.speak import Line, script_of


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "custom"])
def test_every_named_recipe_can_run_and_reads_back_as_it_is(name, tmp_path):
    recipe = load_recipe(name)
    if not recipe.corpus.recorded and recipe.corpus.layout != "labels":  # a set's folder is the user's
        with pytest.raises(InputError, match=r"--corpus.recorded test=PATH"):
            check_recipe(recipe)
        recipe = dataclasses.replace(recipe, corpus=dataclasses.replace(recipe.corpus, recorded=("test=somewhere",)))
    if recipe.encode.codec == "pcm" and recipe.model.encoder is None:  # so is an encoder's
        with pytest.raises(InputError, match=r"--model\.encoder FOLDER"):
            check_recipe(recipe)
        recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder="somewhere"))
    check_recipe(recipe)
    for number in range(len(recipe.phases)):
        check_recipe(in_phase(recipe, number))
    for suffix, text in (("json", to_json(recipe)), ("yaml", yaml.safe_dump(json.loads(to_json(recipe))))):
        path = tmp_path / f"r.{suffix}"
        path.write_text(text)
        again = load_recipe(str(path))
        assert again == recipe
        assert again.digest == recipe.digest


def test_a_file_keeps_the_defaults_of_what_it_does_not_name(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("name: mine\ntrain: {steps: 7, lr: 1}\ncompose: {tasks: [asr, continue]}\n")
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.train.steps, recipe.train.lr) == ("mine", 7, 1.0)
    assert recipe.compose.tasks == ("asr", "continue")
    assert recipe.pack == Recipe().pack


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian: {steps: 1}", "unknown key trian; did you mean train"),
        ("train: {stepps: 1}", "unknown key train.stepps; did you mean steps"),
        ("train: {steps: many}", "train.steps must be a whole number, not 'many'"),
        ("train: {steps: 0}", "must be at least 1"),
        ("train: 3", "must hold keys and values"),
        ("compose: {layout: spiral}", "'spiral' is none of parallel, delay"),
        ("compose: {tasks: asr}", "must be a list"),
        ("[1]", "must hold keys and values"),
        ("a: [", "is not YAML"),
        ("model: {dim: 30, num_heads: 4}", "num_heads must divide dim"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_recipe(str(path))


def test_unknown_names_and_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match="there is no recipe demmo; did you mean demo"):
        load_recipe("demmo")
    with pytest.raises(InputError, match="cannot be read"):
        load_recipe(str(tmp_path / "none.yaml"))


def test_differences_say_what_changed():
    from dataclasses import replace

    recipe = demo()
    other = replace(recipe, train=replace(recipe.train, steps=1))
    assert differences(json.loads(to_json(recipe)), json.loads(to_json(other))) == [
        f"train.steps: {recipe.train.steps} -> 1"
    ]
    assert recipe.digest != other.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("converse: {sample_rate_hz: 8000}", "codec dmel needs 16000 Hz"),
        (
            "compose: {window_s: 60}\npack: {capacity: 2048}\ncorpus: {manifests: [x]}",
            "makes 2400 columns, but a pack holds 2048",
        ),
        ("name: x\npack: {capacity: 2048}", "names no corpus"),
        ("corpus: {manifests: [x]}\nconverse: {min_turns: 1, max_turns: 3}", "up to 4 speakers need as many turns"),
        ("pack: {capacity: 2048}\ncorpus: {manifests: [x]}\ncasting: {test_conversations: 0}", "both splits need"),
    ],
)
def test_what_no_single_stage_can_see_is_checked_first(tmp_path, change, message):
    path = tmp_path / "r.yaml"
    path.write_text(change)
    with pytest.raises(InputError, match=message):
        check_recipe(load_recipe(str(path)))


def test_a_task_that_is_never_trained_is_refused_by_evaluate_before_any_work(tmp_path):
    recipe = from_mapping(
        Recipe,
        {
            "corpus": {"manifests": ["x"]},
            "compose": {"tasks": ["continue"]},
            "pack": {"capacity": 4096},
            "evaluate": {"tasks": ["asr"]},
        },
        "recipe",
    )
    with pytest.raises(InputError, match=r"never trained on asr; add it to compose.tasks \(continue\)"):
        run(recipe, RunOptions(output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_tiny_recipe_is_tiny():
    assert tiny().train.steps <= 20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"compose": {"tasks": ["extract"]}}, "extract needs codes of each speaker's own sound"),
        ({"encode": {"codec": "mimi"}}, "codec mimi needs the folder of its weights"),
        ({"compose": {"tokenizer": "/nowhere.json"}}, "/nowhere.json is not a readable tokenizer.json"),
        ({"place": {"room": "recorded", "rirs": "/nowhere"}}, "/nowhere does not exist"),
        ({"place": {"noise": "recorded"}}, "--place.noises requires --place.noise recorded, and vice versa"),
        ({"pack": {"capacity": 4096, "related": "together"}}, "has no effect where documents of a pack cannot see"),
        (
            {"train": {"mixture": ["grow"]}},
            "grow goes from short packs to long ones, but pack.packer best_fit",
        ),
        ({"encode": {"stems": True}}, "encode.stems encodes what --render.stems makes"),
        ({"train": {"precision": "fp8"}, "model": {"lora_rank": 4}}, "low-rank updates (model.lora_rank) are trained"),
    ],
)
def test_recipes_that_lack_what_they_need_are_refused(change, said):
    recipe = {"corpus": {"manifests": ["x"]}, "pack": {"capacity": 4096}, **change}
    with pytest.raises(InputError, match=re.escape(said)):
        check_recipe(from_mapping(Recipe, recipe, "recipe"))


def test_training_in_8_bits_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("pipelines.recipes.check.find_spec", lambda _: None)
    for change, said in (({"precision": "fp8"}, "precision fp8"), ({"optimizer": "adamw8bit"}, "optimizer adamw8bit")):
        recipe = {"corpus": {"manifests": ["x"]}, "pack": {"capacity": 4096}, "train": change}
        with pytest.raises(InputError, match=re.escape(f"--train.{said} needs torchao: pip install 'hubbub[lowbit]'")):
            check_recipe(from_mapping(Recipe, recipe, "recipe"))


def test_scripts_are_read_or_named():
    assert script_of("[s1] Hello there! [s0] hi") == [Line(1, "hello there"), Line(0, "hi")]
    cases = {"hello": "must begin with a speaker's tag", "[s0] [s1] hi": "[s0] has no text in the script"}
    for script, said in cases.items():
        with pytest.raises(InputError, match=re.escape(said)):
            script_of(script)


def test_a_number_may_be_written_as_people_do(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("train: {lr: 1e-3}\n")
    assert load_recipe(str(path)).train.lr == 0.001
    path.write_text("train: {lr: fast}\n")
    with pytest.raises(InputError, match=r"train.lr must be a number, not 'fast'"):
        load_recipe(str(path))
