"""Recipes by name or from YAML and JSON files, and back to JSON."""

import dataclasses
import difflib
import json
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from models.config.intact import parse_json
from operators.digest import digest_bytes, to_jsonable
from operators.errors import InputError
from operators.store import storage
from pipelines.recipes.named import RECIPES
from pipelines.recipes.recipe import Recipe

_DIGESTS = ".recipe-digests"
"""File next to recipe.json with the digest of every recipe that runs wrote there."""
RECIPE_VARIABLE = "HUBBUB_RECIPE"
"""Environment variable that holds a recipe's text; `env:HUBBUB_RECIPE` is then given in place of a file."""


def load_recipe(name: str) -> Recipe:
    """Return a recipe by its name, or from a YAML or JSON file with the same fields.

    Raises:
        InputError: there is neither, or the file names an unknown key or a value of another kind.
    """
    if name in RECIPES:
        return RECIPES[name]()
    path = Path(name)
    if name == f"env:{RECIPE_VARIABLE}":
        return _read(os.environ.get(RECIPE_VARIABLE, ""), name)
    if path.suffix not in (".yaml", ".yml", ".json"):
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(RECIPES)}, or a .yaml or .json file"
        raise InputError(f"there is no recipe {name}; {hint}")
    try:
        return _read(path.read_text(), str(path))
    except OSError as error:
        raise InputError(f"recipe file {path} cannot be read: {error.strerror}") from error


def recipe_of(folder: Path) -> Recipe:
    """Return the recipe that an output folder was made by.

    Raises:
        InputError: the folder is not the output of a run, or of another version of the program.
    """
    recipe: Recipe = from_mapping(Recipe, recipe_values(folder), str(folder / "recipe.json"))
    return recipe


def recipe_values(folder: Path) -> dict[str, Any]:
    """Return the resolved recipe of an output folder, as JSON values.

    Raises:
        InputError: there is none, or it is not one that a run wrote there.
    """
    path, known = folder / "recipe.json", folder / _DIGESTS
    remedy = f"run the recipe again with --output {folder} --update: it is written again, and what still fits is kept"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{folder} is not the output folder of a run: {error.strerror}") from error
    values: dict[str, Any] = parse_json(data, str(path), remedy)
    if known.exists() and digest_bytes(data) not in known.read_text(errors="replace").split():
        raise InputError(f"{path} is damaged or was edited: no run wrote it; {remedy}")
    return values


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Write a resolved recipe to an output folder.

    Digests of what was written are kept beside it, the new one first: a kill between the two leaves a valid recipe.
    """
    data, known = to_json(recipe).encode(), folder / _DIGESTS
    lines = known.read_text(errors="replace").split() if known.exists() else []
    storage.replace_bytes("".join(f"{one}\n" for one in [*lines, digest_bytes(data)]).encode(), str(known))
    storage.replace_bytes(data, str(folder / "recipe.json"))


def _read(text: str, path: str) -> Recipe:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"recipe file {path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(data, dict):
        raise InputError(f"recipe file {path} must hold keys and values, as `hubbub plan demo --print-recipe` shows")
    recipe: Recipe = from_mapping(Recipe, data, path)
    return recipe


def from_mapping(kind: Any, data: Mapping[str, Any], where: str) -> Any:
    """Build a dataclass from keys and values; fields that are not given keep their defaults.

    Raises:
        InputError: names the unknown key and the nearest one, or the value that does not fit.
    """
    names = {f.name for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in data:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(names))}"
            hint += " (a recipe of a newer version may know more than this one)" if not near else ""
            raise InputError(f"{where}: unknown key {key}; {hint}")
    try:
        return kind(**{key: _value(hints[key], value, f"{where}: {key}") for key, value in data.items()})
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in options:
            return None
        return _value(next(option for option in options if option is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise InputError(f"{where} must hold keys and values")
        return from_mapping(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where} must be a list")
        return tuple(_value(options[0], item, where) for item in value)
    if origin is typing.Literal:
        if value not in options:
            raise InputError(f"{where}: {value!r} is none of {', '.join(map(str, options))}")
        return value
    if hint is float:
        # YAML reads 1e-3 as text: its own notation is 1.0e-3.
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise InputError(f"{where} must be a number, not {type(value).__name__} ({value!r})")
        try:
            return float(value)
        except ValueError as error:
            raise InputError(f"{where} must be a number, not {value!r}") from error
    if hint in (int, str, bool) and type(value) is not hint:
        raise InputError(f"{where} must be of type {hint.__name__}, not {type(value).__name__} ({value!r})")
    return value


def to_json(recipe: Recipe) -> str:
    """Write a resolved recipe; `named_or_file` reads it back."""
    return json.dumps(to_jsonable(recipe), indent=1, sort_keys=True) + "\n"


def result_part(data: Mapping[str, Any], kind: Any = Recipe) -> dict[str, Any]:
    """Return a resolved recipe, as JSON values, without the fields that change no result."""
    hints, part = typing.get_type_hints(kind), dict(data)
    for one in dataclasses.fields(kind):
        if one.metadata.get("result", True) is False:
            part.pop(one.name, None)
        elif dataclasses.is_dataclass(hints[one.name]) and isinstance(part.get(one.name), dict):
            part[one.name] = result_part(part[one.name], hints[one.name])
    return part


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """List where two resolved recipes differ, as `train.steps: 600 -> 700`."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            line
            for key in sorted(one.keys() | other.keys())
            for line in differences(one.get(key), other.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if one == other else [f"{path}: {json.dumps(one)} -> {json.dumps(other)}"]
