"""Subtitles: SubRip (SRT) and WebVTT, a cue for each turn, with its speaker."""

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from operators.errors import InputError
from operators.formats.format import Format
from operators.formats.text import Entry, span, text_of, timed

_TIMES = re.compile(r"\s*([\d:]+[.,]\d+)\s*-->\s*([\d:]+[.,]\d+)(?:\s.*)?")
_SRT_SPEAKER = re.compile(r"\[([^\]]+)\]\s*(.*)", re.DOTALL)
_VTT_SPEAKER = re.compile(r"<v(?:\.[\w.]+)?\s+([^>]+)>(.*?)(?:</v>)?", re.DOTALL)
_SHORTEST_S = 0.001


def _cues(path: Path) -> Iterator[tuple[int, dict[str, float], str]]:
    """Yield line number, times and text of each cue.

    Raises:
        InputError: a time is malformed, or a cue ends before it starts.
    """
    lines = [*text_of(path).splitlines(), ""]
    number = 0
    while number < len(lines):
        found = _TIMES.fullmatch(lines[number])
        number += 1
        if found is None:
            if "-->" in lines[number - 1]:
                raise InputError(f"{path}:{number}: {lines[number - 1].strip()!r} are no times of a cue")
            continue
        begin = number
        while lines[number].strip():
            number += 1
        where = f"{path}:{begin}"
        start, end = (one.replace(",", ".") for one in found.groups())
        yield begin, span(start, end, where), "\n".join(lines[begin:number])


def _read(path: Path, speaker: re.Pattern[str], wanted: str) -> list[Entry]:
    entries: list[Entry] = []
    for number, times, text in _cues(path):
        found = speaker.fullmatch(text)
        if found is None:
            raise InputError(f"{path}:{number}: the cue does not say who speaks: {wanted}")
        name, words = (html.unescape(part) if speaker is _VTT_SPEAKER else part for part in found.groups())
        entries.append({"session_id": path.stem, "speaker": name, **times, "words": " ".join(words.split())})
    return entries


def read_srt(path: Path, side: str) -> list[Entry]:  # noqa: ARG001
    """Return one entry for each cue of a SubRip file; its text begins with `[speaker]`.

    Raises:
        InputError: a cue is malformed; names file and line.
    """
    return _read(path, _SRT_SPEAKER, "[name] text")


def read_vtt(path: Path, side: str) -> list[Entry]:  # noqa: ARG001
    """Return one entry for each cue of a WebVTT file; its text is in a voice span, `<v speaker>`.

    Raises:
        InputError: a cue is malformed; names file and line.
    """
    return _read(path, _VTT_SPEAKER, "<v name>text")


def _clock(time_s: float, mark: str) -> str:
    """Return a time as subtitles have it.

    >>> _clock(3723.4567, ",")
    '01:02:03,457'
    """
    total_ms = round(time_s * 1000)
    seconds, milliseconds = divmod(total_ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{mark}{milliseconds:03}"


def _times(entry: Entry, mark: str) -> str:
    end_s = max(entry["end_time"], entry["start_time"] + _SHORTEST_S)  # players drop cues without length
    return f"{_clock(entry['start_time'], mark)} --> {_clock(end_s, mark)}"


def _ordered(entries: Sequence[Entry], name: str) -> list[Entry]:
    return sorted(timed(entries, name), key=lambda entry: (entry["start_time"], entry["end_time"]))


def write_srt(entries: Sequence[Entry]) -> str:
    """Return entries as a SubRip file."""
    return "".join(
        f"{number}\n{_times(entry, ',')}\n[{entry['speaker'].replace(']', ')')}] {' '.join(entry['words'].split())}\n\n"
        for number, entry in enumerate(_ordered(entries, "SRT"), 1)
    )


def write_vtt(entries: Sequence[Entry]) -> str:
    """Return entries as a WebVTT file."""

    def escaped(text: str) -> str:
        return html.escape(" ".join(text.split()), quote=False)

    return "WEBVTT\n\n" + "".join(
        f"{_times(entry, '.')}\n<v {escaped(entry['speaker'])}>{escaped(entry['words'])}\n\n"
        for entry in _ordered(entries, "VTT")
    )


_ENTRIES = ({"session_id": "talk", "speaker": "ann", "start_time": 1.5, "end_time": 3.5, "words": "yes & well"},)

SRT = Format(
    read=read_srt,
    write=write_srt,
    about="SubRip subtitles, `[speaker] text`",
    suffixes=(".srt",),
    example="1\n00:00:01,500 --> 00:00:03,500\n[ann] yes &\nwell\n\n",
    entries=_ENTRIES,
    malformed=("1\n00:00:01,500 --> soon\n[ann] yes\n", ":2: '00:00:01,500 --> soon' are no times of a cue"),
    names_session=False,
)
VTT = Format(
    read=read_vtt,
    write=write_vtt,
    about="WebVTT subtitles, `<v speaker>text`",
    suffixes=(".vtt",),
    example="WEBVTT\n\nNOTE a comment\n\n00:01.500 --> 00:03.500 align:start\n<v ann>yes &amp; well</v>\n\n",
    entries=_ENTRIES,
    malformed=("WEBVTT\n\n00:01.500 --> 00:03.500\nyes well\n", ":3: the cue does not say who speaks: <v name>text"),
    names_session=False,
)
