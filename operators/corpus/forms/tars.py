"""WebDataset: tars whose members of one key are one utterance, as KEY.flac, KEY.json and KEY.txt; read in place."""

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from operators.corpus.forms.fields import renamed
from operators.corpus.forms.form import SOUNDS, Form, Row, Tree
from operators.corpus.manifest import Manifest
from operators.errors import InputError

_MOST_BYTES = 1 << 22
"""Of a member that is text."""


def _files(tree: Tree) -> list[Path]:
    return tree.ending(".tar")


def _read(manifest: Manifest, files: Sequence[Path]) -> Iterator[Row]:
    """Yield one row for each sound file of the tars.

    Raises:
        InputError: a tar is damaged.
    """
    for path in files:
        try:
            with tarfile.open(path, "r:") as tar:
                yield from _members(tar, path, manifest)
        except (tarfile.TarError, OSError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error


def _members(tar: tarfile.TarFile, path: Path, manifest: Manifest) -> Iterator[Row]:
    key, sound = "", None
    texts: dict[str, bytes] = {}
    for member in [*tar.getmembers(), None]:
        folder, _, name = member.name.rpartition("/") if member else ("", "", "")
        stem, _, suffix = name.partition(".")  # as WebDataset has it: the suffix begins at the first dot
        now = f"{folder}/{stem}" if folder else stem
        if now != key:
            if key and (sound is not None or texts):
                yield _row(path, key, sound, texts, manifest)
            key, sound, texts = now, None, {}
        if member is None or not member.isfile():
            continue
        if f".{suffix.lower()}" in SOUNDS:
            sound = member
        elif suffix in ("json", "txt") and member.size <= _MOST_BYTES:
            file = tar.extractfile(member)
            texts[suffix] = file.read() if file else b""


def _row(path: Path, key: str, sound: tarfile.TarInfo | None, texts: dict[str, bytes], manifest: Manifest) -> Row:
    where = f"{path.name}:{key}"
    if sound is None:
        return {"where": where, "utterance_id": key, "problem": "there is no sound file of this key in the tar"}
    try:
        told = json.loads(texts["json"].decode("utf-8-sig")) if "json" in texts else {}
        text = texts["txt"].decode("utf-8-sig").strip() if "txt" in texts else None
    except ValueError as error:
        return {"where": where, "utterance_id": key, "problem": f"its text or JSON cannot be read: {error}"}
    if not isinstance(told, dict):
        return {"where": where, "utterance_id": key, "problem": "its JSON is not an object"}
    made = renamed(told, manifest, where)
    own = {"utterance_id": key, **({"text": text} if text is not None else {})}
    return {**own, **made, "audio": str(path), "byte_offset": sound.offset_data, "byte_length": sound.size}


TARS = Form("WebDataset tars (KEY.flac with KEY.json or KEY.txt)", _files, _read)
