"""Recipes by name or from YAML and JSON files, and back to JSON."""

import dataclasses
import difflib
import json
import os
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from models.config.intact import parse_json
from models.config.secrets import masked
from models.config.shape import SIZES, Shape, sized
from models.config.values import collected_faults, hints_of
from operators.digest import digest_bytes, to_jsonable
from operators.errors import InputError
from operators.store import storage
from pipelines.recipes.named import RECIPES
from pipelines.recipes.open import without_given
from pipelines.recipes.recipe import Recipe
from pipelines.recipes.whisper import from_whisper

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
    return _read_file(path, ())


def _read_file(path: Path, above: tuple[Path, ...]) -> Recipe:
    """Return the recipe of a file; `above` are the files that it is read for, each of which extends the next.

    Raises:
        InputError: it cannot be read, or the files extend each other.
    """
    if path.resolve() in above:
        raise InputError(f"recipe file {path} extends itself, by way of {above[-1]}")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"recipe file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"recipe file {path} is not text in UTF-8: byte {error.start} cannot be read") from error
    return _read(text, str(path), (*above, path.resolve()))


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


class _Loader(yaml.SafeLoader):
    """Reads YAML, and with it JSON, and notes the keys that stand twice, of which YAML takes the last in silence."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.doubled: list[str] = []

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in lines and key.value != "<<":
                line = key.start_mark.line + 1
                self.doubled.append(f"key {key.value} stands twice, in lines {lines[key.value]} and {line}")
            elif isinstance(key, yaml.ScalarNode):
                lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _read(text: str, path: str, above: tuple[Path, ...] = ()) -> Recipe:
    try:
        loader = _Loader(text)
        data = loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"recipe file {path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(data, dict):
        raise InputError(f"recipe file {path} must hold keys and values, as `hubbub plan demo --print-recipe` shows")
    base = RECIPES["custom"]()
    if "extends" in data:
        base = _extended(data.pop("extends"), path, above)
        data.setdefault("name", Path(path).stem if above else "custom")
    recipe: Recipe = from_mapping(Recipe, data, path, base, loader.doubled)
    return recipe


def _extended(name: Any, path: str, above: tuple[Path, ...]) -> Recipe:
    """Return the recipe that a file extends: a named one, or a file, from the file's own folder on.

    Raises:
        InputError: there is none.
    """
    if not isinstance(name, str) or not name:
        raise InputError(f"{path}: extends takes one recipe's name or file, not {name!r}")
    if name in RECIPES:
        return RECIPES[name]()
    file = Path(path).parent / name
    if file.suffix not in (".yaml", ".yml", ".json"):
        raise InputError(f"{path}: extends {name}: there are {', '.join(RECIPES)}, or a .yaml or .json file")
    return _read_file(file, above)


def from_mapping(kind: Any, data: Mapping[str, Any], where: str, base: Any = None, faults: Sequence[str] = ()) -> Any:
    """Build a dataclass from keys and values; fields that are not given keep the values of `base`, or their defaults.

    Args:
        kind: of the dataclass.
        data: by field; nested dataclasses are mappings of their own.
        where: the text was read, for the message.
        base: what is changed, if anything.
        faults: found before, which belong into the same message.

    Raises:
        InputError: names everything that is wrong: unknown keys and the nearest known ones, and values that do not fit.
    """
    model = data.get("model") if kind is Recipe else None
    if isinstance(model, dict) and "from_whisper" in model:
        base = from_whisper(base or Recipe(), str(model["from_whisper"]))
        data = {**data, "model": {key: value for key, value in model.items() if key != "from_whisper"}}
    with collected_faults() as found:
        found.extend(faults)
        made = _built(kind, data, "", base, found)
    if found:
        raise InputError(f"{where}: {'; '.join(dict.fromkeys(found))}")
    if isinstance(made, Recipe) and "fit" not in data:
        made = without_given(made, (f"{section}.{name}" for section, part in data.items() for name in _names(part)))
    return made


def _names(part: Any) -> Iterable[str]:
    """Return the fields that a part of a recipe names."""
    return part if isinstance(part, dict) else ()


def _built(kind: Any, data: Mapping[str, Any], path: str, base: Any, found: list[str]) -> Any:
    """Make a dataclass, whose own check, and that of each nested one, adds to `found`."""
    hints, values = hints_of(kind), {}
    names = [*(one.name for one in dataclasses.fields(kind)), *(["size"] if kind is Shape else [])]
    if kind is Shape and "size" in data:
        base = _sized(base, data["size"], path, found)
    for key, value in data.items():
        name = f"{path}{key}"
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(names))}"
            hint += " (a recipe of a newer version may know more than this one)" if not near else ""
            found.append(f"unknown key {name}; {hint}")
        elif not (kind is Shape and key == "size"):
            values[key] = _value(hints[key], value, name, getattr(base, key, None), found)
    return kind(**values) if base is None else dataclasses.replace(base, **values)


def _sized(base: Shape | None, size: Any, path: str, found: list[str]) -> Shape | None:
    if size in SIZES:
        return sized(base or Shape(), size)
    found.append(f"{path}size: {size!r} is none of {', '.join(SIZES)}")
    return base


def _value(hint: Any, value: Any, name: str, base: Any, found: list[str]) -> Any:
    """Return what JSON or YAML wrote as the field's type has it; what does not fit is left to the field's own check."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _value(next(option for option in options if option is not type(None)), value, name, base, found)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _built(hint, value, f"{name}.", base, found)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(options[0], item, name, None, found) for item in value)
    if hint is float and not isinstance(value, bool):
        with suppress(TypeError, ValueError, OverflowError):
            return float(value)  # YAML reads 1e-3 as text: its own notation is 1.0e-3
    return value


def to_json(recipe: Recipe) -> str:
    """Write a resolved recipe without passwords of URLs; `load_recipe` reads it back."""
    return masked(json.dumps(to_jsonable(recipe), indent=1, sort_keys=True)) + "\n"


def result_part(data: Mapping[str, Any], kind: Any = Recipe) -> dict[str, Any]:
    """Return a resolved recipe, as JSON values, without the fields that change no result."""
    hints, part = typing.get_type_hints(kind), dict(data)
    for one in dataclasses.fields(kind):
        if one.metadata.get("result", True) is False:
            part.pop(one.name, None)
        elif dataclasses.is_dataclass(hints[one.name]) and isinstance(part.get(one.name), dict):
            part[one.name] = result_part(part[one.name], hints[one.name])
    return part


def changed_since(folder: Path, recipe: Recipe) -> list[str]:
    """List what changes results in a recipe, against the one that an output folder was last used with.

    Raises:
        InputError: that one is damaged.
    """
    if not (folder / "recipe.json").exists():
        return []
    return differences(result_part(recipe_values(folder)), result_part(json.loads(to_json(recipe))))


def is_kept(recipe: Recipe, folder: Path) -> bool:
    """Return whether an output folder holds exactly this resolved recipe."""
    path = folder / "recipe.json"
    return path.exists() and path.read_bytes() == to_json(recipe).encode()


def in_short(changed: Sequence[str]) -> str:
    """Write the first of some differences."""
    return "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if len(changed) > 3 else "")


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """List where two resolved recipes differ, as `train.steps: 600 -> 700`."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            line
            for key in sorted(one.keys() | other.keys())
            for line in differences(one.get(key), other.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if one == other else [f"{path}: {json.dumps(one)} -> {json.dumps(other)}"]
