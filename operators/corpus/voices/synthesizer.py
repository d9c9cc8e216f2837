"""What a synthesizer is: a program that speaks texts, each in a voice that has a name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Voice:
    """What is known about a voice before it speaks."""

    people: tuple[str, ...]
    """Whose voice it is, as FAMILY-NAME: itself, the voice that it was trained to copy, or the two that it is a mixture
    of. A voice that shares one of them with another must be on the same side of a split."""
    gender: Literal["f", "m"] | None
    """None where it is not known, or is that of both."""
    licence: str
    """Of the voice."""


class Synthesizer(Protocol):
    """A program with its voices; `speak` is a function of (voice, text) alone, in any process and order."""

    program_licence: str
    rate_hz: int
    """Sampling rate of what it speaks."""
    mixes: bool
    """Whether "A+B", for two voices in alphabetical order, is a voice as well."""

    @property
    def program(self) -> str:
        """Name and version of the program, for the manifest."""
        ...

    def voices(self) -> list[str]:
        """Return the names of the voices, mixtures left out."""
        ...

    def about(self, voice: str) -> Voice:
        """Return what is known about a voice.

        Raises:
            InputError: there is no such voice.
        """
        ...

    def speak(self, voice: str, text: str) -> NDArray[np.float32]:
        """Return the samples (N,) in [-1, 1] of a text in a voice.

        Raises:
            InputError: there is no such voice.
            UnusableRowError: the text cannot be spoken.
        """
        ...


@dataclass(frozen=True)
class SynthesizerEntry:
    """What a synthesizer's module declares about it."""

    load: Callable[[str], Synthesizer]
    """Checks that program, packages and files are there and returns the synthesizer, given its folder ("" where it has
    none). What takes long, such as loading a model, waits for the first text. Raises InputError, which names what to
    install."""
    about: str
    """What it is, in a few words."""
    needs_folder: bool = False
    """Whether it is named as FAMILY:FOLDER."""
