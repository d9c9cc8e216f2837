"""What a text normalizer is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Normalizer:
    """A function from raw to normalized text, and examples that its contract test holds."""

    normalize: Callable[[str], str]
    about: str
    """What it does, in a few words, for the documentation."""
    examples: Mapping[str, str]
    """Raw text to normalized text."""
