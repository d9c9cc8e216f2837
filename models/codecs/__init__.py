"""Codecs: one table from a codec's name to its module, which holds everything about the codec.

A new codec is one file with its `CODEC` entry, and one line in `CODECS` (docs/extending.md). A codec's module is
imported when it is first used: some need torch, transformers or a runtime of their own, which listing names must not.
"""

from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from models.codecs.codec import Codec, CodecEntry, CodecSpec

CODECS: dict[str, str] = {
    "dmel": "models.codecs.dmel",
    "pcm": "models.codecs.pcm",
    "units": "models.codecs.units",
    "lyra": "models.codecs.neural.lyra",
    "mimi": "models.codecs.neural.mimi",
    "encodec": "models.codecs.neural.encodec",
    "dac": "models.codecs.neural.dac",
    "xcodec": "models.codecs.neural.xcodec",
    "xcodec2": "models.codecs.neural.xcodec2",
    "neucodec": "models.codecs.neural.neucodec",
    "snac": "models.codecs.neural.snac",
}
"""Module of each codec; its `CODEC` is the codec's entry."""

if TYPE_CHECKING:
    CodecName = str
else:
    CodecName = Literal[tuple(CODECS)]  # the choices of `--encode.codec` follow from the table


def codec_entry(name: str) -> CodecEntry:
    """Return a codec's entry.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in CODECS:
        raise ValueError(f"unknown codec {name!r}; choose from {', '.join(CODECS)}")
    entry: CodecEntry = import_module(CODECS[name]).CODEC
    return entry


@lru_cache(maxsize=4)
def load_codec(name: str, weights: str | None = None, num_codebooks: int | None = None, device: str = "cpu") -> Codec:
    """Load a codec by its name, once per process.

    Args:
        name: a key of `CODECS`.
        weights: folder of the weights, or the hub id of a transformers codec; None for codecs without weights.
        num_codebooks: number of the codec's codebooks to use; None for the codec's default.
        device: torch device of a neural codec.

    Raises:
        ValueError: the name is unknown, or the weights or a package are missing.
    """
    entry = codec_entry(name)
    if entry.needs_weights and weights is None:
        raise ValueError(f"codec {name} needs the folder of its weights: --encode.weights FOLDER")
    return entry.load(weights or "", num_codebooks, device)


def reload_codec(spec: CodecSpec, weights: str | None) -> Codec:
    """Load the codec that a spec describes, as recorded in a checkpoint's header.

    Args:
        spec: its name and number of codebooks are used; weights with another digest are not refused here.
        weights: as in `load_codec`.

    Raises:
        ValueError: the name is unknown, or the weights or a package are missing.
    """
    chosen = spec.num_codebooks if codec_entry(spec.name).has_codebook_choice else None
    return load_codec(spec.name, weights, chosen)
