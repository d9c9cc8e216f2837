"""All that a recipe sets to start from Whisper's decoder, behind one option."""

from dataclasses import replace
from pathlib import Path

from operators.errors import InputError
from pipelines.recipes.recipe import Recipe

LONGEST_S = 30.0
"""What Whisper hears at once."""
TAIL_S = 2.0
"""Silence behind the sound. Without it Whisper's decoder does not know where speech ends: of 12 real utterances, base
makes 130 % errors on the frames of their sound alone, and 17.7 % on all frames of sound padded to 30 s. Of 24, it makes
10.5 % with 2 s of silence behind the sound, as with 3 s and 6 s."""


def from_whisper(recipe: Recipe, folder: str) -> Recipe:
    """Return a recipe that trains Whisper's decoder on its encoder's features; what is given beside it still holds.

    Audio is heard by the encoder, whose features are made once and stored; text is written by Whisper's tokenizer.

    Args:
        recipe: whose data and training stay.
        folder: of a Whisper model, as transformers saves it, with its tokenizer.json.

    Raises:
        InputError: there is no such folder, or it lacks a file.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise InputError(
            f"model.from_whisper: there is no folder {path}; a Whisper folder is one that transformers saves"
        )
    for name in ("config.json", "tokenizer.json"):
        if not (path / name).is_file():
            raise InputError(f"model.from_whisper: {path} lacks {name}")
    from models.speech_lm.pretrained.whisper import read_whisper_shape  # with torch, which planning does without

    plain = replace(
        recipe.model,
        encoder=folder,
        encoder_window="content",
        encoder_tail_s=0.0,
        prompt_attention="causal",
        lora_rank=0,
    )
    try:
        shape = replace(read_whisper_shape(path, plain), encoder_tail_s=TAIL_S)
    except ValueError as error:
        raise InputError(f"model.from_whisper: {error}") from error
    rate_hz = 16_000
    window_s = min(recipe.compose.window_s, LONGEST_S)
    return replace(
        recipe,
        converse=replace(recipe.converse, sample_rate_hz=rate_hz),
        encode=replace(recipe.encode, codec="pcm", weights=None, num_codebooks=None),
        features=replace(recipe.features, store="float16"),
        compose=replace(
            recipe.compose, layout="parallel", group=1, tokenizer=folder, deduplicate=False, window_s=window_s
        ),
        model=shape,
        train=replace(
            recipe.train,
            start_from=folder,
            optimizer="adamw",
            ctc_weight=0.0,
            activity_weight=0.0,
            hide_bands=0,
            hide_spans=0,
            shift_bands=0,
        ),
    )
