"""Who said what and when, in the files of others: one table from a name to the file that reads, and may write, it.

A new format is one file and one line in `FORMATS`; its example is a test (`tests/operators/formats/test_formats.py`).
"""

import json
from collections.abc import Sequence
from pathlib import Path

from operators.errors import InputError
from operators.formats.ctm import FORMAT as CTM
from operators.formats.format import Format
from operators.formats.json_entries import CHIME8, JSONL, NEMO, SEGLST
from operators.formats.rttm import FORMAT as RTTM
from operators.formats.stm import FORMAT as STM
from operators.formats.subtitles import SRT, VTT
from operators.formats.text import Entry, lines_of
from operators.formats.textgrid import FORMAT as TEXTGRID

FORMATS: dict[str, Format] = {
    "seglst": SEGLST,
    "stm": STM,
    "rttm": RTTM,
    "ctm": CTM,
    "textgrid": TEXTGRID,
    "srt": SRT,
    "vtt": VTT,
    "chime8": CHIME8,
    "nemo": NEMO,
    "jsonl": JSONL,
}
"""By the name that the command line takes."""


def format_of(path: Path) -> str:
    """Return the format of a file, by its suffix and, for JSON, by what it holds.

    Raises:
        InputError: its suffix says none.
    """
    found = next((name for name, one in FORMATS.items() if path.name.lower().endswith(one.suffixes or ("\0",))), None)
    if found is None:
        suffixes = sorted({suffix.lower() for one in FORMATS.values() for suffix in one.suffixes})
        raise InputError(f"{path} is of no known format; name it {', '.join(suffixes)}, or name its format")
    try:
        if found == "jsonl":
            first = next(iter(lines_of(path)), (0, "{}"))[1]
            return "nemo" if "audio_filepath" in json.loads(first) else found
        if found == "seglst":
            rows = json.loads(path.read_text(encoding="utf-8-sig"))
            is_chime = any(isinstance(row.get("start_time"), str) or "session_id" not in row for row in rows)
            return "chime8" if is_chime else found
    except (OSError, ValueError, TypeError, AttributeError):
        pass  # the reader says what is wrong, and where
    return found


def read_entries(paths: Sequence[Path], side: str = "reference", name: str | None = None) -> list[Entry]:
    """Return the entries of files, or of the files of a known suffix in folders.

    Args:
        paths: files and folders.
        side: `reference` or `hypothesis`, for formats that hold both.
        name: of the format; by each file's suffix where None.

    Raises:
        InputError: a file is missing or malformed; names file, line and reason.
    """
    if name is not None and name not in FORMATS:
        raise InputError(f"there is no format {name}; choose from {', '.join(FORMATS)}")
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            suffixes = FORMATS[name].suffixes if name and FORMATS[name].suffixes else _suffixes()
            inside = sorted(
                one for one in path.rglob("*") if one.name.lower().endswith(tuple(map(str.lower, suffixes)))
            )
            if not inside:
                raise InputError(f"{path} holds no {', '.join(suffixes)}")
            files += inside
        else:
            files.append(path)
    return [entry for path in files for entry in FORMATS[name or format_of(path)].read(path, side)]


def _suffixes() -> tuple[str, ...]:
    return tuple(sorted({suffix.lower() for one in FORMATS.values() for suffix in one.suffixes}))
