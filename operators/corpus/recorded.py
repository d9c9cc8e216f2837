"""Recorded conversations as rows of CONVERSATIONS, like simulated ones, with their own labels.

Reads a manifest whose recordings have several speakers' turns (lhotse's, or NeMo's with `rttm_filepath`), or a folder
of sound files with STM, TextGrid or CTM files (with transcripts) or RTTM files (without) that name them.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import soundfile

from operators.corpus.formats import SUFFIXES as LIST_SUFFIXES
from operators.corpus.formats import found_rows, plain_suffix
from operators.corpus.forms import manifest_files, manifest_rows
from operators.corpus.forms.fields import NOBODY, checked, speaker_of
from operators.corpus.manifest import Manifest
from operators.corpus.normalizers import normalize
from operators.corpus.segments import TranscribedSegment, read_rttm, read_stm
from operators.corpus.sounds import SUFFIXES
from operators.corpus.sources import EDGE_S, AudioHeader, locate, read_header, resampled_length
from operators.corpus.splits import SPLITS, split_named
from operators.digest import digest_file
from operators.errors import InputError, UnusableRowError
from operators.formats import read_entries
from operators.rng import hash64
from operators.schema import CONVERSATIONS, table
from operators.store.dataset import Quarantined

VERSION = "3"
_PATTERNS = ("*.stm", "*.TextGrid", "*.ctm", "*.rttm")
"""Files of labels beside their sound, those with most first: a folder's are of one kind."""
_SAME_TURN_S = 0.5
"""Words of a CTM file that are closer than this are one turn."""


@dataclass(frozen=True)
class Defaults:
    """What rows get that their list does not name, the timeline they are put on, and where audio is looked for."""

    rate_hz: int
    seed: int
    test_share: float
    validation_share: float
    language: str | None
    licence: str | None
    corpora: Mapping[Path, str]
    """Corpus name of each folder that audio paths start from."""
    headers: dict[Path, AudioHeader] = field(default_factory=dict)
    """Of the files read so far."""


class Listed(Protocol):
    """A conversation as a list names it: a recording with labels, or a mixture to be made."""

    @property
    def recording_id(self) -> str:
        """The conversation's id."""
        ...

    def row(self, root: Path, defaults: Defaults) -> dict[str, Any]:
        """Return the row of CONVERSATIONS, for a list in the folder `root`; raise ValueError where it is unusable."""
        ...


@dataclass(frozen=True)
class Recording:
    """A sound file and its labels."""

    recording_id: str
    audio: Path
    segments: tuple[TranscribedSegment, ...]
    split: str | None
    licence: str | None
    byte_offset: int = 0
    byte_length: int = 0
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What else its list says of it, for slices of scores."""

    def row(self, root: Path, defaults: Defaults) -> dict[str, Any]:
        """Return the recording's row of CONVERSATIONS; raise ValueError where it cannot be used."""
        return _conversation(self, root, defaults.corpora[root], defaults)


@dataclass(frozen=True)
class Refused:
    """A recording that cannot be used, and why."""

    recording_id: str
    reason: str

    def row(self, root: Path, defaults: Defaults) -> dict[str, Any]:  # noqa: ARG002
        """Raise ValueError with the reason."""
        raise ValueError(self.reason)


def annotation_files(manifest: Manifest) -> list[Path]:
    """Return the STM files of a folder, or its TextGrid, CTM or RTTM files; empty for a manifest."""
    for pattern in _PATTERNS:
        files = sorted(manifest.path.rglob(pattern)) if manifest.path.is_dir() else []
        if files and not (pattern == "*.rttm" and list(manifest.path.glob("*manifest*.json*"))):
            return files
    return []


def label_files(manifest: Manifest) -> list[Path]:
    """Return the files that label the recordings of a manifest or folder.

    Raises:
        InputError: the folder contains none.
    """
    if files := annotation_files(manifest):
        return files
    files = manifest_files(manifest)
    return files + [Path(one) for path in files for one in _named_rttms(path, manifest)]


def _named_rttms(path: Path, manifest: Manifest) -> list[Path | str]:
    """Return the RTTM files that the rows of a NeMo manifest name, where the first does."""
    found: list[Path | str] = []
    for row in found_rows(path) if plain_suffix(path) in LIST_SUFFIXES else ():
        if not (name := row.row.get("rttm_filepath")):
            break
        with contextlib.suppress(ValueError):  # a missing one is said where its row is read
            found.append(locate(str(name), manifest.root))
    return found


def files_digest(manifests: Sequence[Manifest], files: Callable[[Manifest], Sequence[Path]] = label_files) -> list[str]:
    """Return split, name and digest of each file that labels recordings; `files` finds them."""
    return [f"{m.split or ''}:{path.name}:{digest_file(path)}" for m in manifests for path in files(m)]


def read_labels(manifest: Manifest) -> Sequence[Listed]:
    """Return the recordings of a folder with files of labels, or of a manifest.

    Raises:
        InputError: a file cannot be read, or a recording is missing.
    """
    if annotation_files(manifest):
        return _annotated(manifest)
    manifest = replace(manifest, is_recorded=True)
    return from_rows(manifest, manifest_rows(manifest))


def _segments_of(path: Path) -> dict[str, list[TranscribedSegment]]:
    """Return the segments of each recording that a file of labels names.

    Raises:
        InputError: a line is malformed; names file and line.
    """
    suffix = path.suffix.lower()
    if suffix == ".stm":
        return read_stm(path)
    if suffix == ".rttm":
        unnamed = read_rttm([path])
        return {n: [TranscribedSegment(s.speaker, s.start_s, s.end_s, "") for s in one] for n, one in unnamed.items()}
    found: dict[str, list[TranscribedSegment]] = {}
    for one in sorted(read_entries([path]), key=lambda e: (e["session_id"], e["speaker"], e["start_time"])):
        start_s, end_s = one["start_time"], one["end_time"]
        listed, words = found.setdefault(str(one["session_id"]), []), str(one.get("words") or "")
        made = TranscribedSegment(str(one["speaker"]), start_s, end_s, words)
        if suffix == ".ctm":  # a word a line
            made = replace(made, words=((words, start_s, end_s - start_s),))
            if listed and listed[-1].speaker == made.speaker and start_s - listed[-1].end_s < _SAME_TURN_S:
                last = listed.pop()
                text, joined = f"{last.text} {words}", last.words + made.words
                made = replace(last, end_s=max(end_s, last.end_s), text=text, words=joined)
        listed.append(made)
    return found


def _annotated(manifest: Manifest) -> list[Listed]:
    """Return the recordings of a folder with files of labels: each file is of the sound beside it.

    A recording has its file's name as id, with its folder's where another folder has one of that name.
    """
    sounds: dict[str, list[Path]] = {}
    for path in sorted(manifest.path.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            sounds.setdefault(path.stem, []).append(path)
    segments: dict[Path, list[TranscribedSegment]] = {}
    refused: dict[str, str] = {}
    missing: list[str] = []
    files = annotation_files(manifest)
    for file in files:
        for name, found in _segments_of(file).items():
            beside = [path for path in sounds.get(name, ()) if path.parent == file.parent]
            possible = beside or sounds.get(name, [])
            if not possible:
                missing.append(name)
            elif len(possible) > 1:
                shown = " and ".join(str(path.relative_to(manifest.path)) for path in possible[:2])
                refused[name] = f"{file.name} names {name}, which {shown} may be; leave one of them there"
            else:
                segments.setdefault(possible[0], []).extend(found)
    if missing:
        raise InputError(
            f"{files[0]} names {len(missing)} recording(s) missing from {manifest.path}, the first {min(missing)}; "
            f"sound files must be named NAME{'|'.join(SUFFIXES)}"
        )
    stems = Counter(path.stem for path in segments)
    listed: list[Listed] = [Refused(name, reason) for name, reason in refused.items()]
    for path, found in segments.items():
        name = path.stem
        if stems[name] > 1:
            name = "-".join(path.relative_to(manifest.path).with_suffix("").parts)
        listed.append(Recording(name, path, tuple(found), manifest.split, None))
    return sorted(listed, key=lambda one: one.recording_id)


def from_rows(manifest: Manifest, listed: Iterable[dict[str, Any]]) -> list[Listed]:
    """Return the recordings of a manifest's rows: one for each recording, with all its turns.

    A recording of which a row cannot be used is refused as a whole: it would hold speech that nobody is said to say.
    """
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in listed:
        name = row.get("mixed") or row.get("recording_id") or row.get("audio") or row.get("where", "?")
        found.setdefault((str(name), row.get("byte_offset") or 0), []).append(row)
    return sorted((_from_rows(name, manifest, rows) for (name, _), rows in found.items()), key=lambda r: r.recording_id)


def _from_rows(name: str, manifest: Manifest, rows: Sequence[dict[str, Any]]) -> Listed:
    """Return a recording of rows, or why it cannot be used."""
    first = rows[0]
    identity = Path(name).stem if name == first.get("audio") else name
    try:
        audio, segments = _heard(rows, manifest)
    except ValueError as error:
        return Refused(identity, str(error))
    return Recording(
        recording_id=identity,
        audio=audio,
        segments=segments,
        split=manifest.split or first.get("split"),
        licence=first.get("licence"),
        byte_offset=first.get("byte_offset") or 0,
        byte_length=first.get("byte_length") or 0,
    )


def _heard(rows: Sequence[dict[str, Any]], manifest: Manifest) -> tuple[Path, tuple[TranscribedSegment, ...]]:
    """Return the sound file of a recording's rows, and their turns.

    Raises:
        ValueError: a row cannot be used, or there is no one file; names the row and the way out.
    """
    where = f"{rows[0]['where']}: " if rows[0].get("where") else ""
    if rows[0].get("mixed"):
        raise UnusableRowError(
            f"{where}it is a MixedCut of {len(rows)} supervisions, whose sound is in no file; "
            f"`hubbub data import {manifest.path} FOLDER --recorded` mixes it"
        )
    segments: list[TranscribedSegment] = []
    for row in rows:
        try:
            segments += _row_segments(row, manifest)
        except ValueError as error:
            raise UnusableRowError(f"{row['where']}: {error}" if row.get("where") else str(error)) from error
    files = {str(row["audio"]) for row in rows}
    if len(files) > 1:
        raise UnusableRowError(
            f"{where}its channels are in {len(files)} files, which are not heard as one; "
            f"`hubbub data import {manifest.path} FOLDER --recorded` writes them into one"
        )
    audio = locate(files.pop(), manifest.root)
    if isinstance(audio, str):
        raise UnusableRowError(f"{where}{audio} is on object storage; recorded conversations are read from files")
    return audio, tuple(segments)


def _row_segments(raw: dict[str, Any], manifest: Manifest) -> list[TranscribedSegment]:
    """Return the turns of a row: one, or those of the RTTM file that a NeMo row names.

    Raises:
        ValueError: a field is missing or no value of its kind; names the row.
    """
    name = f"supervision {raw.get('utterance_id', raw.get('where', '?'))}"
    try:
        row = checked(raw)
        if rttm := (row.get("user") or {}).get("rttm_filepath"):
            return _rttm_segments(Path(locate(str(rttm), manifest.root)), Path(row["audio"]).stem)
        speaker = speaker_of(row, manifest) if row.get("speaker") or manifest.reading.speaker_from else None
    except ValueError as error:
        raise UnusableRowError(f"{name}: {error}") from error
    lacks = next((one for one in ("start", "duration") if f"{one}_s" not in row), None)
    if lacks or speaker is None:
        raise UnusableRowError(f"{name} " + (f"has no {lacks}" if lacks else "names no speaker"))
    return [
        TranscribedSegment(
            speaker=speaker,
            start_s=row["start_s"],
            end_s=row["start_s"] + row["duration_s"],
            text=row.get("text") or "",
            words=tuple(row.get("words") or ()),
            language=row.get("language"),
            channel=row.get("channel", 0),
        )
    ]


def _rttm_segments(path: Path, recording: str) -> list[TranscribedSegment]:
    found = read_rttm([path])
    if recording not in found and len(found) != 1:
        raise UnusableRowError(f"{path} names no recording {recording}")
    named = found.get(recording) or next(iter(found.values()))
    return [TranscribedSegment(one.speaker, one.start_s, one.end_s, "") for one in named]


def index_recorded(
    manifests: Sequence[Manifest],
    corpora: dict[Path, str],
    rate_hz: int,
    *,
    seed: int,
    test_share: float,
    validation_share: float = 0.0,
    language: str | None = None,
    licence: str | None = None,
    read: Callable[[Manifest], Sequence[Listed]] = read_labels,
) -> tuple[pa.Table, list[Quarantined]]:
    """Return recorded or given conversations as a table of CONVERSATIONS, sorted by id, and the unusable ones.

    Args:
        manifests: the manifests or folders to read.
        corpora: the corpus name of each manifest's root, and of other folders where audio is looked for.
        rate_hz: rate of the timeline.
        seed: seed of the drawn test split, where the manifests name none.
        test_share: share of the recordings drawn for that test split.
        validation_share: share of the others drawn for a validation split.
        language: language of turns that name none.
        licence: licence of recordings that name none.
        read: reads one manifest; `operators.corpus.sets` holds others.

    Raises:
        InputError: a manifest cannot be read, or two recordings have the same id.
    """
    rows: list[dict[str, Any]] = []
    bad: list[Quarantined] = []
    defaults = Defaults(rate_hz, seed, test_share, validation_share, language, licence, corpora)
    found = [(manifest, listed) for manifest in manifests for listed in read(manifest)]
    counted = Counter(name for name, _ in {(one.recording_id, manifest.root) for manifest, one in found})
    for manifest, one in found:
        listed = one
        if counted[one.recording_id] > 1 and isinstance(one, Recording):
            # Corpora give the same names to their recordings: the folder's tells them apart.
            listed = replace(one, recording_id=f"{corpora[manifest.root].replace('/', '-')}-{one.recording_id}")
        try:
            rows.append(listed.row(manifest.root, defaults))
        except (ValueError, OverflowError) as error:
            bad.append(Quarantined(row_id=listed.recording_id, reason=str(error)))
    rows.sort(key=lambda row: row["conversation_id"])
    ids = [row["conversation_id"] for row in rows]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise InputError(f"corpus.recorded lists recording {twice} twice; rename or remove one")
    return table(rows, CONVERSATIONS), bad


def _conversation(recording: Recording, root: Path, corpus: str, defaults: Defaults) -> dict[str, Any]:
    """Return the row of a recording; raise ValueError where it cannot be used."""
    audio = recording.audio
    try:
        header = read_header(audio, recording.byte_offset, recording.byte_length)
    except (OSError, soundfile.SoundFileError) as error:
        raise ValueError(f"unreadable or truncated audio {audio}: {error}") from error
    own_hz, length = header.rate_hz, header.num_samples
    source = {
        "corpus": corpus,
        "audio": str(audio.relative_to(root)) if audio.is_relative_to(root) else str(audio),
        "byte_offset": recording.byte_offset,
        "byte_length": recording.byte_length,
        "source_rate_hz": own_hz,
    }
    turns = _turns(recording, source, length, defaults)
    if not turns:
        raise ValueError("no labels: no one speaks in it")
    channels = sorted({segment.channel for segment in recording.segments})
    if channels[-1] >= max(header.num_channels, 1):
        raise ValueError(f"no channel {channels[-1]} in {audio}, which has {header.num_channels}")
    return {
        "conversation_id": recording.recording_id,
        "origin": "recorded",
        "split": split_of(recording.recording_id, recording.split, defaults),
        "seed": defaults.seed,
        "sample_rate_hz": defaults.rate_hz,
        "num_samples": resampled_length(length, own_hz, defaults.rate_hz),
        "speakers": list(dict.fromkeys(turn["speaker"] for turn in turns)),
        "turns": turns,
        "enrolments": [],
        "recording": {
            **source,
            # Speakers on channels of their own, as in telephone calls, are mixed: -1.
            "channel": channels[0] if len(channels) == 1 and header.num_channels > channels[0] else -1,
            "source_start_sample": 0,
            "source_num_samples": length,
        },
        "user_columns": columns_json(recording.columns),
        "num_clipped_offsets": 0,
        "num_dropped_pieces": 0,
    }


def split_of(recording_id: str, split: str | None, defaults: Defaults) -> str:
    """Return the split that a list names for a conversation, or a drawn one.

    Raises:
        ValueError: the list names none that is known.
    """
    if split:
        named = split_named(split)
        if named is None:
            raise ValueError(f"split {split} is none of {', '.join(SPLITS)}; name it by SPLIT=PATH")
        return named
    for drawn, share in (("test", defaults.test_share), ("validation", defaults.validation_share)):
        if hash64(f"{defaults.seed}:{drawn}-recordings:{recording_id}") < share * 2**64:
            return drawn
    return "train"


def columns_json(columns: Mapping[str, Any]) -> str | None:
    """Return a list's own columns as the text that tables keep; None where there are none."""
    return json.dumps(columns, sort_keys=True, ensure_ascii=False) if columns else None


def _turns(recording: Recording, source: dict[str, Any], length: int, defaults: Defaults) -> list[dict[str, Any]]:
    """Return the turns of a recording of `length` samples by start, each with its transition."""
    own_hz = source["source_rate_hz"]
    turns: list[dict[str, Any]] = []
    for number, segment in enumerate(sorted(recording.segments, key=lambda s: (s.start_s, s.end_s, s.speaker))):
        if segment.end_s > length / own_hz + EDGE_S or segment.start_s < -EDGE_S or segment.end_s <= segment.start_s:
            raise ValueError(
                f"{segment.speaker} speaks from {segment.start_s:.2f} s to {segment.end_s:.2f} s, but "
                f"{recording.audio.name} lasts {length / own_hz:.2f} s"
            )
        if segment.speaker.strip() in ("", *NOBODY):
            raise ValueError(f"speaker {segment.speaker!r} is no name")
        turns.append(
            {
                "utterance_id": f"{recording.recording_id}-{number:05d}",
                **_timed(segment, source, length, defaults),
                "licence": recording.licence or defaults.licence,
            }
        )
    name_transitions(turns)
    return turns


def name_transitions(turns: Sequence[dict[str, Any]]) -> None:
    """Set each turn's transition and its offset to the end of the floor; turns are by start."""
    floor: dict[str, Any] | None = None
    for turn in turns:
        floor_end = floor["start_sample"] + floor["num_samples"] if floor else 0
        turn["offset_samples"] = turn["start_sample"] - floor_end
        # The same definition of the floor as operators.simulate.turn_taking: a turn inside another speaker's turn
        # does not take it.
        if floor is None:
            turn["transition"] = "start"
        elif turn["speaker"] == floor["speaker"]:
            turn["transition"] = "hold"
        elif turn["start_sample"] + turn["num_samples"] <= floor_end:
            turn["transition"] = "backchannel"
        else:
            turn["transition"] = "switch_gap" if turn["offset_samples"] >= 0 else "switch_overlap"
        if turn["transition"] != "backchannel":
            floor = turn


def _timed(segment: TranscribedSegment, source: dict[str, Any], length: int, defaults: Defaults) -> dict[str, Any]:
    """Return a turn's place on the timeline and in its recording of `length` samples, and its transcript."""
    own_hz, rate_hz = source["source_rate_hz"], defaults.rate_hz
    num_samples = resampled_length(length, own_hz, rate_hz)
    start = max(0, min(num_samples - 1, round(segment.start_s * rate_hz)))
    end = max(start + 1, min(num_samples, round(segment.end_s * rate_hz)))
    from_sample = max(0, min(length - 1, round(segment.start_s * own_hz)))
    return {
        "speaker": segment.speaker,
        "start_sample": start,
        "num_samples": end - start,
        "gain_db": 0.0,
        **source,
        "channel": segment.channel,
        "source_start_sample": from_sample,
        "source_num_samples": max(1, min(length, round(segment.end_s * own_hz)) - from_sample),
        "text": segment.text,
        "text_normalized": normalize(segment.text),
        "gender": None,
        "language": segment.language or defaults.language,
        "is_part": False,
        "rir_id": None,
        "words": [
            {"word": word, "start_sample": round(start_s * rate_hz), "num_samples": round(duration_s * rate_hz)}
            for word, start_s, duration_s in segment.words
        ],
    }
