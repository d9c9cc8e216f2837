"""The embedded corpus: small stories that a seeded grammar writes and espeak-ng speaks, as lhotse manifests."""

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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import soundfile

from models.config.values import SEED, Checked, within
from operators.corpus.normalizers.sentences import is_sentence
from operators.corpus.voices.espeak import RATE_HZ, VARIANTS, Utterance, drawn_manner, speak_apart
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


@dataclass(frozen=True, kw_only=True)
class Stories(Checked, section="corpus.stories", error=InputError):
    """A corpus that is spoken on the spot: no download, any size, exact word times."""

    num_voices: int = field(default=40, metadata=within(2, len(VARIANTS)))
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
            name = list(VARIANTS)[number]
            pitch, words_per_minute = drawn_manner(self.seed, name)
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
        if find_spec("espeakng_loader") is None:
            raise InputError("the embedded corpus is spoken by espeak-ng: pip install 'hubbub[demo]'")
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
    """Speak an utterance; write the FLAC; return rate, samples and words."""
    samples, words = speak_apart(
        Utterance(voice=one["voice"], pitch=one["pitch"], words_per_minute=one["words_per_minute"], text=one["text"])
    )
    soundfile.write(folder / "flac" / f"{one['id']}.flac", samples, RATE_HZ, subtype="PCM_16")
    return RATE_HZ, len(samples), words


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
