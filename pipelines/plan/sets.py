"""Recipes of published sets: they test checkpoints that others' recipes trained, and take their settings from these."""

from dataclasses import replace
from pathlib import Path

from models.config.header import read_header
from operators.corpus.sets.layouts import LAYOUTS
from operators.documents.tasks import EVALUATED
from operators.errors import InputError
from pipelines.plan.start import newest_checkpoint
from pipelines.recipes.recipe import Recipe


def is_set(recipe: Recipe) -> bool:
    """Return whether a recipe's conversations are those of a set alone: nothing is cast."""
    return recipe.corpus.layout != "labels" and not recipe.corpus.manifests and recipe.corpus.stories is None


def fitted(recipe: Recipe, checkpoint: Path) -> Recipe:
    """Return a set's recipe with the codec, layout, tokenizer, windows, tasks and shape of a checkpoint.

    Raises:
        InputError: there is no checkpoint.
    """
    path = newest_checkpoint(checkpoint).absolute()
    try:
        _, header = read_header(path)
    except ValueError as error:
        raise InputError(str(error)) from error
    encode = replace(
        recipe.encode,
        codec=header.codec.name,
        weights=header.codec_weights,
        num_codebooks=header.codec.num_codebooks,
    )
    copied = path / "tokenizer.json"
    asked = tuple(task for task in EVALUATED if task in header.tasks)
    compose = replace(
        recipe.compose,
        tasks=asked or header.tasks or recipe.compose.tasks,
        window_s=header.window_s,
        overlap_s=header.overlap_s,
        carry_voices=header.carry_voices,
        enrol_s=header.enrol_s,
        layout=header.layout,
        group=header.group,
        tokenizer=str(copied) if copied.exists() else header.tokenizer_file or "bytes",
        deduplicate=header.deduplicate,
    )
    columns = compose.layout_of(header.codec).num_columns(int(compose.window_s * header.codec.frame_rate_hz))
    return replace(
        recipe,
        converse=replace(recipe.converse, sample_rate_hz=header.codec.sample_rate_hz),
        encode=encode,
        compose=compose,
        pack=replace(recipe.pack, capacity=max(recipe.pack.capacity, columns + 16)),
        model=header.shape,
    )


def check_training_split(recipe: Recipe, has_train: bool) -> None:
    """Check, before a set is packed or trained on, that it has a train split.

    Raises:
        InputError: it has none; says how to evaluate a checkpoint with it.
    """
    if is_set(recipe) and not has_train:
        about = LAYOUTS[recipe.corpus.layout].about
        raise InputError(
            f"recipe {recipe.name} has no conversation of the train split, so it can only test: hubbub evaluate "
            f"{recipe.name} --checkpoint DIR. To train, name some: --corpus.recorded train=PATH test=PATH of {about}"
        )
