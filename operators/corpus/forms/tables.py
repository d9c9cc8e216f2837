"""Tables: Hugging Face audiofolders and Parquet, Common Voice, LJSpeech, and CSV or TSV with a line of column names."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from operators.corpus.formats import Found, found_rows
from operators.corpus.forms.fields import numbers_of, renamed
from operators.corpus.forms.form import SOUNDS, Form, Row, Tree, split_of
from operators.corpus.manifest import Manifest
from operators.errors import InputError
from operators.formats.text import lines_of

_SPLITS = ("train.tsv", "dev.tsv", "test.tsv")


def table_rows(path: Path, delimiter: str, names: Sequence[str] | None = None) -> Iterator[Found]:
    """Yield the rows of a table of texts whose first line names the columns, where `names` does not.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    reader = csv.DictReader((line for _, line in lines_of(path, ("\0",))), names, delimiter=delimiter, quoting=quoting)
    csv.field_size_limit(1 << 24)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Found(f"{path.name}:{reader.line_num}", {}, f"the line is no row of the table: {error}")
            continue
        more = row.pop(None, None)
        yield Found(
            f"{path.name}:{reader.line_num}",
            numbers_of(row),
            f"the line has {len(row) + len(more)} cells instead of {len(row)}" if more else "",
        )


def _rows(path: Path) -> Iterator[Found]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path)
    if suffix in (".csv", ".tsv"):
        return table_rows(path, "," if suffix == ".csv" else "\t")
    return found_rows(path)


def _parquet_rows(path: Path) -> Iterator[Found]:
    """Yield the rows of Parquet; `audio` is a path.

    Raises:
        InputError: the file cannot be read, or holds sound in its column `audio`.
    """
    try:
        file = pq.ParquetFile(path)
        for one in file.schema_arrow:
            if pa.types.is_struct(one.type) and one.type.get_field_index("bytes") >= 0:
                raise InputError(
                    f"{path} holds sound in its column {one.name}, which is not read in place; unpack it first: "
                    f"hubbub data import {path.parent} FOLDER, then --corpus.manifests FOLDER"
                )
        number = 0
        for batch in file.iter_batches(1000):
            for row in batch.to_pylist():
                number += 1
                yield Found(f"{path.name}:row {number}", row, "")
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _metadata_files(tree: Tree) -> list[Path]:
    if tree.path.is_file():
        return [tree.path] if tree.path.suffix.lower() in (".csv", ".tsv", ".parquet") else []
    return tree.named("metadata.csv", "metadata.jsonl", "metadata.parquet")


def _read_metadata(manifest: Manifest, files: Sequence[Path]) -> Iterator[Row]:
    """Yield the rows of tables; audio paths start from the table's folder."""
    for path in files:
        for where, row, problem in _rows(path):
            if problem:
                yield {"where": where, "problem": problem}
                continue
            made = renamed(row, manifest, where)
            # A name that is too long for a file is no error here: it is named as missing later.
            if isinstance(audio := made.get("audio"), str) and os.path.isfile(path.parent / audio):
                made["audio"] = str(path.parent / audio)
            yield {"split": split_of(path, manifest.root), **made}


def _common_voice_files(tree: Tree) -> list[Path]:
    """Return the tables of Common Voice: the one named, its splits, or all that was validated."""
    if tree.path.is_file():
        return [tree.path] if tree.path.suffix == ".tsv" and (tree.root / "clips").is_dir() else []
    if not any(name.startswith("clips/") or "/clips/" in name for name in tree.names):
        return []
    return tree.named(*_SPLITS) or tree.named("validated.tsv")


def _read_common_voice(manifest: Manifest, files: Sequence[Path]) -> Iterator[Row]:
    for path in files:
        for where, row, problem in table_rows(path, "\t"):
            made = renamed(row, manifest, where)
            if problem:
                yield {"where": where, "problem": problem}
                continue
            clip = made.get("audio")
            made["audio"] = str(path.parent / "clips" / str(clip)) if clip else None
            split = path.stem if path.name in _SPLITS else None
            yield {**made, "split": split, "utterance_id": Path(str(clip)).stem if clip else None}


def _ljspeech_files(tree: Tree) -> list[Path]:
    """Return LJSpeech's table: without column names, parted by |."""
    path = tree.root / "metadata.csv"
    if not (tree.root / "wavs").is_dir() or not path.is_file() or tree.path not in (path, tree.root):
        return []
    return [path] if "|" in next((line for _, line in lines_of(path, ("\0",))), "") else []


def _read_ljspeech(manifest: Manifest, files: Sequence[Path]) -> Iterator[Row]:
    """Yield the rows of a table like LJSpeech's, all of one speaker, who is called as the folder is."""
    for path in files:
        for where, row, problem in table_rows(path, "|", ("id", "text", "normalized")):
            if problem:
                yield {"where": where, "problem": problem}
            else:
                yield {
                    "where": where,
                    "utterance_id": row.get("id"),
                    "audio": f"wavs/{row.get('id')}.wav",
                    "speaker": manifest.root.name,
                    "text": row.get("normalized") or row.get("text"),
                }


def _parquet_files(tree: Tree) -> list[Path]:
    return [] if tree.path.is_file() else tree.ending(".parquet")


def columns_of(path: Path) -> list[str]:
    """Return the columns of a table, for messages."""
    first = next(iter(_rows(path)), None)
    return list(first.row) if first else []


def sound_column(path: Path) -> str | None:
    """Return the column of a Parquet file that holds sound, as Hugging Face's datasets write it."""
    for one in pq.read_schema(path):
        if pa.types.is_struct(one.type) and one.type.get_field_index("bytes") >= 0:
            return str(one.name)
    return None


def unpacked(path: Path, column: str) -> Iterator[tuple[str, dict[str, Any], bytes, str]]:
    """Yield the rows of a Parquet file: where, the other columns, the sound file's bytes, and its suffix."""
    number = 0
    for batch in pq.ParquetFile(path).iter_batches(100):
        for row in batch.to_pylist():
            number += 1
            sound = row.pop(column) or {}
            data = sound.get("bytes") or b""
            suffix = Path(str(sound.get("path") or "")).suffix.lower()
            yield f"{path.name}:row {number}", row, data, suffix if suffix in SOUNDS else _suffix(data)


def _suffix(data: bytes) -> str:
    return next(
        (end for head, end in ((b"fLaC", ".flac"), (b"OggS", ".ogg"), (b"RIFF", ".wav")) if data[:4] == head), ".mp3"
    )


COMMON_VOICE = Form("Common Voice (train.tsv, clips/)", _common_voice_files, _read_common_voice)
LJSPEECH = Form("LJSpeech (metadata.csv parted by |, wavs/)", _ljspeech_files, _read_ljspeech)
TABLES = Form(
    "a Hugging Face audiofolder (metadata.csv, .jsonl), or a CSV, TSV or Parquet file", _metadata_files, _read_metadata
)
PARQUET = Form("Parquet files with a column of audio paths", _parquet_files, _read_metadata)
