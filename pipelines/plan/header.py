"""The header of a recipe's checkpoints: shape, vocabulary, codec, layout and tokenizer, known before training."""

from functools import lru_cache
from typing import Any

from models.config.header import Header
from models.config.shape import Vocabulary
from operators.errors import InputError
from pipelines.plan.start import check_start, shape_of
from pipelines.recipes.recipe import Recipe


def header_of(recipe: Recipe, lineage: dict[str, Any]) -> Header:
    """Return the header that every checkpoint of a recipe carries."""
    codec, tokenizer = recipe.encode.spec, recipe.compose.loaded_tokenizer
    layout = recipe.compose.layout_of(codec)
    return Header(
        shape=shape_of(recipe),
        vocabulary=Vocabulary(
            text_size=tokenizer.vocab_size,
            num_streams=layout.num_streams,
            codebook_size=layout.vocab_size,
            ordinal=codec.ordinal and layout.vocab_size == codec.codebook_size,
            depth=layout.is_depth,
            encoder_digest=digest_of_encoder(recipe.model.encoder),
        ),
        codec=codec,
        codec_weights=recipe.encode.weights,
        layout=recipe.compose.layout,
        group=recipe.compose.group,
        tokenizer=tokenizer.name,
        tokenizer_digest=tokenizer.digest,
        tokenizer_file=None if tokenizer.file is None else str(tokenizer.file.absolute()),
        deduplicate=recipe.compose.deduplicate,
        tasks=recipe.compose.tasks,
        window_s=recipe.compose.window_s,
        overlap_s=recipe.compose.overlap_s,
        carry_voices=recipe.compose.carry_voices,
        enrol_s=recipe.compose.enrol_s,
        predicts_activity=recipe.train.activity_weight > 0,
        pad_weight=recipe.train.pad_weight,
        lineage=lineage,
    )


@lru_cache(maxsize=4)
def digest_of_encoder(encoder: str | None) -> str:
    """Return the digest of a pretrained encoder's weights; empty without one.

    Raises:
        InputError: the encoder cannot be used.
    """
    if encoder is None:
        return ""
    from models.speech_lm.hearing.load import encoder_digest

    try:
        return encoder_digest(encoder)
    except ValueError as error:
        raise InputError(f"model.encoder: {error}") from error


def check_training(recipe: Recipe) -> None:
    """Check before anything is made what training would stop at: initial weights, and their tokenizer.

    Raises:
        InputError: names what cannot be used.
    """
    check_start(recipe, header_of(recipe, {}))
