"""UEM: the regions of recordings that are scored, as NIST has it."""

from pathlib import Path

from operators.errors import InputError
from operators.formats.text import lines_of, span


def read_uem(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return start and end in seconds of the regions of each recording.

    Raises:
        InputError: a line is malformed, or a region has no length.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for number, line in lines_of(path, comments=(";;", "#")):
        fields, where = line.split(), f"{path}:{number}"
        if len(fields) != 4:
            raise InputError(f"{where} is not a UEM line: there are recording, channel, start and end")
        times = span(fields[2], fields[3], where)
        if times["end_time"] == times["start_time"]:
            raise InputError(f"{where}: the region has no length")
        found.setdefault(fields[0], []).append((times["start_time"], times["end_time"]))
    return found
