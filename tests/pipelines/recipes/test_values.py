"""Bad values of every field of a recipe, and of every verb's options: each is refused, by name, all in one message."""

import dataclasses
import importlib
import json
import math
import pkgutil
import typing

import pytest

import pipelines.cli
from models.config.shape import SIZES
from models.config.values import Range, hints_of, within
from operators.errors import InputError
from pipelines.cli.arguments import Arguments
from pipelines.cli.stages import parse
from pipelines.recipes.check import check_recipe
from pipelines.recipes.files import from_mapping, load_recipe, to_json
from pipelines.recipes.named import tiny
from pipelines.recipes.recipe import Recipe
from pipelines.upkeep.sweep import parse_grid, with_values


def fields(kind, path=()):
    """Path, declaration and type of every plain field, of nested configurations too; optional ones by their type."""
    for one in dataclasses.fields(kind):
        hint = hints_of(kind)[one.name]
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        hint = options[0] if type(None) in typing.get_args(hint) else hint
        if dataclasses.is_dataclass(hint):
            yield from fields(hint, (*path, one.name))
        else:
            yield (*path, one.name), one, hint


def item_type(hint):
    return typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint


def bad_values(one, hint):
    """What no field of this type can mean."""
    yield {"a": 1}
    inner = item_type(hint)
    bad = {
        int: ["many", True, 1.5, 2**70, -(2**70), math.nan, math.inf],
        float: ["many", True, math.nan, math.inf, -math.inf, 10**400],
        bool: [1, 0, "maybe"],
        str: [3, "", "a\0b", "a\nb"],
    }.get(inner, ["no such choice", "", 3, True])
    allowed = one.metadata.get("range")
    bad = [*bad, *([allowed.low - 1, math.nextafter(allowed.high, math.inf) + 1] if allowed else [])]
    yield from ([["x"]] if inner is hint else ["no list", *([item] for item in bad)])
    yield from bad if inner is hint else []


ALL = list(fields(Recipe))


def written(path, value):
    data = json.loads(to_json(tiny()))
    data["corpus"]["join"] = {} if path[:2] == ("corpus", "join") else None
    node = data
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    return data


@pytest.mark.parametrize(("path", "one", "hint"), ALL, ids=[".".join(path) for path, _, _ in ALL])
def test_every_bad_value_of_every_field_is_refused_by_name(path, one, hint):
    for value in bad_values(one, hint):
        with pytest.raises(InputError, match=path[-1]) as refused:
            from_mapping(Recipe, written(path, value), "recipe")
        assert ".".join(path) in str(refused.value), value
        assert "\n" not in str(refused.value), value


@pytest.mark.parametrize(("path", "one", "hint"), ALL, ids=[".".join(path) for path, _, _ in ALL])
def test_every_number_declares_a_finite_range_which_its_default_is_in(path, one, hint):
    if item_type(hint) not in (int, float):
        return
    allowed = one.metadata["range"]
    assert -math.inf < allowed.low < allowed.high < math.inf
    defaults = one.default if isinstance(one.default, tuple) else (one.default,)
    assert all(value is None or allowed.holds(value) for value in defaults)


def test_the_command_line_refuses_what_files_refuse():
    for path, one, hint in ALL:
        if item_type(hint) not in (int, float) or path[:2] == ("corpus", "join"):
            continue
        flag = "--" + ".".join(path).replace("_", "-")
        for value in ("nan", "-inf", str(one.metadata["range"].low - 1)):
            with pytest.raises((InputError, SystemExit)) as refused:
                parse("plan", ["tiny", f"{flag}={value}"])
            # tyro itself reads no NaN as a whole number, and exits.
            assert ".".join(path) in str(refused.value) or refused.value.code == 2


def test_all_faults_are_in_one_message(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "train: {clip_norm: -1, steps: many, stepps: 3}\ncasting: {speakers_per_cohort: 0}\nmodel: {num_heads: 3}\n"
        "compose: {layout: spiral, window_s: .inf}\nseed: 1\nseed: 2\n"
    )
    with pytest.raises(InputError) as refused:
        load_recipe(str(path))
    said = str(refused.value)
    for fault in (
        "train.clip_norm is -1.0; it must be above 0",
        "train.steps must be a whole number",
        "unknown key train.stepps; did you mean steps?",
        "casting.speakers_per_cohort is 0; it must be at least 1",
        "model: num_heads must divide dim",
        "compose.layout: 'spiral' is none of",
        "compose.window_s is inf",
        "key seed stands twice, in lines 5 and 6",
    ):
        assert fault in said
    with pytest.raises(InputError, match=r"train.lr is nan.*train.steps is 0|train.steps is 0.*train.lr is nan"):
        parse("plan", ["tiny", "--train.lr", "nan", "--train.steps", "0"])


@pytest.mark.parametrize(
    "text",
    ["\0", "a: &a [*a]", "seed: 2020-13-45", "a: " + "[" * 5000, "seed: " + "9" * 5000, "{{1: 2}: 3}", "? [a]\n: 1"],
)
def test_what_yaml_cannot_mean_is_one_line(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=str(path)):
        load_recipe(str(path))
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="is not text in UTF-8"):
        load_recipe(str(path))


def test_recipes_extend_others_and_change_only_what_they_name(tmp_path):
    base, own = tmp_path / "base.yaml", tmp_path / "own.yaml"
    base.write_text("extends: tiny\ntrain: {lr: 0.5}\n")
    own.write_text("extends: base.yaml\ntrain: {steps: 7}\n")
    found, plain = load_recipe(str(own)), tiny()
    assert found == dataclasses.replace(plain, name="own", train=dataclasses.replace(plain.train, lr=0.5, steps=7))
    base.write_text("extends: own.yaml\n")
    with pytest.raises(InputError, match="extends itself"):
        load_recipe(str(own))
    own.write_text("extends: demmo\n")
    with pytest.raises(InputError, match="extends demmo: there are demo, "):
        load_recipe(str(own))


def test_a_named_size_sets_widths_and_depth_and_single_fields_go_before_it(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("model: {num_layers: 3, size: 0.6b, qkv_bias: true}\n")
    expected = dataclasses.replace(SIZES["0.6b"], num_layers=3, qkv_bias=True)
    assert load_recipe(str(path)).model == expected
    for order in (["--model.size", "0.6b", "--model.num-layers", "3"], ["--model.num-layers=3", "--model.size=0.6b"]):
        assert parse("plan", [str(path), "--model.qkv-bias", *order]).recipe.model == expected
    path.write_text("model: {size: huge}\n")
    with pytest.raises(InputError, match="size: 'huge' is none of tiny, small"):
        load_recipe(str(path))


def test_a_sweep_takes_sizes_and_refuses_what_a_recipe_refuses():
    found = with_values(tiny(), [("model.size", "small"), ("train.lr", "1e-3")])
    assert (found.model.dim, found.train.lr, found.train.steps) == (SIZES["small"].dim, 0.001, tiny().train.steps)
    assert parse_grid(["model.size=tiny,small"], tiny()) == [("model.size", ["tiny", "small"])]
    with pytest.raises(InputError, match=r"train.clip_norm is -1"):
        with_values(tiny(), [("train.clip_norm", -1)])
    with pytest.raises(InputError, match="cannot be read as values"):
        parse_grid(["train.lr=["], tiny())


def test_a_mixture_is_read_before_there_are_packs():
    recipe = dataclasses.replace(
        tiny(), train=dataclasses.replace(tiny().train, mixture=("asr=3,continue=1", "5:asr=1"))
    )
    check_recipe(recipe)
    for mixture in ("no/such=thing", "asr=-1", "speak=1", "x:asr=1"):
        wrong = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, mixture=(mixture,)))
        with pytest.raises(InputError, match=r"train\.mixture"):
            check_recipe(wrong)


def options():
    for module in pkgutil.iter_modules(pipelines.cli.__path__):
        importlib.import_module(f"pipelines.cli.{module.name}")
    todo = [Arguments]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if dataclasses.is_dataclass(kind):
            yield kind


def test_every_number_among_the_options_of_verbs_declares_a_range_too():
    kinds = list(options())
    assert len(kinds) > 15
    for kind in kinds:
        for one in dataclasses.fields(kind):
            hint = hints_of(kind)[one.name]
            inner = {item_type(option) for option in (hint, *typing.get_args(hint))}
            assert not inner & {int, float} or isinstance(one.metadata.get("range"), Range), (
                f"{kind.__name__}.{one.name}"
            )
    with pytest.raises(InputError, match=r"--workers is 0.*--train-workers is 0"):
        parse("plan", ["tiny", "--workers", "0", "--train-workers", "0"])


def test_ranges_hold_what_they_say():
    inner = within(0, 1, open_at="both")["range"]
    assert [inner.holds(value) for value in (0, 0.5, 1, math.nan)] == [False, True, False, False]
    assert within(0, 1)["range"].holds(1)
