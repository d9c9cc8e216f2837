"""Who speaks when in a recording: segments, and the RTTM and STM files that list them."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from operators.errors import InputError


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
    for path in paths:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        for number, line in enumerate(lines, 1):
            fields = line.split()
            if not fields or fields[0] != "SPEAKER":
                continue
            try:
                recording, start_s, length_s, speaker = fields[1], float(fields[3]), float(fields[4]), fields[7]
            except (IndexError, ValueError) as error:
                raise InputError(f"{path}:{number} is not an RTTM line: {line!r}") from error
            if not length_s > 0 or start_s < 0:
                raise InputError(f"{path}:{number}: {speaker} speaks for {length_s} s, starting at {start_s} s")
            found[recording].append(Segment(start_s, start_s + length_s, speaker))
    return dict(found)


def read_stm(path: Path) -> dict[str, list[TranscribedSegment]]:
    """Return the segments of each recording in an STM file, without those marked as ignored in scoring.

    Raises:
        InputError: a line is malformed, or a segment has no duration; names file and line.
    """
    found: dict[str, list[TranscribedSegment]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()
        if not fields or line.startswith(";;"):
            continue
        try:
            name, speaker, start_s, end_s = fields[0], fields[2], float(fields[3]), float(fields[4])
        except (IndexError, ValueError) as error:
            raise InputError(f"{path}:{number} is not an STM line: {line!r}") from error
        if not 0 <= start_s < end_s:
            raise InputError(f"{path}:{number}: {speaker} speaks from {start_s} s to {end_s} s")
        words = fields[6:] if len(fields) > 5 and fields[5].startswith("<") else fields[5:]
        if "ignore_time_segment_in_scoring" not in (" ".join(words)).lower():
            found.setdefault(name, []).append(TranscribedSegment(speaker, start_s, end_s, " ".join(words)))
    return found
