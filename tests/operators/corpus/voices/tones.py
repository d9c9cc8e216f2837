"""A synthesizer for tests, whose voices are tones: as deterministic as real ones, and fast."""

import numpy as np

from operators.corpus.voices.synthesizer import Voice
from operators.errors import UnusableRowError


class Tones:
    """Speaks a tone a word; voices in capitals are men, "A+b" mixes; "mute" is never heard."""

    program = "tones 1"
    program_licence = "none needed"
    rate_hz = 8_000

    def __init__(self, names="ABcd", mixes=False):
        self.names, self.mixes, self.said = list(names), mixes, []

    def voices(self):
        return self.names

    def about(self, voice):
        genders = {"m" if part.isupper() else "f" for part in voice.split("+")}
        people = tuple(f"tones-{part}" for part in voice.split("+"))
        return Voice(people, genders.pop() if len(genders) == 1 else None, "none needed")

    def speak(self, voice, text):
        self.said.append((voice, text))
        if "unspeakable" in text:
            raise UnusableRowError("it is unspeakable")
        times = np.arange(self.rate_hz * len(text.split()) // 2) / self.rate_hz
        loud = 0.0 if "mute" in text else 0.5
        return (loud * np.sin(2 * np.pi * (100 + sum(map(ord, voice + text)) % 300) * times)).astype(np.float32)
