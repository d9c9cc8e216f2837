"""The user's impulse responses and noises: lhotse recordings, plain JSONL, or a folder of sound files.

Headers are read when the list is, so that what is missing or unreadable is known before any work starts.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from operators.corpus.formats import json_lines
from operators.corpus.manifest import Manifest
from operators.corpus.sources import locate, read_header
from operators.digest import digest
from operators.errors import InputError, UnusableRowError

SUFFIXES = (".wav", ".flac", ".ogg")


@dataclass(frozen=True, kw_only=True)
class Sound:
    """One recording that is not an utterance: an impulse response or noise."""

    sound_id: str
    audio: str
    """Path below the list's root."""
    rate_hz: int
    num_samples: int
    num_channels: int
    room: str
    """Of an impulse response: what names its room; the file's folder where nothing does."""
    fingerprint: str


@dataclass(frozen=True)
class Sounds:
    """A list of recordings, by id."""

    root: Path
    sounds: tuple[Sound, ...]

    @property
    def digest(self) -> str:
        """What a data set made with these depends on: no path, only what is in the files."""
        return digest([[s.sound_id, s.audio, s.room, s.fingerprint] for s in self.sounds])[:32]

    def rooms(self, least: int) -> dict[str, list[Sound]]:
        """Return the rooms that have at least so many recordings."""
        found: dict[str, list[Sound]] = {}
        for sound in self.sounds:
            found.setdefault(sound.room, []).append(sound)
        return {name: listed for name, listed in sorted(found.items()) if len(listed) >= least}


def _listed(path: Path) -> list[dict[str, Any]]:
    """Return id, audio and room of each recording that a manifest or a folder names."""
    files = [path] if path.is_file() else sorted(p for p in path.glob("*.jsonl*") if "supervisions" not in p.name)
    if not files:
        sounds = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        return [
            {"id": str(p.relative_to(path)), "audio": str(p), "room": str(p.parent.relative_to(path))} for p in sounds
        ]
    rows = []
    for file in files:
        for row in json_lines(file):
            sources = row.get("sources") or [{"source": row.get("audio") or row.get("audio_filepath")}]
            audio = sources[0].get("source")
            if not audio:
                raise InputError(f"{file}: recording {row.get('id')} names no audio file")
            room = (row.get("custom") or {}).get("room") or row.get("room") or str(Path(audio).parent)
            rows.append({"id": str(row.get("id") or audio), "audio": audio, "room": str(room)})
    return rows


@cache
def list_sounds(place: str, kind: str) -> Sounds:
    """Read a list of impulse responses or noises.

    Args:
        place: a lhotse recordings manifest, plain JSONL, or a folder of either or of sound files.
        kind: what they are, for messages.

    Raises:
        InputError: the place is empty, or a file is missing or cannot be read.
    """
    root = Path(place).expanduser().absolute()
    if not root.exists():
        raise InputError(
            f"{kind}: {place} does not exist; give a lhotse recordings manifest or a folder of sound files"
        )
    base = Manifest(path=root).root
    sounds = []
    for row in _listed(root):
        try:
            path = Path(locate(str(row["audio"]), base))
            header = read_header(path)
        except (OSError, ValueError, soundfile.SoundFileError) as error:
            raise InputError(f"{kind}: {row['audio']} cannot be read: {error}") from error
        if header.num_samples < 1:
            raise InputError(f"{kind}: {path} is empty")
        audio = str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
        sounds.append(
            Sound(
                sound_id=row["id"],
                audio=audio,
                rate_hz=header.rate_hz,
                num_samples=header.num_samples,
                num_channels=header.num_channels,
                room=row["room"],
                fingerprint=header.fingerprint,
            )
        )
    if not sounds:
        raise InputError(f"{kind}: there is no audio file in {place}")
    ids = [sound.sound_id for sound in sounds]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise InputError(f"{kind}: {twice} occurs twice in {place}")
    return Sounds(base, tuple(sorted(sounds, key=lambda sound: sound.sound_id)))


def read_sound(path: Path, rate_hz: int, start: int = 0, count: int = -1) -> NDArray[np.float32]:
    """Return samples (N, channels) at a rate, resampled where the file has another.

    Args:
        path: of the sound file.
        rate_hz: wanted.
        start: first sample, at the wanted rate.
        count: samples wanted; all where negative, fewer where the file ends.

    Raises:
        UnusableRowError: the file cannot be read, or holds NaN or infinity.
    """
    try:
        with soundfile.SoundFile(path) as sound:
            own_hz = sound.samplerate
            sound.seek(min(sound.frames, start * own_hz // rate_hz))
            samples = sound.read(-1 if count < 0 else -(-count * own_hz // rate_hz), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise UnusableRowError(f"{path} cannot be read: {error}") from error
    if not np.isfinite(samples).all():
        raise UnusableRowError(f"{path} holds NaN or infinity")
    if own_hz != rate_hz and len(samples):
        samples = soxr.resample(samples, own_hz, rate_hz, quality="HQ").reshape(-1, samples.shape[1])
    return np.asarray(samples if count < 0 else samples[:count], dtype=np.float32)
