"""The embedded corpus: small stories that a seeded grammar writes and espeak-ng speaks, as lhotse manifests.

espeak-ng keeps state: the same text twice in one process gives different samples, even after initializing it
again. So each utterance is spoken in a process of its own (a fork, about 10 ms), and is then exact.
"""

import ctypes
import gzip
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from models.config.values import SEED, Checked, within
from operators.corpus.normalizers.sentences import is_sentence
from operators.errors import InputError
from operators.formats.text import word_times
from operators.rng import hash64, rng

VERSION = "3"

_NAMES = ("anna", "ben", "carla", "david", "ella", "felix")
_ANIMALS = ("dog", "cat", "horse", "bird", "fox")
_PLACES = ("garden", "river", "market", "forest", "kitchen", "school")
_THINGS = ("apple", "ball", "book", "lamp", "basket", "letter")
_COLORS = ("red", "green", "blue", "yellow")
_VERBS = ("took", "found", "lost", "carried", "painted", "gave away")
_MOVES = ("ran", "walked", "went")
_TRIES = 100
"""Sentences of one kind that are written until one is of the library."""
_FEELS = ("happy", "tired", "hungry", "afraid")


def library_of(text: str, num_libraries: int) -> int | None:
    """Return the library that a sentence belongs to; None for one of fewer than five words, which is in all.

    >>> library_of("the dog was happy", 5) is None, library_of("where is the red ball", 1)
    (True, 0)
    """
    return hash64(text) % num_libraries if is_sentence(text) else None


def sentences(seed: int, story: int, count: int, library: int = 0, num_libraries: int = 1) -> list[str]:
    """Write one story of `count` short sentences, all of one library: a hero, a friend, and what happens to them.

    >>> sentences(0, 0, 3) == sentences(0, 0, 3)
    True
    """
    draw = rng(seed, "story", f"story-{story}")

    def pick(words: tuple[str, ...]) -> str:
        return words[int(draw.integers(len(words)))]

    hero = pick(_NAMES)
    friend = pick(tuple(name for name in _NAMES if name != hero))
    pet, thing, color, place = pick(_ANIMALS), pick(_THINGS), pick(_COLORS), pick(_PLACES)
    out: list[str] = []
    kind, tried = int(draw.integers(7)), 0
    while len(out) < count:
        match kind:
            case 0:
                place = pick(_PLACES)
                said = f"{hero} {pick(_MOVES)} to the {place}"
            case 1:
                thing, color = pick(_THINGS), pick(_COLORS)
                said = f"{hero} {pick(_VERBS)} the {color} {thing}"
            case 2:
                said = f"the {pet} was {pick(_FEELS)}"
            case 3:
                said = f"{friend} saw the {pet} in the {place}"
            case 4:
                said = f"where is the {color} {thing}"
            case 5:
                said = f"{friend} and {hero} {pick(_MOVES)} to the {place}"
            case _:
                said = f"the {pet} {pick(_VERBS)} the {thing}"
        if library_of(said, num_libraries) in (None, library):
            out.append(said)
            pet = pick(_ANIMALS) if kind == 6 else pet
            kind, tried = int(draw.integers(7)), 0
            continue
        # Another sentence of the kind; after many, of another kind: a library may have none with this hero.
        pet, thing, color, place = pick(_ANIMALS), pick(_THINGS), pick(_COLORS), pick(_PLACES)
        tried += 1
        kind = kind if tried % _TRIES else int(draw.integers(7))
    return out


_VOICES = (
    "f1",
    "m1",
    "f2",
    "m2",
    "f3",
    "m3",
    "f4",
    "m4",
    "f5",
    "m5",
    "linda",
    "m6",
    "anika",
    "m7",
    "Andrea",
    "m8",
    "steph",
    "max",
    "belinda",
    "john",
    "Alicia",
    "paul",
    "shelby",
    "david",
    "steph2",
    "robert",
    "Annie",
    "edward",
    "steph3",
    "adam",
    "aunty",
    "travis",
    "grandma",
    "caleb",
    "Alex",
    "victor",
    "Gene",
    "michel",
    "Jacky",
    "zac",
)


@dataclass(frozen=True, kw_only=True)
class Stories(Checked, section="corpus.stories", error=InputError):
    """A corpus that is spoken on the spot: no download, any size, exact word times."""

    num_voices: int = field(default=40, metadata=within(2, len(_VOICES)))
    """Speakers: espeak-ng's voice variants, each with a pitch and a pace of its own."""
    stories_per_voice: int = field(default=4, metadata=within(1, 10_000))
    """Stories that each speaker tells."""
    sentences_per_story: int = field(default=14, metadata=within(1, 10_000))
    """Sentences of a story; each is one utterance."""
    num_libraries: int = field(default=10, metadata=within(1, 10_000))
    """Voices are dealt out to so many libraries; no sentence of five words or more is in two of them, so that test
    speakers who are drawn by whole libraries tell nothing that is trained on."""
    seed: int = field(default=0, metadata=SEED)
    """Root of the stories and of the voices' pitch and pace."""

    def utterances(self) -> Iterator[dict[str, Any]]:
        """Yield what is to be spoken: id, voice, pitch, pace, text, story, position."""
        for number in range(self.num_voices):
            name = _VOICES[number]
            draw = rng(self.seed, "voice", name)
            pitch, words_per_minute = int(draw.integers(30, 70)), int(draw.integers(140, 190))
            library = number % self.num_libraries
            for chapter in range(self.stories_per_voice):
                # Half of the stories are read by all speakers of the library, half by one only.
                own = 1_000_000 + number * self.stories_per_voice + chapter
                story = library * self.stories_per_voice + chapter if chapter % 2 else own
                told = sentences(self.seed, story, self.sentences_per_story, library, self.num_libraries)
                for position, text in enumerate(told):
                    yield {
                        "id": f"{name}-{chapter:02d}-{position:03d}",
                        "speaker": name,
                        "voice": f"en-us+{name}",
                        "pitch": pitch,
                        "words_per_minute": words_per_minute,
                        "text": text,
                        "story": f"story-{story}",
                        "position": position,
                    }

    def speak(self, folder: Path, num_processes: int = 2) -> int:
        """Write the corpus into a folder that appears whole or not at all; return the number of utterances.

        Raises:
            InputError: espeak-ng is not installed.
        """
        try:
            import espeakng_loader  # noqa: F401
        except ImportError as error:
            raise InputError("the embedded corpus is spoken by espeak-ng: pip install 'hubbub[demo]'") from error
        staged = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(staged, ignore_errors=True)
        (staged / "flac").mkdir(parents=True)
        try:
            todo = list(self.utterances())
            spoken = _speak_all(todo, staged, num_processes)
            recordings = [_recording(one, *made) for one, made in zip(todo, spoken, strict=True)]
            supervisions = [_supervision(one, *made) for one, made in zip(todo, spoken, strict=True)]
            for name, rows in (("recordings", recordings), ("supervisions", supervisions)):
                _write_json_lines(staged / f"stories_{name}.jsonl.gz", rows)
            try:
                os.rename(staged, folder)
            except OSError:
                if not folder.exists():
                    raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return len(todo)


# Variants that sound like people; robots, whispers and croaks are left out.
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


def _speak_here(one: dict[str, Any]) -> tuple[int, NDArray[np.int16], list[list[int]]]:
    """Speak in this process: rate, samples, and [text position, first sample] of each word."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    synchronous, end_pause_off = 2, 1 << 12
    data = espeakng_loader.get_data_path().encode()
    rate_hz = library.espeak_Initialize(synchronous, 0, data, 0)
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
    return rate_hz, np.concatenate(blocks), words


def _speak_all(todo: list[dict[str, Any]], folder: Path, num_processes: int) -> list[tuple[int, int, list[list[int]]]]:
    """Speak everything from a few small processes: forking a large one, with torch in it, costs three times as much."""
    command = [sys.executable, "-m", "operators.corpus.stories", str(folder)]
    root = Path(__file__).resolve().parents[2]
    shares = [todo[i::num_processes] for i in range(num_processes)]

    def speak(share: list[dict[str, Any]]) -> list[Any]:
        done = subprocess.run(command, cwd=root, input=json.dumps(share), capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"espeak-ng failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
        return list(json.loads(done.stdout))

    with ThreadPoolExecutor(num_processes) as pool:
        parts = list(pool.map(speak, shares))
    return [tuple(parts[i % num_processes][i // num_processes]) for i in range(len(todo))]


def _spoken(one: dict[str, Any], folder: Path) -> tuple[int, int, list[list[int]]]:
    """Speak in a process of its own; write the FLAC; return rate, samples and words."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        status = 1
        try:
            os.close(receiver)
            rate_hz, samples, words = _speak_here(one)
            loud = np.flatnonzero(np.abs(samples) > 32)
            samples = samples[: loud[-1] + rate_hz // 50] if len(loud) else samples
            soundfile.write(folder / "flac" / f"{one['id']}.flac", samples, rate_hz, subtype="PCM_16")
            os.write(sender, json.dumps([rate_hz, len(samples), words]).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    if not data:
        raise InputError(f"espeak-ng failed on {one['id']}: {one['text']!r}")
    rate_hz, num_samples, words = json.loads(data)
    return rate_hz, num_samples, words


def _recording(one: dict[str, Any], rate_hz: int, num_samples: int, _: list[list[int]]) -> dict[str, Any]:
    return {
        "id": one["id"],
        "sources": [{"type": "file", "channels": [0], "source": f"flac/{one['id']}.flac"}],
        "sampling_rate": rate_hz,
        "num_samples": num_samples,
        "duration": num_samples / rate_hz,
        "channel_ids": [0],
    }


def _supervision(one: dict[str, Any], rate_hz: int, num_samples: int, words: list[list[int]]) -> dict[str, Any]:
    aligned = []
    last = [len(one["text"]), num_samples]
    for (position, sample), (following, end) in itertools.pairwise([*words, last]):
        # espeak-ng reports some pairs ("to the") as one event: they share its time by their letters.
        said = one["text"][position:following].split()
        start_s, end_s = sample / rate_hz, max(sample, min(end, num_samples)) / rate_hz
        times = word_times(said, start_s, end_s)
        aligned += [[word, a, b - a, None] for word, (a, b) in zip(said, times, strict=True)]
    return {
        "id": one["id"],
        "recording_id": one["id"],
        "start": 0.0,
        "duration": num_samples / rate_hz,
        "channel": 0,
        "text": one["text"],
        "language": "en",
        "speaker": one["speaker"],
        "alignment": {"word": aligned},
        "custom": {
            "book": one["story"],
            "chapter": "1",
            "position": one["position"],
            "licence": "CC0-1.0",
            "consent": "synthetic voice",
        },
    }


def _write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    with open(path, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
        file.write(text.encode())


if __name__ == "__main__":
    print(json.dumps([_spoken(one, Path(sys.argv[1])) for one in json.load(sys.stdin)]))
