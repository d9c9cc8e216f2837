"""Codecs: one table from a codec's name to the file that knows everything about it.

A new codec is one file with its `CODEC` entry, and one line in `CODECS` (docs/extending.md). A member is imported when
it is first used, so that a name costs nothing: some need torch, transformers or a runtime of their own.
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
"""Module of each codec; its `CODEC` is the entry."""

if TYPE_CHECKING:
    CodecName = str
else:
    CodecName = Literal[tuple(CODECS)]  # the choices of `--encode.codec` follow from the table


def codec_entry(name: str) -> CodecEntry:
    """Return a codec's entry.

    Raises:
        ValueError: there is no such codec.
    """
    if name not in CODECS:
        raise ValueError(f"there is no codec named {name!r}; choose from {', '.join(CODECS)}")
    entry: CodecEntry = import_module(CODECS[name]).CODEC
    return entry


@lru_cache(maxsize=4)
def load_codec(name: str, weights: str | None = None, num_codebooks: int | None = None, device: str = "cpu") -> Codec:
    """Load a codec by its name, once a process.

    Args:
        name: a key of `CODECS`.
        weights: folder of the weights, or the hub id of a transformers codec; None for codecs that have none.
        num_codebooks: how many of the codec's codebooks to use; its own default where None.
        device: where a neural codec runs.

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
