"""espeak: variants of espeak-ng's American voice, by rule: the demo's voices, each with a pitch and a pace of its own.

espeak-ng keeps state: the same text twice in one process gives different samples, even after initializing it
again. So each utterance is spoken in a process of its own (a fork, about 10 ms), and is then exact. Forks are made by
a small helper process: forking a large one, with torch in it, costs three times as much.
"""

import ctypes
import json
import os
import subprocess
import sys
import weakref
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from operators.corpus.voices.synthesizer import SynthesizerEntry, Voice
from operators.errors import InputError, UnusableRowError
from operators.rng import rng

RATE_HZ = 22_050
"""Sampling rate of all of espeak-ng's voices."""

# Variants that sound like people; robots, whispers and croaks are left out.
VARIANTS: dict[str, Literal["f", "m"] | None] = {
    "f1": "f",
    "m1": "m",
    "f2": "f",
    "m2": "m",
    "f3": "f",
    "m3": "m",
    "f4": "f",
    "m4": "m",
    "f5": "f",
    "m5": "m",
    "linda": "f",
    "m6": "m",
    "anika": "f",
    "m7": "m",
    "Andrea": "f",
    "m8": "m",
    "steph": "f",
    "max": None,
    "belinda": "f",
    "john": None,
    "Alicia": "f",
    "paul": None,
    "shelby": None,
    "david": None,
    "steph2": "f",
    "robert": None,
    "Annie": "f",
    "edward": None,
    "steph3": "f",
    "adam": None,
    "aunty": "f",
    "travis": "m",
    "grandma": "f",
    "caleb": None,
    "Alex": None,
    "victor": "m",
    "Gene": None,
    "michel": "m",
    "Jacky": None,
    "zac": None,
}
"""Gender of each variant, None where its file states none. The order is that in which stories cast them."""


class Utterance(TypedDict):
    """What espeak-ng is to speak, and how."""

    voice: str
    pitch: int
    """0 to 99; 50 is the variant's own."""
    words_per_minute: int
    text: str


def drawn_manner(seed: int, variant: str) -> tuple[int, int]:
    """Return the pitch and the pace (words a minute) that a variant always speaks with, given the seed."""
    draw = rng(seed, "voice", variant)
    return int(draw.integers(30, 70)), int(draw.integers(140, 190))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_int64),
    )


def _speak_here(one: Utterance) -> tuple[NDArray[np.int16], list[list[int]]]:
    """Speak in this process: samples, and [text position, first sample] of each word."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    synchronous, end_pause_off = 2, 1 << 12
    data = espeakng_loader.get_data_path().encode()
    rate_hz = library.espeak_Initialize(synchronous, 0, data, 0)
    assert rate_hz == RATE_HZ
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breathy voices draw noise, else seeded by the clock
    blocks: list[NDArray[np.int16]] = []
    words: list[list[int]] = []

    def take(wave: Any, count: int, events: Any) -> int:
        if count > 0:
            blocks.append(np.ctypeslib.as_array(wave, (count,)).copy())
        i = 0
        while events[i].type != 0:
            if events[i].type == 1:  # a word begins
                words.append([events[i].text_position - 1, events[i].sample])
            i += 1
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))(
        take
    )
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(one["voice"].encode()) != 0:
        raise InputError(f"espeak-ng has no voice {one['voice']}")
    library.espeak_SetParameter(1, one["words_per_minute"], 0)
    library.espeak_SetParameter(3, one["pitch"], 0)
    text = one["text"].encode()
    library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, end_pause_off, None, None)
    library.espeak_Synchronize()
    return np.concatenate(blocks), words


def speak_apart(one: Utterance) -> tuple[NDArray[np.int16], list[list[int]]]:
    """Speak in a process of its own, a fork of this one, which must not be large or have threads.

    Returns:
        Samples (N,) at `RATE_HZ`, without the silence at the end, and [text position, first sample] of each word.

    Raises:
        UnusableRowError: espeak-ng fails on the text.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        status = 1
        try:
            os.close(receiver)
            samples, words = _speak_here(one)
            loud = np.flatnonzero(np.abs(samples) > 32)
            samples = samples[: loud[-1] + RATE_HZ // 50] if len(loud) else samples
            with os.fdopen(sender, "wb") as pipe:
                pipe.write(json.dumps(words).encode() + b"\n" + samples.tobytes())
            status = 0
        finally:
            os._exit(status)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        header, _, data = pipe.read().partition(b"\n")
    _, status = os.waitpid(child, 0)
    if status or not header:
        raise UnusableRowError(f"espeak-ng failed on {one['text']!r}")
    return np.frombuffer(data, np.int16), json.loads(header)


def _help() -> None:
    """Speak what standard input asks for, a line of JSON each, until it ends; answer by a line and the samples."""
    for line in sys.stdin:
        try:
            samples, _ = speak_apart(json.loads(line))
            header, data = json.dumps({"num_samples": len(samples)}), samples.tobytes()
        except UnusableRowError as error:
            header, data = json.dumps({"problem": str(error)}), b""
        sys.stdout.buffer.write(header.encode() + b"\n" + data)
        sys.stdout.buffer.flush()


def _end(helper: "subprocess.Popen[bytes]") -> None:
    helper.communicate()  # closes its input, at whose end it ends


class Espeak:
    """Speaks through a helper process, which it starts with the first text."""

    program_licence = "GPL-3.0-or-later"
    rate_hz = RATE_HZ
    mixes = False

    def __init__(self) -> None:
        """Find the package.

        Raises:
            InputError: it is not installed.
        """
        if find_spec("espeakng_loader") is None:
            raise InputError("espeak needs a package: pip install 'hubbub[demo]', or espeakng-loader")
        self.program = f"espeak-ng, by espeakng-loader {version('espeakng-loader')}"
        self._helper: subprocess.Popen[bytes] | None = None

    def voices(self) -> list[str]:
        """Return the names of 40 variants."""
        return list(VARIANTS)

    def about(self, voice: str) -> Voice:
        """Return what is known about a voice.

        Raises:
            InputError: there is no such voice.
        """
        if voice not in VARIANTS:
            raise InputError(f"espeak has no voice {voice!r}; choose from {', '.join(VARIANTS)}")
        return Voice((f"espeak-{voice}",), VARIANTS[voice], "GPL-3.0-or-later")

    def speak(self, voice: str, text: str) -> NDArray[np.float32]:
        """Return the samples (N,) of a text at 22,050 Hz.

        Raises:
            InputError: there is no such voice.
            UnusableRowError: espeak-ng fails on the text.
        """
        self.about(voice)
        if self._helper is None:
            root = Path(__file__).resolve().parents[3]
            command = [sys.executable, "-m", "operators.corpus.voices.espeak"]
            self._helper = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            weakref.finalize(self, _end, self._helper)
        helper = self._helper
        assert helper.stdin is not None
        assert helper.stdout is not None
        pitch, words_per_minute = drawn_manner(0, voice)
        one = Utterance(voice=f"en-us+{voice}", pitch=pitch, words_per_minute=words_per_minute, text=text)
        helper.stdin.write(json.dumps(one).encode() + b"\n")
        helper.stdin.flush()
        answer = json.loads(helper.stdout.readline())
        if "problem" in answer:
            raise UnusableRowError(answer["problem"])
        samples = np.frombuffer(helper.stdout.read(2 * answer["num_samples"]), np.int16)
        return samples.astype(np.float32) / np.float32(32768)


SYNTHESIZER = SynthesizerEntry(load=lambda _: Espeak(), about="40 variants of espeak-ng's voice, by rule")

if __name__ == "__main__":
    _help()
