"""Recorded conversations enter the road where simulated ones do: as CONVERSATIONS, with their own truth.

A lhotse manifest whose recordings have supervisions of several speakers, or a folder of sound files with STM files
(text) or RTTM files (who spoke when, no text) that name them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import soundfile

from operators.corpus.manifest import Manifest, header, supervised
from operators.corpus.normalizers import normalize
from operators.corpus.sounds import SUFFIXES
from operators.digest import digest_file
from operators.errors import InputError
from operators.rng import hash64
from operators.schema import CONVERSATIONS, table
from operators.simulate.converse import resampled_length
from operators.simulate.turn_taking import read_rttm
from operators.store.dataset import Quarantined

VERSION = "1"
_ROUNDING_S = 0.1


@dataclass(frozen=True)
class Said:
    """One stretch of one speaker in a recording."""

    speaker: str
    start_s: float
    end_s: float
    text: str
    words: tuple[tuple[str, float, float], ...] = ()
    """Word, start and duration in seconds of the recording."""
    language: str | None = None
    channel: int = 0


@dataclass(frozen=True)
class Recording:
    """A sound file and what is said in it."""

    recording_id: str
    audio: Path
    said: tuple[Said, ...]
    split: str | None
    licence: str | None
    byte_offset: int = 0
    byte_length: int = 0


def read_stm(path: Path) -> dict[str, list[Said]]:
    """Return what an STM file says of each recording.

    Raises:
        InputError: a line cannot be read, or lasts no time; names file and line.
    """
    found: dict[str, list[Said]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()
        if not fields or line.startswith(";;"):
            continue
        try:
            name, speaker, start_s, end_s = fields[0], fields[2], float(fields[3]), float(fields[4])
        except (IndexError, ValueError) as error:
            raise InputError(f"{path}:{number} is no STM line: {line!r}") from error
        if not 0 <= start_s < end_s:
            raise InputError(f"{path}:{number}: {speaker} speaks from {start_s} s to {end_s} s")
        words = fields[6:] if len(fields) > 5 and fields[5].startswith("<") else fields[5:]
        if "ignore_time_segment_in_scoring" not in (" ".join(words)).lower():
            found.setdefault(name, []).append(Said(speaker, start_s, end_s, " ".join(words)))
    return found


def annotation_files(manifest: Manifest) -> list[Path]:
    """Return the STM files of a folder, or its RTTM files where it has none; nothing of a lhotse manifest."""
    for pattern in ("*.stm", "*.rttm"):
        files = sorted(manifest.path.rglob(pattern)) if manifest.path.is_dir() else []
        if files:
            return files
    return []


def files_digest(manifests: Sequence[Manifest]) -> list[str]:
    """Return a digest per file that says what is in the recordings."""
    return [
        f"{m.split or ''}:{path.name}:{digest_file(path)}"
        for m in manifests
        for path in annotation_files(m) or m.files()
    ]


def _annotated(manifest: Manifest) -> list[Recording]:
    """Return the recordings of a folder with STM or RTTM files."""
    files = annotation_files(manifest)
    said: dict[str, list[Said]] = {}
    if files[0].suffix == ".stm":
        for path in files:
            for name, listed in read_stm(path).items():
                said.setdefault(name, []).extend(listed)
    else:
        for name, segments in read_rttm(files).items():
            said[name] = [Said(s.speaker, s.start_s, s.end_s, "") for s in segments]
    sounds = {path.stem: path for path in sorted(manifest.path.rglob("*")) if path.suffix.lower() in SUFFIXES}
    missing = sorted(set(said) - set(sounds))
    if missing:
        raise InputError(
            f"{files[0]} names {len(missing)} recording(s) that {manifest.path} does not hold, the first {missing[0]}; "
            f"sound files are called NAME{'|'.join(SUFFIXES)}"
        )
    return [Recording(name, sounds[name], tuple(listed), manifest.split, None) for name, listed in sorted(said.items())]


def _from_lhotse(manifest: Manifest) -> list[Recording]:
    """Return the recordings of a lhotse manifest, by what lies in one file."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in supervised(manifest):
        if row.get("audio_problem") or not row.get("audio"):
            raise InputError(f"{manifest.path}: supervision {row['utterance_id']} has no sound file")
        found.setdefault((str(row["audio"]), int(row.get("byte_offset", 0))), []).append(row)
    recordings = []
    for (audio, offset), rows in found.items():
        path = Path(audio) if Path(audio).is_absolute() else manifest.root / audio
        said = tuple(
            Said(str(r["speaker"]), float(r["start_s"]), float(r["start_s"]) + float(r["duration_s"]),
                 str(r.get("text") or ""), tuple(r.get("words") or ()), r.get("language"), int(r.get("channel") or 0))
            for r in rows
        )  # fmt: skip
        split = manifest.split or rows[0].get("split")
        recordings.append(
            Recording(str(rows[0].get("recording_id") or path.stem), path, said, split, rows[0].get("licence"), offset,
                      int(rows[0].get("byte_length", 0)))
        )  # fmt: skip
    return sorted(recordings, key=lambda r: r.recording_id)


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
    """Read recorded conversations into CONVERSATIONS, by id.

    Args:
        manifests: what to read.
        corpora: the corpus's name of each manifest's root.
        rate_hz: of the timeline.
        seed: draws the test split where the manifests name none.
        test_share: share of the recordings drawn for it.
        language: of turns that name none.
        licence: of recordings that name none.

    Raises:
        InputError: a manifest cannot be read, or two recordings have one id.
    """
    rows: list[dict[str, Any]] = []
    bad: list[Quarantined] = []
    for manifest in manifests:
        recordings = _annotated(manifest) if annotation_files(manifest) else _from_lhotse(manifest)
        for recording in recordings:
            try:
                rows.append(
                    _conversation(recording, manifest.root, corpora[manifest.root], rate_hz, seed, test_share, language,
                                  licence)
                )  # fmt: skip
            except ValueError as error:
                bad.append(Quarantined(row_id=recording.recording_id, reason=str(error)))
    rows.sort(key=lambda row: row["conversation_id"])
    ids = [row["conversation_id"] for row in rows]
    if len(set(ids)) != len(ids):
        raise InputError(f"recording {next(i for i in ids if ids.count(i) > 1)} stands twice in corpus.recorded")
    return table(rows, CONVERSATIONS), bad


def _conversation(
    recording: Recording, root: Path, corpus: str, rate_hz: int, seed: int, test_share: float, language: str | None,
    licence: str | None,
) -> dict[str, Any]:  # fmt: skip
    try:
        own_hz, length, num_channels, _ = header(recording.audio, recording.byte_offset, recording.byte_length)
    except (OSError, soundfile.SoundFileError) as error:
        raise ValueError(f"unreadable or truncated audio {recording.audio}: {error}") from error
    audio = recording.audio
    source = {
        "corpus": corpus,
        "audio": str(audio.relative_to(root)) if audio.is_relative_to(root) else str(audio),
        "byte_offset": recording.byte_offset,
        "byte_length": recording.byte_length,
        "source_rate_hz": own_hz,
    }
    number = resampled_length(length, own_hz, rate_hz)
    turns: list[dict[str, Any]] = []
    held: dict[str, Any] | None = None
    for place, one in enumerate(sorted(recording.said, key=lambda s: (s.start_s, s.end_s, s.speaker))):
        if one.end_s > length / own_hz + _ROUNDING_S or one.start_s < 0 or one.end_s <= one.start_s:
            raise ValueError(
                f"{one.speaker} speaks from {one.start_s:.2f} s to {one.end_s:.2f} s, but {audio.name} lasts "
                f"{length / own_hz:.2f} s"
            )
        start = min(number - 1, round(one.start_s * rate_hz))
        end = max(start + 1, min(number, round(one.end_s * rate_hz)))
        from_sample = min(length - 1, round(one.start_s * own_hz))
        turn: dict[str, Any] = {
            "utterance_id": f"{recording.recording_id}-{place:05d}",
            "speaker": one.speaker,
            "offset_samples": start - (held["start_sample"] + held["num_samples"]) if held else start,
            "start_sample": start,
            "num_samples": end - start,
            "gain_db": 0.0,
            **source,
            "channel": one.channel,
            "source_start_sample": from_sample,
            "source_num_samples": max(1, min(length, round(one.end_s * own_hz)) - from_sample),
            "text": one.text,
            "text_normalized": normalize(one.text),
            "gender": None,
            "language": one.language or language,
            "licence": recording.licence or licence,
            "is_part": False,
            "rir_id": None,
            "words": [
                {"word": w, "start_sample": round(s * rate_hz), "num_samples": round(d * rate_hz)}
                for w, s, d in one.words
            ],
        }
        # The same floor as operators.simulate.turn_taking: inside somebody else's turn, nobody takes it.
        if held is None:
            turn["transition"] = "start"
        elif one.speaker == held["speaker"]:
            turn["transition"] = "hold"
        elif end <= held["start_sample"] + held["num_samples"]:
            turn["transition"] = "backchannel"
        else:
            turn["transition"] = "switch_gap" if turn["offset_samples"] >= 0 else "switch_overlap"
        if turn["transition"] != "backchannel":
            held = turn
        turns.append(turn)
    if not turns:
        raise ValueError("nobody says anything in it")
    split = recording.split or (
        "test" if hash64(f"{seed}:test-recordings:{recording.recording_id}") < test_share * 2**64 else "train"
    )
    channels = sorted({one.channel for one in recording.said})
    return {
        "conversation_id": recording.recording_id,
        "origin": "recorded",
        "split": split,
        "seed": seed,
        "sample_rate_hz": rate_hz,
        "num_samples": number,
        "speakers": list(dict.fromkeys(turn["speaker"] for turn in turns)),
        "turns": turns,
        "recording": {
            **source,
            # Speakers on channels of their own, as telephone calls have them, are heard together: -1.
            "channel": channels[0] if len(channels) == 1 and num_channels > channels[0] else -1,
            "source_start_sample": 0,
            "source_num_samples": length,
        },
        "num_clipped_offsets": 0,
        "num_dropped_pieces": 0,
    }
