"""The utterances index: every row of the manifests, checked against its recording, as one table UTTERANCES.

Each row is checked against its recording's header and last sample, so that a missing or truncated recording, or one of
another rate, is found before any work starts. Rows that cannot be used are quarantined with the reason.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import soundfile

from operators.corpus.forms import manifest_rows
from operators.corpus.forms.fields import checked, speaker_of
from operators.corpus.manifest import Manifest, SharedSpeakers, corpus_roots, same_people
from operators.corpus.normalizers import normalize
from operators.corpus.sources import EDGE_S, AudioHeader, locate, read_header
from operators.corpus.where import select
from operators.digest import digest
from operators.errors import InputError
from operators.schema import UTTERANCES, table
from operators.store.cache import Cache
from operators.store.dataset import Quarantined

VERSION = "5"

# speaker-chapter-utterance, as LibriSpeech and LibriTTS number their files.
_LIBRI_ID = re.compile(r"^(\d+)[-_](\d+)[-_](\d+)(?:_(\d+))?$")


def index_utterances(
    manifests: Sequence[Manifest],
    where: str | None = None,
    max_duration_s: float = 60.0,
    language: str | None = None,
    licence: str | None = None,
    num_threads: int = 8,
    repairs: Counter[str] | None = None,
    every: int = 1,
) -> tuple[pa.Table, list[Quarantined]]:
    """Read manifests into a table UTTERANCES, sorted by id; return it and the rows that cannot be used.

    Args:
        manifests: the manifests to read.
        where: expression over the columns of UTTERANCES, `duration_s` and the user's own; keeps rows where true.
        max_duration_s: longer utterances are quarantined; seconds.
        language: language of rows that name none.
        licence: licence of rows that name none.
        num_threads: number of recordings whose headers are read in parallel.
        repairs: rows that were used after a repair are counted here, by what was repaired (`REPAIRS`).
        every: the rows that are read are every so many; all by default.

    Raises:
        InputError: a manifest cannot be read or has no rows.
    """
    names = {root: name for name, root in corpus_roots(manifests).items()}
    rows: list[dict[str, Any]] = []
    quarantined: list[Quarantined] = []
    places: dict[str, str] = {}
    for manifest in manifests:
        listed = list(manifest_rows(manifest))
        if not listed:
            raise InputError(f"manifest {manifest.path} is empty")
        listed = listed[::every]

        def check(row: dict[str, Any], manifest: Manifest = manifest) -> tuple[dict[str, Any], list[str]] | Quarantined:
            row = {"language": language, "licence": licence} | {k: v for k, v in row.items() if v is not None}
            try:
                repaired: list[str] = []
                return _utterance(row, manifest, names[manifest.root], max_duration_s, repaired), repaired
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                return quarantined_row(row, str(error))

        with ThreadPoolExecutor(num_threads) as pool:
            for given, outcome in zip(listed, pool.map(check, listed), strict=True):
                if isinstance(outcome, Quarantined):
                    quarantined.append(outcome)
                elif (first := places.get(outcome[0]["utterance_id"])) is not None:
                    quarantined.append(quarantined_row(given, f"its id is also that of the row at {first}"))
                else:
                    rows.append(outcome[0])
                    places[outcome[0]["utterance_id"]] = str(given.get("where") or manifest.path)
                    if repairs is not None:
                        repairs.update(outcome[1])
    rows.sort(key=lambda row: row["utterance_id"])
    utterances = table(rows, UTTERANCES)
    return (_filter(utterances, where) if where else utterances), quarantined


REPAIRS = {
    "trimmed_ends": f"utterances began or ended up to {EDGE_S:g} s outside of their recordings, and were trimmed",
    "dropped_words": "utterances had word times outside of them, out of order or of another text; they are used "
    "without word times",
}
"""What is repaired in place, and how it is said."""


def quarantined_row(row: dict[str, Any], reason: str) -> Quarantined:
    """Return a row that cannot be used: by its id, or where it stands, and with file and line before the reason."""
    where, identity = row.get("where"), row.get("utterance_id")
    named = identity if isinstance(identity, str | int) and str(identity).strip() else None
    if named is None:
        named = Path(row["audio"]).stem if isinstance(row.get("audio"), str) else where or "?"
    return Quarantined(row_id=str(named), reason=f"{where}: {reason}" if where else reason)


@dataclass(frozen=True)
class SpeakerIds:
    """Speaker ids that several folders have."""

    apart: tuple[str, ...]
    """Taken for another person in each corpus, where they are renamed to ID@CORPUS."""
    together: tuple[str, ...]
    """Taken for one person."""


def tell_apart(
    utterances: pa.Table, manifests: Sequence[Manifest], shared: SharedSpeakers
) -> tuple[pa.Table, SpeakerIds]:
    """Rename speakers of several corpora that have one id, so that each id is one person.

    Args:
        utterances: a table UTTERANCES, with the manifests' own ids.
        manifests: where it was read.
        shared: whether one id in two corpora is one person (`operators.corpus.manifest.same_people`).
    """
    of_root = same_people(manifests, shared)
    people = {name: of_root[root] for name, root in corpus_roots(manifests).items()}
    pairs = list(zip(utterances["speaker"].to_pylist(), utterances["corpus"].to_pylist(), strict=True))
    folders: dict[str, set[str]] = {}
    for speaker, corpus in set(pairs):
        folders.setdefault(speaker, set()).add(corpus)
    several = {speaker: {people[corpus] for corpus in listed} for speaker, listed in folders.items() if len(listed) > 1}
    apart = {speaker for speaker, corpora in several.items() if len(corpora) > 1}
    ids = SpeakerIds(tuple(sorted(apart)), tuple(sorted(several.keys() - apart)))
    if not apart:
        return utterances, ids
    renamed = [f"{who}@{'_'.join(people[corpus].split())}" if who in apart else who for who, corpus in pairs]
    column = utterances.schema.get_field_index("speaker")
    return utterances.set_column(column, utterances.schema.field(column), pa.array(renamed)), ids


def _utterance(
    row: dict[str, Any], manifest: Manifest, corpus: str, max_duration_s: float, repaired: list[str]
) -> dict[str, Any]:
    """Return a row of UTTERANCES, or raise ValueError with the reason why the row cannot be used."""
    row = checked(row)
    speaker = speaker_of(row, manifest)
    text = row.get("text") or ""
    normalized = normalize(text)
    if not normalized:
        raise ValueError(f"text without letters: {text!r}")
    offset, length = row.get("byte_offset", 0), row.get("byte_length", 0)
    audio = locate(row["audio"], manifest.root)
    header = _header(audio, offset, length)
    rate_hz = header.rate_hz
    channel = _channel(row, header, audio)
    start, num_samples, trimmed = _span(row, header, audio, max_duration_s)
    words = _words(row, normalized, rate_hz, start, num_samples)
    repaired += ["trimmed_ends"] * trimmed + ["dropped_words"] * (words is None)
    stem = Path(row["audio"]).stem
    utterance_id = row.get("utterance_id") or _made_id(stem, header, start, num_samples, channel)
    chapter, position = row.get("chapter"), row.get("position")
    if chapter is None and (found := _LIBRI_ID.match(row.get("utterance_id", stem))) and found[1] == speaker:
        chapter, position = found[2], int(found[3]) * 1000 + int(found[4] or 0)
    is_below_root = isinstance(audio, Path) and audio.is_relative_to(manifest.root)
    return {
        "utterance_id": utterance_id,
        "corpus": corpus,
        "audio": str(Path(audio).relative_to(manifest.root)) if is_below_root else str(audio),
        "byte_offset": offset,
        "byte_length": length,
        "channel": channel,
        "source_rate_hz": rate_hz,
        "source_start_sample": start,
        "source_num_samples": num_samples,
        "fingerprint": header.fingerprint,
        "speaker": speaker,
        "gender": _text(row.get("gender")),
        "split": manifest.split or row.get("split") or None,
        "text": text,
        "text_normalized": normalized,
        "language": row.get("language"),
        "licence": row.get("licence"),
        "consent": _text(row.get("consent")),
        "book": _text(row.get("book")),
        "chapter": _text(chapter),
        "position": None if position is None else int(position),
        "words": words or [],
        "user_columns": json.dumps(row.get("user", {}), sort_keys=True, ensure_ascii=False),
    }


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _made_id(stem: str, header: AudioHeader, start: int, num_samples: int, channel: int) -> str:
    """Return the id of a row that names none: of the file's name, and a digest of its content, the span and channel.

    It stays the same when the corpus moves or another manifest is added, and differs for two files of one name.
    """
    return f"{stem}-{digest([header.fingerprint, start, num_samples, channel])[:10]}"


def _words(
    row: Mapping[str, Any], normalized: str, rate_hz: int, start: int, num_samples: int
) -> list[dict[str, Any]] | None:
    """Return the words of an utterance at the recording's own rate, from its start; None where they cannot be true."""
    words = [
        {"word": word, "start_sample": round(start_s * rate_hz) - start, "num_samples": round(duration_s * rate_hz)}
        for word, start_s, duration_s in row.get("words", [])
    ]
    edge, last = round(EDGE_S * rate_hz), 0
    for one in words:
        at, length = one["start_sample"], one["num_samples"]
        if not (-edge <= at and length >= 0 and at + length <= num_samples + edge and at >= last - edge):
            return None
        # Times round; what is beyond the utterance by no more than that is moved inside.
        one["start_sample"] = min(max(0, at), num_samples)
        one["num_samples"] = min(at + length, num_samples) - one["start_sample"]
        one["num_samples"] = max(0, one["num_samples"])
        last = at
    if words and _letters(normalize(" ".join(one["word"] for one in words))) != _letters(normalized):
        return None
    return words


def _letters(text: str) -> str:
    return "".join(text.split())


def _header(audio: Path | str, offset: int, length: int) -> AudioHeader:
    """Return the header of a recording; of one on object storage, from its copy in the cache."""
    try:
        if isinstance(audio, str):
            return read_header(Cache.default().source(audio, offset, length))
        return read_header(audio, offset, length)
    except (soundfile.SoundFileError, OSError) as error:
        raise ValueError(f"unreadable or truncated audio {audio}: {error}") from error


def _channel(row: dict[str, Any], header: AudioHeader, audio: Path | str) -> int:
    """Return the row's channel, after checking that the recording has it and has the manifest's rate."""
    if row.get("rate_hz") and row["rate_hz"] != header.rate_hz:
        raise ValueError(f"wrong rate: {row['rate_hz']} Hz in the manifest, {header.rate_hz} Hz in {audio}")
    channel: int = row.get("channel", 0)
    if channel >= header.num_channels:
        raise ValueError(f"no channel {channel} in {audio}, which has {header.num_channels}")
    return channel


def _span(row: dict[str, Any], header: AudioHeader, audio: Path | str, max_duration_s: float) -> tuple[int, int, bool]:
    """Return first sample and number of samples of an utterance, at the recording's own rate, and whether trimmed."""
    rate_hz = header.rate_hz
    start = round(row.get("start_s", 0.0) * rate_hz)
    listed = header.num_samples - start if row.get("duration_s") is None else round(row["duration_s"] * rate_hz)
    edge = round(EDGE_S * rate_hz)
    if start < -edge:
        raise ValueError(f"start {row['start_s']:g} s is before the recording")
    first, end = max(0, start), min(start + listed, header.num_samples)
    if start + listed - end > edge + 1:
        beyond_s = (start + listed - end) / rate_hz
        raise ValueError(f"{audio} ends {beyond_s:.2f} s earlier than in the manifest")
    if end <= first:
        raise ValueError(f"empty audio {audio}")
    if end - first > max_duration_s * rate_hz:
        raise ValueError(f"overlong: {(end - first) / rate_hz:.1f} s, more than {max_duration_s:g} s")
    # Times in manifests are rounded, to milliseconds or worse: a hundredth of a second is not worth a word.
    trimmed = first - start > rate_hz // 100 or start + listed - end > rate_hz // 100 + 1
    return first, end - first, trimmed


def _filter(utterances: pa.Table, where: str) -> pa.Table:
    """Filter by an expression that may also name `duration_s` and the user's own columns."""
    user = [json.loads(text) for text in utterances["user_columns"].to_pylist()]
    lengths, rates = utterances["source_num_samples"].to_pylist(), utterances["source_rate_hz"].to_pylist()
    wide = utterances.append_column("duration_s", pa.array(n / r for n, r in zip(lengths, rates, strict=True)))
    for name in sorted({key for row in user for key in row}):
        if name not in wide.schema.names:
            wide = wide.append_column(name, _column([row.get(name) for row in user]))
    return select(wide, where).select(UTTERANCES.names)


def _column(values: Iterable[Any]) -> pa.Array:
    """Return a column of user values, as text where their types differ."""
    listed = list(values)
    try:
        return pa.array(listed)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in listed])
