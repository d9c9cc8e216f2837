"""CTM: words with times, as NIST has it."""

from collections.abc import Sequence
from pathlib import Path

from operators.errors import InputError
from operators.formats.format import Format
from operators.formats.text import Entry, fields_of, lines_of, seconds, timed, word_times


def read_ctm(path: Path, side: str) -> list[Entry]:  # noqa: ARG001
    """Return one entry a word; the speaker is the eighth field, or the channel where there is none.

    Raises:
        InputError: a line is malformed.
    """
    entries = []
    for number, line in lines_of(path):
        fields, where = line.split(), f"{path}:{number}"
        if not 5 <= len(fields) <= 8:
            raise InputError(
                f"{where} is not a CTM line: it has {len(fields)} fields; there are recording, channel, start, length "
                "and word, and confidence, type and speaker where they are known"
            )
        start_s, length_s = seconds(fields[2], where), seconds(fields[3], where)
        entries.append(
            {
                "session_id": fields[0],
                "speaker": fields[7] if len(fields) == 8 else fields[1],
                "start_time": start_s,
                "end_time": start_s + length_s,
                "words": fields[4],
            }
        )
    return entries


def write_ctm(entries: Sequence[Entry]) -> str:
    """Return the words of entries as a CTM file, one channel a speaker, by arrival; words share their entry's time."""
    found = timed(entries, "CTM")
    sessions = fields_of(entry["session_id"] for entry in found)
    channels: dict[str, dict[str, int]] = {}
    lines = []
    for one in sorted(found, key=lambda entry: (entry["session_id"], entry["start_time"])):
        own = channels.setdefault(one["session_id"], {})
        channel = own.setdefault(one["speaker"], len(own) + 1)
        words = one.get("words", "").split()
        times = word_times(words, one["start_time"], one["end_time"])
        lines += [
            (sessions[one["session_id"]], channel, start_s, end_s - start_s, word)
            for word, (start_s, end_s) in zip(words, times, strict=True)
        ]
    lines.sort(key=lambda line: line[:3])
    return "".join(
        f"{name} {channel} {start_s:.6f} {length_s:.6f} {word}\n" for name, channel, start_s, length_s, word in lines
    )


FORMAT = Format(
    read=read_ctm,
    write=write_ctm,
    about="words with times, one channel a speaker",
    suffixes=(".ctm",),
    example=";; a comment\ntalk 1 1.5 0.5 yes\ntalk 1 2.0 1.5 well 0.98 lex ann\n",
    entries=(
        {"session_id": "talk", "speaker": "1", "start_time": 1.5, "end_time": 2.0, "words": "yes"},
        {"session_id": "talk", "speaker": "ann", "start_time": 2.0, "end_time": 3.5, "words": "well"},
    ),
    malformed=("talk 1 1.5 yes\n", ":1 is not a CTM line: it has 4 fields"),
)
