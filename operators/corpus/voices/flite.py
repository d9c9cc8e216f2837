"""flite: recorded people's voices by Carnegie Mellon's small synthesizer, a program of its own.

The voices are of people who read for it: kal16 is Kevin Lenzo by diphones; awb, rms and slt are the CMU ARCTIC speakers
by statistical models (Black 2006, "CLUSTERGEN: a statistical parametric synthesizer using trajectory modeling"). Its
other two are left out: kal is kal16 at 8 kHz, and awb_time tells the time alone.
"""

import re
import shutil
import subprocess
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from operators.corpus.voices.synthesizer import SynthesizerEntry, Voice
from operators.errors import InputError, UnusableRowError

_GENDERS: dict[str, Literal["f", "m"]] = {"awb": "m", "kal16": "m", "rms": "m", "slt": "f"}
_LICENCE = "CMU Flite licence (BSD-like)"


class Flite:
    """Speaks by one run of `flite` an utterance."""

    program_licence = _LICENCE
    rate_hz = 16_000
    mixes = False

    def __init__(self) -> None:
        """Find the program.

        Raises:
            InputError: it is not installed.
        """
        found = shutil.which("flite")
        if found is None:
            raise InputError("flite is a program of its own: apt-get install flite (Debian, Ubuntu)")
        self._path = found

    @cached_property
    def program(self) -> str:
        """Name and version, as the program says."""
        # The status is 1 even where all is well.
        said = subprocess.run([self._path, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"version:\s*flite-(\S+)", said)
        if version is None:
            raise InputError(f"{self._path} is no flite: it does not say its version")
        return f"flite {version[1]}"

    def voices(self) -> list[str]:
        """Return four names."""
        return sorted(_GENDERS)

    def about(self, voice: str) -> Voice:
        """Return what is known about a voice.

        Raises:
            InputError: there is no such voice.
        """
        if voice not in _GENDERS:
            raise InputError(f"flite has no voice {voice!r}; choose from {', '.join(self.voices())}")
        return Voice((f"flite-{voice}",), _GENDERS[voice], _LICENCE)

    def speak(self, voice: str, text: str) -> NDArray[np.float32]:
        """Return the samples (N,) of a text at 16 kHz.

        Raises:
            InputError: there is no such voice.
            UnusableRowError: flite fails on the text.
        """
        self.about(voice)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "said.wav"
            command = [self._path, "-voice", voice, "-t", text, "-o", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or not path.exists():
                raise UnusableRowError(f"flite failed: {done.stderr.strip() or f'status {done.returncode}'}")
            samples, rate_hz = soundfile.read(path, dtype="float32")
        assert rate_hz == self.rate_hz
        return np.asarray(samples, np.float32)


SYNTHESIZER = SynthesizerEntry(load=lambda _: Flite(), about="four recorded people, by Debian's flite")
