"""Voices out of text-to-speech: one table from a synthesizer's name to its module, which knows all about it.

A new synthesizer is one file with its `SYNTHESIZER` entry, and one line in `SYNTHESIZERS`. Modules are imported when
they are used: each needs a package or program of its own.
"""

from importlib import import_module

from operators.corpus.voices.synthesizer import Synthesizer, SynthesizerEntry
from operators.errors import InputError

SYNTHESIZERS: dict[str, str] = {
    "espeak": "operators.corpus.voices.espeak",
    "flite": "operators.corpus.voices.flite",
    "hibari": "operators.corpus.voices.hibari",
    "kokoro": "operators.corpus.voices.kokoro",
}
"""Module of each synthesizer; its `SYNTHESIZER` is the entry."""


def synthesizer_entry(name: str) -> SynthesizerEntry:
    """Return a synthesizer's entry.

    Raises:
        InputError: there is none of that name.
    """
    if name not in SYNTHESIZERS:
        raise InputError(f"there is no synthesizer {name!r}; choose from {', '.join(SYNTHESIZERS)}")
    entry: SynthesizerEntry = import_module(SYNTHESIZERS[name]).SYNTHESIZER
    return entry


def load_synthesizer(family: str) -> Synthesizer:
    """Return the synthesizer that is named as FAMILY or FAMILY:FOLDER, after checking that all it needs is there.

    Raises:
        InputError: there is none of that name, its folder is missing, or something must be installed.
    """
    name, _, folder = family.partition(":")
    entry = synthesizer_entry(name)
    if entry.needs_folder != bool(folder):
        raise InputError(f"{name} needs its folder: {name}:FOLDER" if entry.needs_folder else f"{name} has no folder")
    return entry.load(folder)
