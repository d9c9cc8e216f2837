"""sweep: a small grid of recipes in one output folder, as nested runs that share every stage they can."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import yaml

from operators.digest import to_jsonable
from operators.errors import InputError
from operators.store import storage
from pipelines.plan.context import RunOptions
from pipelines.recipes.files import from_mapping, write_recipe
from pipelines.recipes.open import settled
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console
from pipelines.reporting.mlflow_runs import SweepRun
from pipelines.run import run


def parse_grid(texts: Sequence[str], recipe: Recipe) -> list[tuple[str, list[Any]]]:
    """Read `train.lr=1e-3,3e-3` into fields of the recipe and their values.

    Raises:
        InputError: a field does not exist, or has no value.

    >>> parse_grid(["train.lr=1e-3,3e-3"], Recipe())
    [('train.lr', ['1e-3', '3e-3'])]
    """
    grid = []
    for text in texts:
        name, sign, values = text.partition("=")
        try:
            listed = [yaml.safe_load(value) for value in values.split(",") if value]
        except (yaml.YAMLError, ValueError) as error:
            raise InputError(f"--grid {text}: {values!r} cannot be read as values") from error
        if not sign or not listed:
            raise InputError(f"--grid {text} is not FIELD=VALUE,VALUE as in train.lr=1e-3,3e-3")
        node: Any = to_jsonable(recipe)
        node["model"]["size"] = None  # no field: it sets several
        for part in name.split("."):
            if not isinstance(node, dict) or part not in node:
                raise InputError(f"--grid {text}: the recipe has no field {name}")
            node = node[part]
        grid.append((name, listed))
    return grid


def with_values(recipe: Recipe, values: Sequence[tuple[str, Any]]) -> Recipe:
    """Return a recipe with some fields changed.

    Raises:
        InputError: a value is of the wrong kind.
    """
    data: dict[str, Any] = {}
    for name, value in values:
        *path, last = name.split(".")
        node = data
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    made: Recipe = from_mapping(Recipe, data, "sweep", recipe)
    return settled(made)


def sweep(recipe: Recipe, grid: Sequence[str], options: RunOptions) -> list[dict[str, Any]]:
    """Run every combination; print a table, best first; leave the best one's recipe in the folder.

    Raises:
        InputError: the grid is wrong, or a run stops.
    """
    axes = parse_grid(grid, recipe)
    if not axes:
        raise InputError("hubbub sweep needs --grid FIELD=VALUE,VALUE ...")
    cells = [
        list(zip([name for name, _ in axes], values, strict=True))
        for values in itertools.product(*(v for _, v in axes))
    ]
    recipes = [with_values(recipe, cell) for cell in cells]  # all are read before the first is run
    options.output.mkdir(parents=True, exist_ok=True)
    parent = SweepRun(recipe, options.output, list(grid))
    found = []
    for number, (cell, one) in enumerate(zip(cells, recipes, strict=True), 1):
        values = ", ".join(f"{name} {value}" for name, value in cell)
        console.line("sweep", f"{number} of {len(cells)}: {values}")
        mine = RunOptions(**{**vars(options), "update": True, "sweep": parent.run_id})
        result = run(one, mine)
        measure = result.metrics["headline"]
        score = result.metrics["trained"][measure]
        found.append(
            {
                "values": dict(cell),
                "recipe_digest": one.digest,
                measure: score["rate"],
                "low": score["low"],
                "high": score["high"],
                "shown": score["row"],
                "last_loss": result.training.get("last_loss"),
                "checkpoint": str(result.plan.checkpoint_of("trained")),
            }
        )
    order = sorted(range(len(found)), key=lambda i: float(found[i][measure]))
    best = recipes[order[0]]
    write_recipe(best, options.output)
    storage.replace_bytes((json.dumps(found, indent=1) + "\n").encode(), str(options.output / "sweep.json"))
    parent.finish({f"best.{measure}": found[order[0]][measure]}, options.output / "sweep.json")
    rows = [
        [
            *(str(value) for value in found[i]["values"].values()),
            f"{found[i]['last_loss']:.3f}",
            *found[i]["shown"][1:3],
        ]
        for i in order
    ]
    console.table("", [*(name for name, _ in axes), "last loss", found[0]["shown"][0], "95 % interval"], rows)
    return [found[i] for i in order]
