"""Manifest formats: plain JSONL, NeMo and lhotse (recordings and supervisions, cuts, Shar) to rows of one kind."""

import gzip
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from operators.corpus.manifest import Manifest
from operators.errors import InputError

# Our name of each field, and its names in plain JSONL and NeMo manifests.
_NAMES = {
    "audio": ("audio", "audio_filepath", "audio_path", "wav", "path"),
    "text": ("text", "transcript", "sentence"),
    "speaker": ("speaker", "speaker_id", "spk"),
    "utterance_id": ("id", "utterance_id", "utt_id", "utt"),
    "gender": ("gender", "sex"),
    "language": ("language", "lang"),
    "licence": ("licence", "license"),
    "consent": ("consent",),
    "book": ("book", "story"),
    "chapter": ("chapter",),
    "position": ("position",),
    "split": ("split",),
    "channel": ("channel",),
    "start_s": ("offset", "start"),
    "duration_s": ("duration",),
    "rate_hz": ("sample_rate", "sampling_rate", "sample_rate_hz"),
    "byte_offset": ("byte_offset",),
    "byte_length": ("byte_length",),
}
_LHOTSE_CUSTOM = ("book", "chapter", "position", "licence", "consent", "split")


def _open_text(path: Path) -> io.TextIOBase:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8")
    return open(path, encoding="utf-8")


_LONGEST_LINE = 1 << 26
_MOST_EXPANDED = 1 << 30
_MOST_TIMES = 200
"""What a manifest may be: JSON lines shrink by 5 to 50 times; a gzip of zeros by a thousand."""


def _bounded_lines(path: Path, file: io.TextIOBase) -> Iterator[str]:
    """Yield a text file's lines, none of which may fill the memory.

    Raises:
        InputError: a line is too long, or a gzip expands to far more than its size.
    """
    read, packed = 0, path.stat().st_size
    while line := file.readline(_LONGEST_LINE + 1):
        read += len(line)
        if len(line) > _LONGEST_LINE:
            raise InputError(f"{path} has a line of more than {_LONGEST_LINE >> 20} MiB; it is no manifest")
        if path.suffix == ".gz" and read > max(_MOST_EXPANDED, _MOST_TIMES * packed):
            raise InputError(f"{path} has {packed} bytes but expands to over {read >> 20} MiB; unpack it to use it")
        yield line


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON lines file, gzipped or not.

    Raises:
        InputError: the file cannot be read, or a line is not a JSON object; names file and line.
    """
    try:
        with _open_text(path) as file:
            for number, line in enumerate(_bounded_lines(path, file), start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise InputError(f"{path} line {number} is not JSON: {error.msg}") from error
                if not isinstance(row, dict):
                    raise InputError(f"{path} line {number} is not a JSON object")
                yield row
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def manifest_rows(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Yield one row for each utterance of a manifest, of whatever format.

    Returns:
        Rows with the keys that the manifest has values for, unchecked: utterance_id, recording_id, speaker, text,
        gender, language, licence, consent, book, chapter, position, split; audio (path or URL), audio_problem (why
        there is no audio file), byte_offset and byte_length (of a tar's member), channel, rate_hz, start_s and
        duration_s (seconds of the recording), words ((word, start_s, duration_s), seconds of the recording), and
        user (the manifest's other fields).

    Raises:
        InputError: a file of the manifest cannot be read, or its parts do not fit together.
    """
    files = manifest.files()
    if any("recordings" in path.name or "supervisions" in path.name for path in files):
        yield from lhotse_pair_rows(manifest, files)
        return
    for path in files:
        members = _shar_members(path)
        for index, row in enumerate(json_lines(path)):
            if "supervisions" in row or row.get("type") in ("MonoCut", "MultiCut", "MixedCut"):
                yield from _from_cut(row, members)
            else:
                yield _from_plain(row, index)


def _from_plain(row: dict[str, Any], index: int) -> dict[str, Any]:
    """Return a row of plain JSONL or NeMo, the `index`th of its file, under our names."""
    taken = {key: name for key, names in _NAMES.items() for name in names if name in row}
    out = {key: row[name] for key, name in taken.items()}
    out.setdefault("utterance_id", Path(str(out.get("audio", f"row-{index}"))).stem)
    out["user"] = {k: v for k, v in row.items() if k not in taken.values()}
    return out


def lhotse_pair_rows(manifest: Manifest, files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the rows of lhotse's recordings and supervisions, as `manifest_rows` does.

    Raises:
        InputError: a file cannot be read, or a supervision's recording is missing.
    """
    recordings = {row["id"]: row for path in files if "recordings" in path.name for row in json_lines(path)}
    supervisions = [path for path in files if "supervisions" in path.name]
    if not recordings or not supervisions:
        raise InputError(f"{manifest.path}: lhotse's recordings and supervisions must be a pair in one folder")
    for path in supervisions:
        for row in json_lines(path):
            if row["recording_id"] not in recordings:
                raise InputError(f"{path}: the recording of supervision {row['id']} is missing from {manifest.path}")
            yield _from_supervision(row, recordings[row["recording_id"]])


def _from_cut(cut: dict[str, Any], members: dict[str, tuple[int, int, str]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a lhotse cut; `members` are those of its Shar tar, if it has one."""
    recording = dict(cut.get("recording") or {})
    for supervision in cut.get("supervisions", []):
        if cut["id"] in members:
            # A Shar tar's member holds only the cut, so times count from the cut's start.
            offset, length, shard = members[cut["id"]]
            row = _from_supervision(supervision, {**recording, "sources": [{"type": "file", "source": shard}]})
            yield {**row, "byte_offset": offset, "byte_length": length}
        else:
            yield _from_supervision(supervision, recording, offset_s=float(cut.get("start", 0.0)))


def _shar_members(cuts: Path) -> dict[str, tuple[int, int, str]]:
    """Return first byte, number of bytes and tar of each recording in a Shar file's tar; empty where there is none."""
    tar_path = cuts.parent / re.sub(r"^cuts\.(\d+)\.jsonl(\.gz)?$", r"recording.\1.tar", cuts.name)
    if tar_path.suffix != ".tar" or not tar_path.exists():
        return {}
    members = {}
    with tarfile.open(tar_path) as tar:
        for member in tar:
            stem, _, suffix = member.name.rpartition(".")
            if suffix != "json":
                members[stem] = (member.offset_data, member.size, str(tar_path))
    return members


def _from_supervision(supervision: dict[str, Any], recording: dict[str, Any], offset_s: float = 0.0) -> dict[str, Any]:
    """Return the row of a lhotse supervision whose times count from `offset_s` seconds of the recording."""
    source = (recording.get("sources") or [{}])[0]
    is_file = source.get("type") in ("file", "url")
    custom = supervision.get("custom") or {}
    aligned = (supervision.get("alignment") or {}).get("word") or []
    channel = supervision.get("channel", 0)
    known = {name: custom[name] for name in _LHOTSE_CUSTOM if name in custom}
    return {
        "recording_id": supervision.get("recording_id"),
        "audio": source.get("source") if is_file else None,
        "audio_problem": None if is_file else f"source is {source.get('type')}",
        "utterance_id": supervision["id"],
        "text": supervision.get("text"),
        "speaker": supervision.get("speaker"),
        "language": supervision.get("language"),
        "channel": channel[0] if isinstance(channel, list) else channel,
        "start_s": offset_s + supervision.get("start", 0.0),
        "duration_s": supervision.get("duration"),
        "rate_hz": recording.get("sampling_rate"),
        "words": [(item[0], offset_s + item[1], item[2]) for item in aligned],
        "gender": supervision.get("gender"),
        "user": {k: v for k, v in custom.items() if k not in known},
        **known,
    }
