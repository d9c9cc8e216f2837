"""Recorded conversations as rows of CONVERSATIONS, like simulated ones, with their own labels.

Reads a lhotse manifest whose recordings have supervisions of several speakers, or a folder of sound files with STM
files (with transcripts) or RTTM files (without) that name them.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import soundfile

from operators.corpus.formats import manifest_rows
from operators.corpus.manifest import Manifest
from operators.corpus.normalizers import normalize
from operators.corpus.segments import TranscribedSegment, read_rttm, read_stm
from operators.corpus.sounds import SUFFIXES
from operators.corpus.sources import AudioHeader, read_header, resampled_length
from operators.corpus.splits import SPLITS, split_named
from operators.digest import digest_file
from operators.errors import InputError
from operators.rng import hash64
from operators.schema import CONVERSATIONS, table
from operators.store.dataset import Quarantined

VERSION = "2"
_ROUNDING_S = 0.1
"""How far a label may extend beyond the end of its recording."""


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


def annotation_files(manifest: Manifest) -> list[Path]:
    """Return the STM files of a folder, or its RTTM files where it has no STM; empty for a lhotse manifest."""
    for pattern in ("*.stm", "*.rttm"):
        files = sorted(manifest.path.rglob(pattern)) if manifest.path.is_dir() else []
        if files:
            return files
    return []


def label_files(manifest: Manifest) -> list[Path]:
    """Return the files that label the recordings of a manifest or folder: STM, RTTM, or a lhotse manifest's.

    Raises:
        InputError: the folder contains none.
    """
    return annotation_files(manifest) or manifest.files()


def files_digest(manifests: Sequence[Manifest], files: Callable[[Manifest], Sequence[Path]] = label_files) -> list[str]:
    """Return split, name and digest of each file that labels recordings; `files` finds them."""
    return [f"{m.split or ''}:{path.name}:{digest_file(path)}" for m in manifests for path in files(m)]


def read_labels(manifest: Manifest) -> list[Recording]:
    """Return the recordings of a folder with STM or RTTM files, or of a lhotse manifest.

    Raises:
        InputError: a file cannot be read, or a recording is missing.
    """
    return _annotated(manifest) if annotation_files(manifest) else from_lhotse(manifest, manifest_rows(manifest))


def _annotated(manifest: Manifest) -> list[Recording]:
    """Return the recordings of a folder with STM or RTTM files."""
    files = annotation_files(manifest)
    found: dict[str, list[TranscribedSegment]] = {}
    if files[0].suffix == ".stm":
        for path in files:
            for name, segments in read_stm(path).items():
                found.setdefault(name, []).extend(segments)
    else:
        for name, unnamed in read_rttm(files).items():
            found[name] = [TranscribedSegment(s.speaker, s.start_s, s.end_s, "") for s in unnamed]
    sounds = {path.stem: path for path in sorted(manifest.path.rglob("*")) if path.suffix.lower() in SUFFIXES}
    missing = sorted(set(found) - set(sounds))
    if missing:
        raise InputError(
            f"{files[0]} names {len(missing)} recording(s) missing from {manifest.path}, the first {missing[0]}; "
            f"sound files must be named NAME{'|'.join(SUFFIXES)}"
        )
    return [
        Recording(name, sounds[name], tuple(segments), manifest.split, None) for name, segments in sorted(found.items())
    ]


def from_lhotse(manifest: Manifest, listed: Iterable[dict[str, Any]]) -> list[Recording]:
    """Return the recordings of rows of a lhotse manifest: one per file, with all its supervisions.

    Raises:
        InputError: a supervision has no sound file.
    """
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in listed:
        if row.get("audio_problem") or not row.get("audio"):
            raise InputError(f"{manifest.path}: supervision {row['utterance_id']} has no sound file")
        found.setdefault((str(row["audio"]), int(row.get("byte_offset", 0))), []).append(row)
    recordings = []
    for (audio, offset), rows in found.items():
        path = Path(audio) if Path(audio).is_absolute() else manifest.root / audio
        segments = tuple(
            TranscribedSegment(
                speaker=str(row["speaker"]),
                start_s=float(row["start_s"]),
                end_s=float(row["start_s"]) + float(row["duration_s"]),
                text=str(row.get("text") or ""),
                words=tuple(row.get("words") or ()),
                language=row.get("language"),
                channel=int(row.get("channel") or 0),
            )
            for row in rows
        )
        first = rows[0]
        recordings.append(
            Recording(
                recording_id=str(first.get("recording_id") or path.stem),
                audio=path,
                segments=segments,
                split=manifest.split or first.get("split"),
                licence=first.get("licence"),
                byte_offset=offset,
                byte_length=int(first.get("byte_length", 0)),
            )
        )
    return sorted(recordings, key=lambda r: r.recording_id)


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
    for manifest in manifests:
        for listed in read(manifest):
            try:
                rows.append(listed.row(manifest.root, defaults))
            except ValueError as error:
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
        if segment.end_s > length / own_hz + _ROUNDING_S or segment.start_s < 0 or segment.end_s <= segment.start_s:
            raise ValueError(
                f"{segment.speaker} speaks from {segment.start_s:.2f} s to {segment.end_s:.2f} s, but "
                f"{recording.audio.name} lasts {length / own_hz:.2f} s"
            )
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
    start = min(num_samples - 1, round(segment.start_s * rate_hz))
    end = max(start + 1, min(num_samples, round(segment.end_s * rate_hz)))
    from_sample = min(length - 1, round(segment.start_s * own_hz))
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
