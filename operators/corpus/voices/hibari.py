"""hibari: a small neural network for English in one wheel; its voice is a copy of Kokoro's af_heart."""

from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.corpus.voices.synthesizer import SynthesizerEntry, Voice
from operators.errors import InputError, UnusableRowError
from operators.rng import hash64


class Hibari:
    """Speaks by hibari-tts, on one thread; its noise is seeded by the text."""

    program_licence = "Apache-2.0"
    rate_hz = 24_000
    mixes = False

    def __init__(self) -> None:
        """Find the packages.

        Raises:
            InputError: one is not installed.
        """
        for package in ("hibari", "onnxruntime"):
            if find_spec(package) is None:
                raise InputError(f"hibari needs the package {package}: pip install 'hubbub[voices]'")
        self.program = f"hibari-tts {version('hibari-tts')}"
        self._models: dict[str, Any] = {}

    @cached_property
    def _known(self) -> dict[str, dict[str, Any]]:
        """Voices in the package; the others are downloads, which would make results depend on what was downloaded."""
        from hibari.voices import VOICES

        return {name: facts for name, facts in VOICES.items() if facts.get("bundled")}

    def voices(self) -> list[str]:
        """Return the voices in the package."""
        return sorted(self._known)

    def about(self, voice: str) -> Voice:
        """Return what is known about a voice: its person is the Kokoro voice that it was trained to copy.

        Raises:
            InputError: there is no such voice.
        """
        if voice not in self._known:
            raise InputError(f"hibari has no voice {voice!r} in its package; choose from {', '.join(self.voices())}")
        facts = self._known[voice]
        return Voice((f"kokoro-{facts['kokoro']}",), "f" if facts["gender"] == "female" else "m", "Apache-2.0")

    def speak(self, voice: str, text: str) -> NDArray[np.float32]:
        """Return the samples (N,) of a text at 24 kHz.

        Raises:
            InputError: there is no such voice.
            UnusableRowError: the text has no sounds.
        """
        self.about(voice)
        if voice not in self._models:
            from hibari import Hibari as Model

            self._models[voice] = Model(voice=voice, threads=1)
        samples = np.asarray(self._models[voice](text, seed=hash64(text)), np.float32)
        if not len(samples):
            raise UnusableRowError("hibari finds no sounds in the text")
        return samples


SYNTHESIZER = SynthesizerEntry(load=lambda _: Hibari(), about="one neural voice in a wheel of 8 MB, fast")
