"""Who speaks when in a recording: segments, and the RTTM and STM files that list them."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from operators.errors import InputError
from operators.formats.rttm import rttm_lines
from operators.formats.stm import stm_lines


@dataclass(frozen=True)
class Segment:
    """A stretch of one speaker's speech, in seconds."""

    start_s: float
    end_s: float
    speaker: str


@dataclass(frozen=True)
class TranscribedSegment:
    """A stretch of one speaker's speech in a recording, with its transcript."""

    speaker: str
    start_s: float
    end_s: float
    text: str
    words: tuple[tuple[str, float, float], ...] = ()
    """Word, start and duration in seconds of the recording."""
    language: str | None = None
    channel: int = 0


def read_rttm(paths: Iterable[str | Path]) -> dict[str, list[Segment]]:
    """Return the segments of each recording in RTTM files.

    Raises:
        InputError: a line is malformed, or a segment has no duration; names file and line.
    """
    found: dict[str, list[Segment]] = defaultdict(list)
    for path in map(Path, paths):
        for number, entry in rttm_lines(path):
            start_s, end_s, speaker = entry["start_time"], entry["end_time"], entry["speaker"]
            if not end_s > start_s:
                raise InputError(f"{path}:{number}: {speaker} speaks for {end_s - start_s} s, starting at {start_s} s")
            found[entry["session_id"]].append(Segment(start_s, end_s, speaker))
    return dict(found)


def read_stm(path: Path) -> dict[str, list[TranscribedSegment]]:
    """Return the segments of each recording in an STM file, without those that are no speech or not scored.

    Raises:
        InputError: a line is malformed, or a segment has no duration; names file and line.
    """
    found: dict[str, list[TranscribedSegment]] = {}
    for number, entry in stm_lines(path):
        start_s, end_s, speaker = entry["start_time"], entry["end_time"], entry["speaker"]
        if not start_s < end_s:
            raise InputError(f"{path}:{number}: {speaker} speaks from {start_s} s to {end_s} s")
        found.setdefault(entry["session_id"], []).append(TranscribedSegment(speaker, start_s, end_s, entry["words"]))
    return found
