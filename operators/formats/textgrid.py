"""TextGrid: Praat's tiers of intervals, one a speaker; long and short text files."""

import re
from collections.abc import Sequence
from pathlib import Path

from operators.errors import InputError
from operators.formats.format import Format
from operators.formats.text import Entry, span, text_of, timed

# Everything but texts in quotes, numbers and flags is there for human readers: keys, and indices in brackets.
_TOKEN = re.compile(
    r'"((?:[^"]|"")*)"|\[[^\]"]*\]|(<exists>|<absent>)|(?<![\w.])(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w.])'
)

_SHORTEST_S = 0.001


class _Tokens:
    """The values of a file, in order."""

    def __init__(self, path: Path) -> None:
        self._path, self._text = path, text_of(path)
        self._found = [one for one in _TOKEN.finditer(self._text) if not one.group().startswith("[")]
        self._place = 0

    def where(self) -> str:
        """Return file and line of the last value."""
        at = self._found[self._place - 1].start() if 0 < self._place <= len(self._found) else len(self._text)
        return f"{self._path}:{self._text.count(chr(10), 0, at) + 1}"

    def _next(self, wanted: str) -> re.Match[str]:
        if self._place >= len(self._found):
            lines = self._text.count("\n") + 1
            raise InputError(f"{self._path}:{lines} ends where {wanted} should stand")
        self._place += 1
        return self._found[self._place - 1]

    def text(self) -> str:
        """Return the next value, a text."""
        found = self._next("a text")
        if found.group(1) is None:
            raise InputError(f"{self.where()}: {found.group()} stands where a text in quotes should")
        return found.group(1).replace('""', '"')

    def number(self) -> float:
        """Return the next value, a number."""
        found = self._next("a number")
        if found.group(3) is None:
            raise InputError(f"{self.where()}: {found.group()} stands where a number should")
        return float(found.group(3))

    def flag(self) -> bool:
        """Return the next value, whether there are tiers."""
        return self._next("<exists>").group(2) == "<exists>"


def read_textgrid(path: Path, side: str) -> list[Entry]:  # noqa: ARG001
    """Return one entry for each interval with text; the tier's name is the speaker, the file's name the session.

    Raises:
        InputError: it is no TextGrid; names file and line.
    """
    tokens = _Tokens(path)
    if (tokens.text(), tokens.text()) != ("ooTextFile", "TextGrid"):
        raise InputError(f"{path}:1 is no TextGrid in text form; save it as a text file in Praat")
    tokens.number(), tokens.number()
    entries: list[Entry] = []
    for _ in range(int(tokens.number()) if tokens.flag() else 0):
        kind, name = tokens.text(), tokens.text()
        tokens.number(), tokens.number()
        for _ in range(int(tokens.number())):
            if kind != "IntervalTier":
                tokens.number(), tokens.text()
                continue
            start, end = tokens.number(), tokens.number()
            times = span(start, end, tokens.where())
            words = " ".join(tokens.text().split())
            if words:
                entries.append({"session_id": path.stem, "speaker": name, **times, "words": words})
    return sorted(entries, key=lambda entry: entry["start_time"])


def write_textgrid(entries: Sequence[Entry]) -> str:
    """Return the entries of one session as a TextGrid in its long form, a tier for each speaker.

    Intervals of a tier cannot overlap: one ends where the next begins.
    """
    found = sorted(timed(entries, "TextGrid"), key=lambda entry: (entry["start_time"], entry["end_time"]))
    end_s = max((entry["end_time"] for entry in found), default=0.0) + _SHORTEST_S
    names = list(dict.fromkeys(entry["speaker"] for entry in found))
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end_s:.6f}"]
    lines += ["tiers? <exists>", f"size = {len(names)}", "item []:"]
    for number, name in enumerate(names, 1):
        tier = _intervals([entry for entry in found if entry["speaker"] == name], end_s)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quoted(name)}"]
        lines += ["        xmin = 0", f"        xmax = {end_s:.6f}", f"        intervals: size = {len(tier)}"]
        for place, (start, end, words) in enumerate(tier, 1):
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {start:.6f}",
                f"            xmax = {end:.6f}",
            ]
            lines.append(f"            text = {_quoted(words)}")
    return "\n".join(lines) + "\n"


def _intervals(entries: Sequence[Entry], end_s: float) -> list[tuple[float, float, str]]:
    """Return start, end and text of the intervals that fill a tier, the empty ones between entries among them."""
    found: list[tuple[float, float, str]] = []
    begins = [*(entry["start_time"] for entry in entries[1:]), end_s]
    reached = 0.0
    for entry, following in zip(entries, begins, strict=True):
        start = max(entry["start_time"], reached)
        if start > reached:
            found.append((reached, start, ""))
        reached = max(start + _SHORTEST_S, min(entry["end_time"], following))
        found.append((start, reached, " ".join(entry["words"].split())))
    return [*found, (reached, end_s, "")] if reached < end_s else found


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


FORMAT = Format(
    read=read_textgrid,
    write=write_textgrid,
    names_session=False,
    about="Praat's tiers of intervals, one a speaker",
    suffixes=(".textgrid", ".TextGrid"),
    example=(
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 4\ntiers? <exists>\nsize = 2\n'
        "item []:\n"
        '    item [1]:\n        class = "IntervalTier"\n        name = "ann"\n        xmin = 0\n        xmax = 4\n'
        "        intervals: size = 2\n        intervals [1]:\n            xmin = 0\n            xmax = 1.5\n"
        '            text = ""\n        intervals [2]:\n            xmin = 1.5\n            xmax = 3.5\n'
        '            text = "yes well"\n    item [2]:\n        class = "TextTier"\n        name = "marks"\n'
        "        xmin = 0\n        xmax = 4\n        points: size = 1\n        points [1]:\n            number = 1\n"
        '            mark = "click 5"\n'
    ),
    entries=({"session_id": "talk", "speaker": "ann", "start_time": 1.5, "end_time": 3.5, "words": "yes well"},),
    malformed=(
        '"ooTextFile"\n"TextGrid"\n0\n4\n<exists>\n1\n"IntervalTier"\n"ann"\n0\n4\n1\n0\n"no"\n',
        ':13: "no" stands where a number should',
    ),
)
