"""A recipe of several trainings in a row, as one recipe each: the next starts from the checkpoint of the one before.

Nothing remembers how far they are. Each is a recipe like any other, whose key holds the digest of the weights that it
starts from: what is done is fresh, what was killed goes on, and a change of one makes those after it anew.
"""

from dataclasses import replace
from pathlib import Path

from pipelines.recipes.check import check_recipe
from pipelines.recipes.files import changed_since, recipe_of
from pipelines.recipes.open import settled, without_given
from pipelines.recipes.recipe import OPEN, Recipe

_START = "train.start_from"


def in_phase(recipe: Recipe, number: int, start: str | None = None) -> Recipe:
    """Return the recipe of one phase.

    Args:
        recipe: with phases.
        number: of the phase, from 0.
        start: checkpoint that it starts from; by default the recipe's own initial weights.
    """
    phase, is_last = recipe.phases[number], number == len(recipe.phases) - 1
    casting = phase.given("min_speakers", "max_speakers", "train_conversations")
    if not is_last:
        casting["test_conversations"] = min(1, recipe.casting.test_conversations)  # nothing is evaluated on them
    training = phase.given("mixture", "only", "lr", "warmup_steps", "steps", "patience")
    names = {name for names in OPEN.values() for name in names}
    given = [f"casting.{name}" for name in casting] + [f"train.{name}" for name in training]
    return replace(
        without_given(recipe, names.intersection(given)),
        name=f"{recipe.name}-{phase.name}",
        phases=(),
        casting=replace(recipe.casting, **casting),
        compose=replace(recipe.compose, **phase.given("tasks")),
        train=replace(recipe.train, **training, start_from=start or recipe.train.start_from),
    )


def start_of(folder: Path) -> str | None:
    """Return what the training starts from that an output folder was last used for; None where it was not used.

    Raises:
        InputError: the folder's recipe is damaged.
    """
    return recipe_of(folder).train.start_from if (folder / "recipe.json").exists() else None


def check_phases(recipe: Recipe) -> None:
    """Check every phase before the first one is begun.

    Raises:
        InputError: the recipe of one cannot be used.
    """
    for number in range(len(recipe.phases)):
        check_recipe(settled(in_phase(recipe, number, "last" if number else None)))


def changed_phases(folder: Path, recipe: Recipe) -> list[str]:
    """List what differs between an output folder's recipe and the likest phase; empty where it is one of them.

    Raises:
        InputError: the folder's recipe is damaged.
    """
    found = []
    for number in range(len(recipe.phases)):
        changed = changed_since(folder, settled(in_phase(recipe, number)))
        found.append([one for one in changed if not one.startswith(f"{_START}:")])
    return min(found, key=len)
