"""Texts to be spoken: lists of sentences, JSON lines and LibriSpeech's transcripts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from operators.corpus.normalizers import normalize
from operators.errors import InputError, UnusableRowError
from operators.formats.text import text_of

TextForm = Literal["auto", "lines", "jsonl", "librispeech"]
MAX_CHARACTERS = 1_000
"""Longest text that is spoken: about a minute."""


def read_texts(path: Path, form: TextForm = "auto") -> tuple[list[str], list[dict[str, str]]]:
    """Return the texts of a file or folder, each once, and row_id and reason of the lines that cannot be spoken.

    Args:
        path: a file; of form librispeech also a folder, of whose `*.trans.txt` all are read.
        form: lines: one text a line; jsonl: objects with "text"; librispeech: an id, a blank and the text in capitals,
            which is returned in small letters, for capitals are read as initials; auto: by the name of the file.

    Raises:
        InputError: there is no such file, it is not of the form, or no text can be spoken.
    """
    files = sorted(path.rglob("*.trans.txt")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"folder {path} holds no *.trans.txt; name a file of texts")
    if form == "auto":
        is_json = path.suffix in (".jsonl", ".json")
        form = "librispeech" if files[0].name.endswith(".trans.txt") else "jsonl" if is_json else "lines"
    texts: dict[str, str] = {}
    bad: list[dict[str, str]] = []
    for file in files:
        for where, line in _lines(file):
            try:
                text = _checked(_said(line, form))
            except UnusableRowError as error:
                bad.append({"row_id": where, "reason": str(error)})
                continue
            texts.setdefault(normalize(text), text)
    if not texts:
        reason = f"; {bad[0]['row_id']}: {bad[0]['reason']}" if bad else ""
        raise InputError(f"{path} holds no text that can be spoken{reason}")
    return list(texts.values()), bad


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield place and text of each line that holds something; one with control characters is a line, and no fault."""
    for number, line in enumerate(text_of(file).split("\n"), 1):
        if line.strip():
            yield f"{file.name}:{number}", line.strip()


def _said(line: str, form: TextForm) -> str:
    if form == "jsonl":
        try:
            row: Any = json.loads(line)
        except ValueError as error:
            raise UnusableRowError(f"no JSON: {error}") from error
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise UnusableRowError('no object with a "text"')
        return text
    if form == "librispeech":
        name, _, text = line.partition(" ")
        if len(name.split("-")) != 3:
            raise UnusableRowError(f"it does not begin with an id such as 1272-128104-0000: {name[:40]!r}")
        return text.lower()
    return line


def _checked(text: str) -> str:
    text = text.strip()
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise UnusableRowError("it holds a control character")
    if len(text) > MAX_CHARACTERS:
        raise UnusableRowError(f"it has {len(text):,} characters; at most {MAX_CHARACTERS:,} are spoken at once")
    if not any(letter.isalpha() for letter in normalize(text)):
        raise UnusableRowError("it holds no word")
    return text
