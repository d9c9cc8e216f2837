"""Numbers that a recipe leaves open: which of them somebody gave, and those that need no corpus."""

from collections.abc import Iterable
from dataclasses import replace

from pipelines.recipes.recipe import OPEN, Recipe

LONGEST_WINDOW_S = 30.0
"""Windows of longer conversations."""


def without_given(recipe: Recipe, given: Iterable[str]) -> Recipe:
    """Return a recipe that leaves open what it left open, but for the fields that were given by their names."""
    names = set(given)
    return replace(recipe, fit=tuple(one for one in recipe.fit if not names.intersection(OPEN[one])))


def settled(recipe: Recipe) -> Recipe:
    """Return a recipe whose window and capacity, where they are open, follow from conversations, codec and layout."""
    if "window" in recipe.fit:
        window_s = LONGEST_WINDOW_S
        if not recipe.corpus.recorded:
            window_s = min(window_s, recipe.converse.max_duration_s)
        recipe = replace(recipe, compose=replace(recipe.compose, window_s=window_s))
    if "capacity" in recipe.fit:
        codec = recipe.encode.spec
        columns = recipe.compose.layout_of(codec).num_columns(int(recipe.compose.window_s * codec.frame_rate_hz))
        # Room for the text of a window too, in whole powers of two or three halves of them.
        wanted = max(512, columns + columns // 2 + 16)
        power = 1 << (wanted - 1).bit_length()
        capacity = 3 * power // 4 if wanted <= 3 * power // 4 else power
        capacity = -(-capacity // recipe.pack.multiple_of) * recipe.pack.multiple_of
        recipe = replace(recipe, pack=replace(recipe.pack, capacity=capacity))
    return recipe
