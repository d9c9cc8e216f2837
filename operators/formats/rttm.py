"""RTTM: who speaks when, as NIST's rt09 evaluation plan has it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from operators.errors import InputError
from operators.formats.format import Format
from operators.formats.text import Entry, fields_of, lines_of, seconds, timed


def rttm_lines(path: Path) -> Iterator[tuple[int, Entry]]:
    """Yield line number and entry of each SPEAKER line.

    Raises:
        InputError: a line is malformed.
    """
    for number, line in lines_of(path):
        fields = line.split()
        if fields[0] != "SPEAKER":
            continue
        where = f"{path}:{number}"
        if not 8 <= len(fields) <= 10:
            raise InputError(
                f"{where} is not an RTTM line: it has {len(fields)} fields instead of 8 to 10; names hold no spaces"
            )
        start_s, length_s = seconds(fields[3], where), seconds(fields[4], where)
        yield (
            number,
            {"session_id": fields[1], "speaker": fields[7], "start_time": start_s, "end_time": start_s + length_s},
        )


def read_rttm_entries(path: Path, side: str) -> list[Entry]:  # noqa: ARG001
    """Return the entries of an RTTM file; they have no words."""
    return [entry for _, entry in rttm_lines(path)]


def write_rttm(entries: Sequence[Entry]) -> str:
    """Return entries as an RTTM file; white space in names becomes `_`."""
    found = timed(entries, "RTTM")
    names = fields_of(entry["speaker"] for entry in found)
    sessions = fields_of(entry["session_id"] for entry in found)
    return "".join(
        f"SPEAKER {sessions[one['session_id']]} 1 {one['start_time']:.6f} {one['end_time'] - one['start_time']:.6f} "
        f"<NA> <NA> {names[one['speaker']]} <NA> <NA>\n"
        for one in found
    )


FORMAT = Format(
    read=read_rttm_entries,
    write=write_rttm,
    about="segments of speakers, without words",
    suffixes=(".rttm",),
    example=";; a comment\nSPEAKER talk 1 1.500000 2.000000 <NA> <NA> ann <NA> <NA>\nSPKR-INFO talk 1 <NA> <NA> <NA>\n",
    entries=({"session_id": "talk", "speaker": "ann", "start_time": 1.5, "end_time": 3.5},),
    malformed=("SPEAKER talk 1 nan 2.0 <NA> <NA> ann <NA> <NA>\n", ":1: 'nan' is no time"),
)
