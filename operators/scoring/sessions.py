"""SegLST entries as sessions: checked, normalized, both sides in order of time."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from operators.digest import digest
from operators.errors import InputError

Regions = Mapping[str, Sequence[tuple[float, float]]]
"""Start and end in seconds of the regions of each session that are scored, as UEM files have them."""

_KNOWN = ("session_id", "speaker", "words", "start_time", "end_time", "recording_id")


@dataclass(frozen=True)
class Turn:
    """What one speaker says in one stretch."""

    speaker: str
    words: str
    """Normalized: separated by single spaces; empty where nobody transcribed the stretch."""
    start_s: float | None = None
    end_s: float | None = None
    """Both None where the turn has no times."""


@dataclass(frozen=True)
class Session:
    """Both sides of a session, each in order of turn starts, or as given where a turn of the side has no times."""

    session_id: str
    recording_id: str
    reference: tuple[Turn, ...]
    hypothesis: tuple[Turn, ...]
    regions: tuple[tuple[float, float], ...] | None = None
    """Where DER and JER are scored, in seconds; None for from the first start to the last end."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What slices are cut by."""
    memory: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """What measures share, such as the assignment of speakers; see `remember`."""

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made under a key, made on the first call."""
        if key not in self.memory:
            self.memory[key] = make()
        return self.memory[key]


def is_timed(turns: Iterable[Turn]) -> bool:
    """Return whether every turn has times; true for no turns."""
    return all(turn.start_s is not None for turn in turns)


def words_of(turns: Iterable[Turn]) -> list[str]:
    """Return the words of turns."""
    return [word for turn in turns for word in turn.words.split()]


def speakers_of(turns: Iterable[Turn]) -> dict[str, list[Turn]]:
    """Return the turns of each speaker who says a word or has a stretch longer than zero, by first turn."""
    found: dict[str, list[Turn]] = {}
    for turn in turns:
        if turn.words or length_s(turn) > 0:
            found.setdefault(turn.speaker, []).append(turn)
    return found


def length_s(turn: Turn) -> float:
    """Return a turn's length in seconds; 0 without times."""
    return 0.0 if turn.start_s is None or turn.end_s is None else turn.end_s - turn.start_s


def _number(entry: Mapping[str, Any], key: str, where: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where}: {key} {value!r} is no time in seconds")
    return float(value)


def _turn(entry: Any, side: str, number: int, normalize: Callable[[str], str]) -> tuple[str, Turn]:
    """Return the session and the turn of an entry, the `number`th of its side."""
    where = f"{side} entry {number}"
    if not isinstance(entry, Mapping):
        raise InputError(f"{where} is {type(entry).__name__}, not a SegLST object with session_id, speaker and words")
    wanted: tuple[str, ...] = ("session_id", "speaker", "words")
    if "words" not in entry and entry.get("start_time") is not None:
        wanted = ("session_id", "speaker")  # as RTTM has it
    for key in wanted:
        if not isinstance(entry.get(key), str):
            raise InputError(f"{where}: {key} is {entry.get(key)!r}; SegLST has text there")
    where = f"{where} of session {entry['session_id']}"
    if not entry["session_id"]:
        raise InputError(f"{where}: session_id is empty")
    start_s, end_s = (_number(entry, key, where) for key in ("start_time", "end_time"))
    if (start_s is None) != (end_s is None):
        raise InputError(f"{where} has one of start_time and end_time; give both or none")
    if start_s is not None and end_s is not None and end_s < start_s:
        raise InputError(f"{where}: end_time {end_s} is before start_time {start_s}")
    words = " ".join(normalize(entry.get("words", "")).split())
    return entry["session_id"], Turn(entry["speaker"], words, start_s, end_s)


def _side(entries: Iterable[Any], side: str, normalize: Callable[[str], str]) -> dict[str, list[Turn]]:
    found = defaultdict(list)
    for number, entry in enumerate(entries, 1):
        session, turn = _turn(entry, side, number, normalize)
        found[session].append(turn)
    # A stable sort: turns that start together stay in the order given, as meeteval has it.
    return {
        session: sorted(turns, key=lambda turn: turn.start_s or 0.0) if is_timed(turns) else turns
        for session, turns in found.items()
    }


def make_sessions(
    reference: Sequence[Mapping[str, Any]],
    hypothesis: Sequence[Mapping[str, Any]],
    normalize: Callable[[str], str],
    regions: Regions | None = None,
    columns: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Session]:
    """Return every session that either side, or the scored regions, name, by id.

    Args:
        reference: SegLST entries.
        hypothesis: SegLST entries.
        normalize: applied to the words of both.
        regions: where DER and JER are scored; a session that it lacks is an error.
        columns: more columns of sessions, by session id.

    Raises:
        InputError: an entry is malformed, no session is on both sides, or a session has no region.
    """
    ours, theirs = _side(reference, "reference", normalize), _side(hypothesis, "hypothesis", normalize)
    if ours and theirs and not set(ours) & set(theirs):
        raise InputError(
            f"no session is in both reference and hypothesis: the reference has {min(ours)}, the hypothesis "
            f"{min(theirs)}; give them the same session_id"
        )
    names = sorted({*ours, *theirs, *(regions or ())})
    if regions is not None and (missing := sorted(set(names) - set(regions))):
        raise InputError(f"the UEM has no region for session {missing[0]}; add a line for it, or score without UEM")
    recordings: dict[str, str] = {}
    for entry in (*hypothesis, *reference):
        recordings[entry["session_id"]] = str(entry.get("recording_id") or entry["session_id"])
    own = _own_columns(reference)
    return [
        Session(
            session_id=name,
            recording_id=recordings.get(name, name),
            reference=tuple(ours.get(name, ())),
            hypothesis=tuple(theirs.get(name, ())),
            regions=None if regions is None else tuple(sorted((float(a), float(b)) for a, b in regions[name])),
            columns={**_measured(ours.get(name, ())), **own.get(name, {}), **(columns or {}).get(name, {})},
        )
        for name in names
    ]


def _own_columns(reference: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each session's further keys; values that differ within a session are joined by a plus sign."""
    found: dict[str, dict[str, list[Any]]] = {}
    for entry in reference:
        for key, value in entry.items():
            if key not in _KNOWN and isinstance(value, str | int | float | bool):
                values = found.setdefault(entry["session_id"], {}).setdefault(key, [])
                if value not in values:
                    values.append(value)
    return {
        session: {
            key: values[0] if len(values) == 1 else "+".join(sorted(map(str, values))) for key, values in own.items()
        }
        for session, own in found.items()
    }


MEASURED = ("num_speakers", "overlap", "turn_length_s", "gap_s")
"""Columns that every session has, or can have, by its reference alone."""


def _measured(reference: Sequence[Turn]) -> dict[str, Any]:
    """Return a reference's number of speakers, and, of turns with times, overlap, mean length and median gap.

    overlap is the share of the time with speech in which two or more speak; gap_s is a turn's start after the latest
    end before it, negative where it overlaps.
    """
    speakers = speakers_of(reference)
    found: dict[str, Any] = {"num_speakers": len(speakers)}
    turns = [turn for turn in reference if length_s(turn) > 0]
    if not turns or not is_timed(reference):
        return found
    spans = [(turn.start_s or 0.0, turn.end_s or 0.0) for turn in turns]
    events = sorted([(at, 1) for at, _ in spans] + [(at, -1) for _, at in spans])
    speech_s = overlap_s = 0.0
    active = 0
    for (at, change), (following, _) in pairwise(events):
        active += change
        speech_s += (following - at) * (active > 0)
        overlap_s += (following - at) * (active > 1)
    latest, gaps = spans[0][1], []
    for start_s, end_s in spans[1:]:
        gaps.append(start_s - latest)
        latest = max(latest, end_s)
    found["overlap"] = round(overlap_s / speech_s, 6)
    found["turn_length_s"] = round(sum(map(length_s, turns)) / len(turns), 6)
    if gaps:
        found["gap_s"] = round(sorted(gaps)[len(gaps) // 2], 6)
    return found


def reference_digest(sessions: Iterable[Session]) -> str:
    """Return a digest of the normalized reference and of the regions it is scored in."""
    return digest(
        [
            [
                session.session_id,
                session.regions,
                [[turn.speaker, turn.words, turn.start_s, turn.end_s] for turn in session.reference],
            ]
            for session in sessions
        ]
    )[:32]
