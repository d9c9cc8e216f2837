"""What a voice says, as FLAC files and a journal of rows that outlives the process.

A worker is a process of its own, told what to speak by lines of JSON: it is small, and ends when its parent does,
however that ended, for nobody reads its progress then. A row is in the journal when its file is whole, so that a run
that was killed goes on with the next text, and gives the files that it would have given.
"""

import fcntl
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from operators.corpus.sources import resample, resampled_length
from operators.corpus.voices import load_synthesizer
from operators.corpus.voices.drawing import Part
from operators.corpus.voices.synthesizer import Synthesizer
from operators.digest import digest, digest_bytes, digest_file
from operators.errors import UnusableRowError
from operators.rng import hash64

RATE_HZ = 16_000
"""Sampling rate of the files."""
VERSION = "1"
_SILENCE = 1e-3
"""Amplitude that speech exceeds."""


def journal_of(folder: Path, part: Part) -> Path:
    """Return the file that holds the rows of a voice; hidden, so that it is no manifest."""
    return folder / ".voices" / f"{part.name}.jsonl"


def key_of(part: Part, synthesizer: Synthesizer) -> str:
    """Return the digest of all that the rows of a voice depend on; their number alone is the run's."""
    return digest([VERSION, part.name, part.split, part.texts, synthesizer.program])


@dataclass(frozen=True)
class Journal:
    """The rows of a voice that are done."""

    key: str
    rows: tuple[dict[str, Any], ...]
    """Rows of the manifest, and row_id and reason of texts that the voice could not say."""
    num_bytes: int
    """Length of what is whole: a process may have died within a line."""

    @classmethod
    def read(cls, path: Path) -> "Journal | None":
        """Return a journal as far as it is whole; None where there is none, or none of its first line."""
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        lines = [json.loads(line) for line in whole.splitlines()]
        return cls(lines[0]["key"], tuple(lines[1:]), len(whole)) if lines else None

    def until(self, duration_s: float) -> tuple[list[dict[str, Any]], float]:
        """Return the rows until the one that reaches a duration, and their duration; both in seconds."""
        rows, sum_s = [], 0.0
        for row in self.rows:
            if sum_s >= duration_s:
                break
            rows.append(row)
            sum_s += row.get("duration", 0.0)
        return rows, sum_s


def spoken(synthesizer: Synthesizer, voice: str, text: str) -> NDArray[np.float32]:
    """Return the samples (N,) in [-1, 1] of a text in a voice, at `RATE_HZ`.

    Raises:
        UnusableRowError: the voice cannot say it, or says nothing.
    """
    samples = synthesizer.speak(voice, text)
    if not np.isfinite(samples).all():
        raise UnusableRowError("the voice gives samples that are no numbers")
    if not len(samples) or np.abs(samples).max() < _SILENCE:
        raise UnusableRowError("the voice says nothing")
    length = resampled_length(len(samples), synthesizer.rate_hz, RATE_HZ)
    return np.clip(resample(samples, synthesizer.rate_hz, RATE_HZ, length), -1.0, 1.0)


def speak_part(synthesizer: Synthesizer, part: Part, folder: Path) -> Iterator[tuple[float, float]]:
    """Speak what a voice has not yet said, until it has spoken for its duration or said all its texts.

    Yields:
        After each text, the duration of what was spoken and the time that it took, both in seconds.
    """
    path, key = journal_of(folder, part), key_of(part, synthesizer)
    path.parent.mkdir(parents=True, exist_ok=True)
    (folder / "audio" / part.name).mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        # A worker whose parent was killed may still be at its last text: what it writes is not written twice.
        fcntl.flock(file, fcntl.LOCK_EX)
        done = Journal.read(path)
        assert done is None or done.key == key, "the run compares keys before work"
        file.truncate(done.num_bytes if done else 0)
        if done is None:
            _append(file, {"key": key})
            done = Journal(key, (), 0)
        for row in done.rows:
            if "audio" in row and not _is_whole(folder / row["audio"], row["digest"]):
                _say(synthesizer, part, row["text"], folder)
        _, sum_s = done.until(part.duration_s)
        for text in part.texts[len(done.rows) :]:
            if sum_s >= part.duration_s:
                return
            began_s = time.perf_counter()
            row = _say(synthesizer, part, text, folder)
            _append(file, row)
            sum_s += row.get("duration", 0.0)
            yield row.get("duration", 0.0), time.perf_counter() - began_s


def _append(file: io.BufferedWriter, row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    file.flush()


def _is_whole(path: Path, wanted: str) -> bool:
    return path.is_file() and digest_file(path) == wanted


def _say(synthesizer: Synthesizer, part: Part, text: str, folder: Path) -> dict[str, Any]:
    """Write a text as a FLAC file; return its row, or why the voice cannot say it."""
    name = f"{part.name}-{hash64(text):016x}"
    try:
        samples = spoken(synthesizer, part.voice, text)
    except UnusableRowError as error:
        return {"row_id": name, "reason": str(error), "text": text}
    about = synthesizer.about(part.voice)
    packed = io.BytesIO()
    soundfile.write(packed, samples, RATE_HZ, format="FLAC", subtype="PCM_16")
    audio = f"audio/{part.name}/{name}.flac"
    staged = folder / "audio" / part.name / f".{name}.flac"
    staged.write_bytes(packed.getvalue())
    os.replace(staged, folder / audio)
    known = {"gender": about.gender} if about.gender else {}
    return known | {
        "id": name,
        "audio": audio,
        "digest": digest_bytes(packed.getvalue()),
        "duration": len(samples) / RATE_HZ,
        "sample_rate": RATE_HZ,
        "speaker": "+".join(about.people),
        "text": text,
        "language": "en",
        "split": part.split,
        "licence": about.licence,
        "consent": "synthetic voice",
        "voice": part.name,
        "program": synthesizer.program,
        "program_licence": synthesizer.program_licence,
    }


def job_of(part: Part, folder: Path) -> str:
    """Return the line that tells a worker what to speak."""
    return json.dumps({"folder": str(folder.resolve()), "part": asdict(part)}) + "\n"


def _work() -> None:
    """Speak the parts that standard input names; write progress to standard output, and an empty list after each."""
    progress = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what packages print is no progress
    synthesizers: dict[str, Synthesizer] = {}
    for line in sys.stdin:
        job = json.loads(line)
        part = Part(**{**job["part"], "texts": tuple(job["part"]["texts"])})
        if part.family not in synthesizers:
            synthesizers[part.family] = load_synthesizer(part.family)
        for made in speak_part(synthesizers[part.family], part, Path(job["folder"])):
            print(json.dumps(made), file=progress, flush=True)
        print("[]", file=progress, flush=True)


if __name__ == "__main__":
    _work()
