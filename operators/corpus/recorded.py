"""Recorded conversations as rows of CONVERSATIONS, like simulated ones, with their own labels.

Reads a lhotse manifest whose recordings have supervisions of several speakers, or a folder of sound files with STM
files (with transcripts) or RTTM files (without) that name them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import soundfile

from operators.corpus.formats import manifest_rows
from operators.corpus.manifest import Manifest
from operators.corpus.normalizers import normalize
from operators.corpus.segments import TranscribedSegment, read_rttm, read_stm
from operators.corpus.sounds import SUFFIXES
from operators.corpus.sources import read_header, resampled_length
from operators.digest import digest_file
from operators.errors import InputError
from operators.rng import hash64
from operators.schema import CONVERSATIONS, table
from operators.store.dataset import Quarantined

VERSION = "2"
_ROUNDING_S = 0.1
"""How far a label may extend beyond the end of its recording."""


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


def annotation_files(manifest: Manifest) -> list[Path]:
    """Return the STM files of a folder, or its RTTM files where it has no STM; empty for a lhotse manifest."""
    for pattern in ("*.stm", "*.rttm"):
        files = sorted(manifest.path.rglob(pattern)) if manifest.path.is_dir() else []
        if files:
            return files
    return []


def files_digest(manifests: Sequence[Manifest]) -> list[str]:
    """Return split, name and digest of each file that labels recordings."""
    return [
        f"{m.split or ''}:{path.name}:{digest_file(path)}"
        for m in manifests
        for path in annotation_files(m) or m.files()
    ]


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


def _from_lhotse(manifest: Manifest) -> list[Recording]:
    """Return the recordings of a lhotse manifest: one per file, with all its supervisions."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in manifest_rows(manifest):
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


@dataclass(frozen=True)
class _Defaults:
    """What rows get that their recording does not name, and the timeline they are put on."""

    rate_hz: int
    seed: int
    test_share: float
    language: str | None
    licence: str | None


def index_recorded(
    manifests: Sequence[Manifest],
    corpora: dict[Path, str],
    rate_hz: int,
    *,
    seed: int,
    test_share: float,
    language: str | None = None,
    licence: str | None = None,
) -> tuple[pa.Table, list[Quarantined]]:
    """Return recorded conversations as a table of CONVERSATIONS, sorted by id, and the unusable ones.

    Args:
        manifests: the manifests or folders to read.
        corpora: the corpus name of each manifest's root.
        rate_hz: rate of the timeline.
        seed: seed of the drawn test split, where the manifests name none.
        test_share: share of the recordings drawn for that test split.
        language: language of turns that name none.
        licence: licence of recordings that name none.

    Raises:
        InputError: a manifest cannot be read, or two recordings have the same id.
    """
    rows: list[dict[str, Any]] = []
    bad: list[Quarantined] = []
    defaults = _Defaults(rate_hz, seed, test_share, language, licence)
    for manifest in manifests:
        recordings = _annotated(manifest) if annotation_files(manifest) else _from_lhotse(manifest)
        for recording in recordings:
            try:
                rows.append(_conversation(recording, manifest.root, corpora[manifest.root], defaults))
            except ValueError as error:
                bad.append(Quarantined(row_id=recording.recording_id, reason=str(error)))
    rows.sort(key=lambda row: row["conversation_id"])
    ids = [row["conversation_id"] for row in rows]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise InputError(f"corpus.recorded lists recording {twice} twice; rename or remove one")
    return table(rows, CONVERSATIONS), bad


def _conversation(recording: Recording, root: Path, corpus: str, defaults: _Defaults) -> dict[str, Any]:
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
        "split": recording.split or _drawn_split(recording.recording_id, defaults),
        "seed": defaults.seed,
        "sample_rate_hz": defaults.rate_hz,
        "num_samples": resampled_length(length, own_hz, defaults.rate_hz),
        "speakers": list(dict.fromkeys(turn["speaker"] for turn in turns)),
        "turns": turns,
        "recording": {
            **source,
            # Speakers on channels of their own, as in telephone calls, are mixed: -1.
            "channel": channels[0] if len(channels) == 1 and header.num_channels > channels[0] else -1,
            "source_start_sample": 0,
            "source_num_samples": length,
        },
        "num_clipped_offsets": 0,
        "num_dropped_pieces": 0,
    }


def _drawn_split(recording_id: str, defaults: _Defaults) -> str:
    drawn = hash64(f"{defaults.seed}:test-recordings:{recording_id}") < defaults.test_share * 2**64
    return "test" if drawn else "train"


def _turns(recording: Recording, source: dict[str, Any], length: int, defaults: _Defaults) -> list[dict[str, Any]]:
    """Return the turns of a recording of `length` samples by start, each with its transition."""
    own_hz = source["source_rate_hz"]
    turns: list[dict[str, Any]] = []
    floor: dict[str, Any] | None = None
    for number, segment in enumerate(sorted(recording.segments, key=lambda s: (s.start_s, s.end_s, s.speaker))):
        if segment.end_s > length / own_hz + _ROUNDING_S or segment.start_s < 0 or segment.end_s <= segment.start_s:
            raise ValueError(
                f"{segment.speaker} speaks from {segment.start_s:.2f} s to {segment.end_s:.2f} s, but "
                f"{recording.audio.name} lasts {length / own_hz:.2f} s"
            )
        turn = {
            "utterance_id": f"{recording.recording_id}-{number:05d}",
            **_timed(segment, source, length, defaults),
            "licence": recording.licence or defaults.licence,
        }
        floor_end = floor["start_sample"] + floor["num_samples"] if floor else 0
        turn["offset_samples"] = turn["start_sample"] - floor_end
        # The same definition of the floor as operators.simulate.turn_taking: a turn inside another speaker's turn
        # does not take it.
        if floor is None:
            turn["transition"] = "start"
        elif segment.speaker == floor["speaker"]:
            turn["transition"] = "hold"
        elif turn["start_sample"] + turn["num_samples"] <= floor_end:
            turn["transition"] = "backchannel"
        else:
            turn["transition"] = "switch_gap" if turn["offset_samples"] >= 0 else "switch_overlap"
        if turn["transition"] != "backchannel":
            floor = turn
        turns.append(turn)
    return turns


def _timed(segment: TranscribedSegment, source: dict[str, Any], length: int, defaults: _Defaults) -> dict[str, Any]:
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
