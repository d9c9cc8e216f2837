"""STM: segments of speakers with text, as sclite has it."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from operators.errors import InputError
from operators.formats.format import Format
from operators.formats.text import Entry, fields_of, lines_of, seconds, timed

_LABEL = re.compile(r"<[^<>\s]*>")
_ALTERNATIVES = re.compile(r"\{\s*([^/{}]*?)\s*(?:/[^{}]*)?\}")
_NOT_SPEECH = re.compile(r"\(%[^()\s]*\)|(?<!\S)@(?!\S)")
_SKIPPED_SPEAKERS = ("inter_segment_gap", "excluded_region")
_IGNORED = "ignore_time_segment_in_scoring"


def spoken_words(text: str) -> str:
    """Return the words of an STM line's text: the first of alternatives, without marks of hesitation.

    >>> spoken_words("{ yes / yeah / @ } (%hesitation) well")
    'yes well'
    """
    return " ".join(_NOT_SPEECH.sub(" ", _ALTERNATIVES.sub(r"\1", text)).split())


def stm_lines(path: Path) -> Iterator[tuple[int, Entry]]:
    """Yield line number and entry of each line that is scored.

    Stretches that nobody transcribed, and those marked as ignored in scoring, are left out.

    Raises:
        InputError: a line is malformed.
    """
    for number, line in lines_of(path):
        # Only blanks part fields: a text may hold other white space.
        fields = re.split(r"[ \t]+", line.strip(" \t"), maxsplit=5)
        where = f"{path}:{number}"
        if len(fields) < 5:
            raise InputError(
                f"{where} is not an STM line: it has {len(fields)} fields; there are recording, channel, speaker, "
                "start, end and text"
            )
        start_s, end_s = seconds(fields[3], where), seconds(fields[4], where)
        if end_s < start_s:
            raise InputError(f"{where}: {fields[2]} speaks from {start_s} s to {end_s} s")
        text = fields[5] if len(fields) > 5 else ""
        first, _, rest = text.partition(" ")
        text = rest if _LABEL.fullmatch(first) else text
        if fields[2] in _SKIPPED_SPEAKERS or _IGNORED in text.lower():
            continue
        words = spoken_words(text)
        entry = {"session_id": fields[0], "speaker": fields[2], "start_time": start_s, "end_time": end_s}
        yield number, {**entry, "words": words}


def read_stm_entries(path: Path, side: str) -> list[Entry]:  # noqa: ARG001
    """Return the entries of an STM file."""
    return [entry for _, entry in stm_lines(path)]


def write_stm(entries: Sequence[Entry]) -> str:
    """Return entries as an STM file; white space in names becomes `_`."""
    found = timed(entries, "STM")
    names = fields_of(entry["speaker"] for entry in found)
    sessions = fields_of(entry["session_id"] for entry in found)
    return "".join(
        f"{sessions[one['session_id']]} 1 {names[one['speaker']]} {one['start_time']:.6f} {one['end_time']:.6f} "
        # A text that begins as a label does would be read as one.
        f"{'<NA> ' if _LABEL.match(one.get('words', '')) else ''}{' '.join(one.get('words', '').split())}".rstrip()
        + "\n"
        for one in found
    )


FORMAT = Format(
    read=read_stm_entries,
    write=write_stm,
    about="segments of speakers with text",
    suffixes=(".stm",),
    example=(
        ";; a comment\r\ntalk 1 ann 1.5 3.5 <o,f0,female> { yes / yeah } (%uh) well\n"
        "talk 1 inter_segment_gap 3.5 4.0\ntalk 1 bob 4.0 5.0 ignore_time_segment_in_scoring\n"
    ),
    entries=({"session_id": "talk", "speaker": "ann", "start_time": 1.5, "end_time": 3.5, "words": "yes well"},),
    malformed=("talk 1 ann 1.5 x well\n", ":1: 'x' is no time"),
)
