"""Anybody's manifests to one table of utterances: lhotse (recordings and supervisions, cuts, Shar), NeMo, JSONL.

Each row is checked against its recording's header and last sample, so that what is missing, truncated or of
another rate is known before any work starts. What cannot be used is quarantined with the reason.
"""

import gzip
import io
import itertools
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import soundfile

from operators.corpus.normalizers import normalize
from operators.corpus.where import select
from operators.digest import digest_bytes, digest_file
from operators.errors import InputError
from operators.schema import UTTERANCES, table
from operators.store import storage
from operators.store.cache import Cache
from operators.store.dataset import Quarantined

VERSION = "2"

# Names of our columns in plain JSONL and NeMo manifests.
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
# speaker-chapter-utterance, as LibriSpeech and LibriTTS number their files.
_LIBRI_ID = re.compile(r"^(\d+)[-_](\d+)[-_](\d+)(?:_(\d+))?$")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One manifest as the user gives it: a file or a folder, with its split, if any."""

    path: Path
    split: str | None = None

    @staticmethod
    def parse(text: str) -> "Manifest":
        """Read `PATH` or `SPLIT=PATH`.

        Raises:
            InputError: there is no such file or folder.

        >>> Manifest.parse("train=.").split
        'train'
        """
        split, _, path = text.rpartition("=") if re.match(r"^\w+=", text) else ("", "", text)
        manifest = Manifest(path=Path(path).expanduser().absolute(), split=split or None)
        if not manifest.path.exists():
            raise InputError(
                f"manifest {path} does not exist; --corpus.manifests takes files or folders, or SPLIT=PATH"
            )
        return manifest

    @property
    def root(self) -> Path:
        """The folder that relative audio paths start from."""
        return self.path if self.path.is_dir() else self.path.parent

    def files(self) -> list[Path]:
        """Return the manifest's files, whose digests decide whether the index is fresh."""
        if self.path.is_file():
            return [self.path]
        patterns = ("manifest*.jsonl*", "*recordings*.jsonl*", "*supervisions*.jsonl*", "*cuts*.jsonl*", "*.jsonl*")
        for group in (patterns[:1], patterns[1:3], patterns[3:4], patterns[4:]):
            found = sorted({path for pattern in group for path in self.path.glob(pattern)})
            if found:
                return found
        raise InputError(
            f"folder {self.path} holds no manifest: no manifest.jsonl, no lhotse recordings and supervisions, no cuts"
        )


def corpus_roots(manifests: Sequence[Manifest]) -> dict[str, Path]:
    """Name each manifest's root by its last folders, as few as tell them apart.

    >>> corpus_roots([Manifest(path=Path("/a/x/m.jsonl")), Manifest(path=Path("/b/x/m.jsonl"))]).keys()
    dict_keys(['a/x', 'b/x'])
    """
    roots = sorted({manifest.root for manifest in manifests})
    for depth in range(1, 64):
        names = ["/".join(root.parts[-depth:]) for root in roots]
        if len(set(names)) == len(roots):
            return dict(zip(names, roots, strict=True))
    raise AssertionError("two equal folders in a set of folders")


def manifests_digest(manifests: Sequence[Manifest]) -> list[str]:
    """Return a digest per manifest file, in order: what the index depends on."""
    return [f"{m.split or ''}:{path.name}:{digest_file(path)}" for m in manifests for path in m.files()]


def _open_text(path: Path) -> io.TextIOBase:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8")
    return open(path, encoding="utf-8")


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON lines file, gzipped or not.

    Raises:
        InputError: it cannot be read; names file and line.
    """
    try:
        with _open_text(path) as file:
            for number, line in enumerate(file, start=1):
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


def _from_plain(row: dict[str, Any], index: int) -> dict[str, Any]:
    taken = {key: name for key, names in _NAMES.items() for name in names if name in row}
    out = {key: row[name] for key, name in taken.items()}
    out.setdefault("utterance_id", Path(str(out.get("audio", f"row-{index}"))).stem)
    out["user"] = {k: v for k, v in row.items() if k not in taken.values()}
    return out


def _from_supervision(supervision: dict[str, Any], recording: dict[str, Any], offset_s: float = 0.0) -> dict[str, Any]:
    sources = recording.get("sources") or [{}]
    custom = supervision.get("custom") or {}
    aligned = (supervision.get("alignment") or {}).get("word") or []
    channel = supervision.get("channel", 0)
    known = {k: custom[k] for k in ("book", "chapter", "position", "licence", "consent", "split") if k in custom}
    return {
        "recording_id": supervision.get("recording_id"),
        "audio": sources[0].get("source") if sources[0].get("type") in ("file", "url") else None,
        "audio_problem": None if sources[0].get("type") in ("file", "url") else f"source is {sources[0].get('type')}",
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


def supervised(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Yield one plain dictionary an utterance, whatever the manifest's kind.

    Raises:
        InputError: a file of the manifest cannot be read, or its parts do not fit together.
    """
    files = manifest.files()
    if any("recordings" in path.name or "supervisions" in path.name for path in files):
        recordings = {row["id"]: row for path in files if "recordings" in path.name for row in json_lines(path)}
        if not recordings or not any("supervisions" in path.name for path in files):
            raise InputError(f"{manifest.path}: lhotse's recordings and supervisions come as a pair in one folder")
        for path in files:
            if "supervisions" in path.name:
                for row in json_lines(path):
                    if row["recording_id"] not in recordings:
                        raise InputError(f"{path}: supervision {row['id']} names no recording of {manifest.path}")
                    yield _from_supervision(row, recordings[row["recording_id"]])
        return
    for path in files:
        members: dict[str, tuple[int, int, str]] = {}
        shard = path.parent / re.sub(r"^cuts\.(\d+)\.jsonl(\.gz)?$", r"recording.\1.tar", path.name)
        if shard.suffix == ".tar" and shard.exists():
            with tarfile.open(shard) as tar:
                for member in tar:
                    stem, _, suffix = member.name.rpartition(".")
                    if suffix != "json":
                        members[stem] = (member.offset_data, member.size, str(shard))
        for index, row in enumerate(json_lines(path)):
            if "supervisions" in row or row.get("type") in ("MonoCut", "MultiCut", "MixedCut"):
                yield from _from_cut(row, members)
            else:
                yield _from_plain(row, index)


def _from_cut(cut: dict[str, Any], members: dict[str, tuple[int, int, str]]) -> Iterator[dict[str, Any]]:
    recording = dict(cut.get("recording") or {})
    for supervision in cut.get("supervisions", []):
        if cut["id"] in members:
            # In Shar the tar member holds just the cut, so times count from the cut's start.
            offset, length, shard = members[cut["id"]]
            row = _from_supervision(supervision, {**recording, "sources": [{"type": "file", "source": shard}]})
            yield {**row, "byte_offset": offset, "byte_length": length}
        else:
            yield _from_supervision(supervision, recording, offset_s=float(cut.get("start", 0.0)))


def read_span(path: str | Path, byte_offset: int = 0, byte_length: int = 0) -> io.BytesIO | str:
    """Return what soundfile can open: the path itself, or the bytes of a member of a tar."""
    if not byte_length:
        return str(path)
    with open(path, "rb") as file:
        file.seek(byte_offset)
        return io.BytesIO(file.read(byte_length))


def header(path: Path, byte_offset: int, byte_length: int) -> tuple[int, int, int, str]:
    """Return rate, samples, channels and fingerprint of a recording whose last sample can be read.

    Raises:
        OSError: the file cannot be opened.
        soundfile.SoundFileError: the file is not audio, or truncated.
    """
    size = byte_length or path.stat().st_size
    with open(path, "rb") as file:
        file.seek(byte_offset)
        head = file.read(min(size, 1 << 16))
        file.seek(byte_offset + max(0, size - (1 << 16)))
        tail = file.read(min(size, 1 << 16))
    with soundfile.SoundFile(read_span(path, byte_offset, byte_length)) as sound:
        num_samples = sound.frames
        if num_samples > 0:
            sound.seek(num_samples - 1)
            if len(sound.read(1)) != 1:
                raise soundfile.SoundFileError("it is truncated: its last sample cannot be read")
        return sound.samplerate, num_samples, sound.channels, digest_bytes(b"%d" % size + head + tail)[:32]


def _checked(row: dict[str, Any], manifest: Manifest, corpus: str, max_duration_s: float) -> dict[str, Any]:
    """Return a row of UTTERANCES, or raise ValueError with the reason why it cannot be used."""
    if row.get("audio_problem") or not row.get("audio"):
        raise ValueError(row.get("audio_problem") or "no audio path")
    if not row.get("speaker"):
        raise ValueError("no speaker")
    text = str(row.get("text") or "")
    normalized = normalize(text)
    if not normalized:
        raise ValueError(f"text without letters: {text!r}")
    offset, length = int(row.get("byte_offset", 0)), int(row.get("byte_length", 0))
    url = str(row["audio"]) if not storage.is_local(str(row["audio"])) else None
    audio = Path(str(row["audio"]))
    path = audio if audio.is_absolute() else manifest.root / audio
    if url is None and not path.exists() and not audio.is_absolute() and audio.exists():
        path = audio.absolute()  # lhotse often writes paths relative to where it ran
    if url is None and not path.exists():
        raise ValueError(f"missing file {path}")
    try:
        if url is not None:  # by its byte range, onto this machine
            rate_hz, num_samples, num_channels, fingerprint = header(Cache.default().source(url, offset, length), 0, 0)
        else:
            rate_hz, num_samples, num_channels, fingerprint = header(path, offset, length)
    except (soundfile.SoundFileError, OSError) as error:
        raise ValueError(f"unreadable or truncated audio {url or path}: {error}") from error
    if row.get("rate_hz") and int(row["rate_hz"]) != rate_hz:
        raise ValueError(f"wrong rate: the manifest says {row['rate_hz']} Hz, {path} has {rate_hz} Hz")
    channel = int(row.get("channel") or 0)
    if channel >= num_channels:
        raise ValueError(f"there is no channel {channel} in {path}, which has {num_channels}")
    start = round(float(row.get("start_s") or 0.0) * rate_hz)
    wanted = num_samples - start if row.get("duration_s") is None else round(float(row["duration_s"]) * rate_hz)
    # Manifests round durations (NeMo to milliseconds or worse): a hundredth of a second short is rounding.
    available = min(wanted, num_samples - start)
    if available < wanted - rate_hz // 100 - 1:
        raise ValueError(f"{path} ends {(wanted - available) / rate_hz:.2f} s before the manifest says it does")
    if available <= 0:
        raise ValueError(f"empty audio {path}")
    if available > max_duration_s * rate_hz:
        raise ValueError(f"overlong: {available / rate_hz:.1f} s, more than {max_duration_s:g} s")
    utterance_id, speaker = str(row["utterance_id"]), str(row["speaker"])
    chapter, position = row.get("chapter"), row.get("position")
    if chapter is None and (found := _LIBRI_ID.match(utterance_id)) and found[1] == speaker:
        chapter, position = found[2], int(found[3]) * 1000 + int(found[4] or 0)
    return {
        "utterance_id": utterance_id,
        "corpus": corpus,
        "audio": url or (str(path.relative_to(manifest.root)) if path.is_relative_to(manifest.root) else str(path)),
        "byte_offset": offset,
        "byte_length": length,
        "channel": channel,
        "source_rate_hz": rate_hz,
        "source_start_sample": start,
        "source_num_samples": available,
        "fingerprint": fingerprint,
        "speaker": speaker,
        "gender": None if row.get("gender") is None else str(row["gender"]),
        "split": manifest.split or (str(row["split"]) if row.get("split") else None),
        "text": text,
        "text_normalized": normalized,
        "language": row.get("language"),
        "licence": row.get("licence"),
        "consent": None if row.get("consent") is None else str(row["consent"]),
        "book": None if row.get("book") is None else str(row["book"]),
        "chapter": None if chapter is None else str(chapter),
        "position": None if position is None else int(position),
        "words": [
            {
                "word": word,
                "start_sample": round(start_s * rate_hz) - start,
                "num_samples": round(duration_s * rate_hz),
            }
            for word, start_s, duration_s in row.get("words", [])
        ],
        "user_columns": json.dumps(row.get("user", {}), sort_keys=True, ensure_ascii=False),
    }


def index(
    manifests: Sequence[Manifest],
    where: str | None = None,
    max_duration_s: float = 60.0,
    language: str | None = None,
    licence: str | None = None,
    num_threads: int = 8,
) -> tuple[pa.Table, list[Quarantined]]:
    """Read manifests into UTTERANCES, sorted by id.

    Args:
        manifests: what to read.
        where: keeps rows for which this expression over UTTERANCES, `duration_s` and the user's columns holds.
        max_duration_s: longer utterances are quarantined.
        language: of rows that name none.
        licence: of rows that name none.
        num_threads: recordings whose headers are read at once.

    Raises:
        InputError: a manifest cannot be read or has no rows, or an id occurs twice.
    """
    names = {root: name for name, root in corpus_roots(manifests).items()}
    rows: list[dict[str, Any]] = []
    quarantined: list[Quarantined] = []
    for manifest in manifests:
        found = list(supervised(manifest))
        if not found:
            raise InputError(f"manifest {manifest.path} is empty")

        def check(row: dict[str, Any], manifest: Manifest = manifest) -> dict[str, Any] | Quarantined:
            row = {"language": language, "licence": licence} | {k: v for k, v in row.items() if v is not None}
            try:
                return _checked(row, manifest, names[manifest.root], max_duration_s)
            except (ValueError, KeyError, TypeError) as error:
                return Quarantined(row_id=str(row.get("utterance_id", "?")), reason=str(error))

        with ThreadPoolExecutor(num_threads) as pool:
            for outcome in pool.map(check, found):
                if isinstance(outcome, Quarantined):
                    quarantined.append(outcome)
                else:
                    rows.append(outcome)
    rows.sort(key=lambda row: row["utterance_id"])
    for one, other in itertools.pairwise(rows):
        if one["utterance_id"] == other["utterance_id"]:
            raise InputError(f"utterance id {one['utterance_id']} occurs twice; ids must be unique over all manifests")
    utterances = table(rows, UTTERANCES)
    return (_filter(utterances, where) if where else utterances), quarantined


def _filter(utterances: pa.Table, where: str) -> pa.Table:
    """Filter by an expression that may also name `duration_s` and the user's own columns."""
    user = [json.loads(text) for text in utterances["user_columns"].to_pylist()]
    wide = utterances.append_column(
        "duration_s",
        pa.array(
            n / r
            for n, r in zip(
                utterances["source_num_samples"].to_pylist(), utterances["source_rate_hz"].to_pylist(), strict=True
            )
        ),
    )
    for name in sorted({key for row in user for key in row}):
        if name not in wide.schema.names:
            wide = wide.append_column(name, _column([row.get(name) for row in user]))
    return select(wide, where).select(UTTERANCES.names)


def _column(values: Iterable[Any]) -> pa.Array:
    listed = list(values)
    try:
        return pa.array(listed)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in listed])
