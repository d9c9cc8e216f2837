"""Recorded meetings in the folders in which they are published: LibriCSS, AMI, NOTSOFAR-1, CHiME-6, LibriConvo.

Each reader returns one recording per microphone that is used, with its labels, and what its name says of it (condition,
microphone, room) as columns that scores can be sliced by.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from operators.corpus.formats import json_lines
from operators.corpus.forms.lhotse import pair_rows
from operators.corpus.manifest import Manifest
from operators.corpus.recorded import Listed, Recording, from_rows
from operators.corpus.segments import TranscribedSegment
from operators.errors import InputError

LIBRICSS_CONDITIONS = ("0L", "0S", "OV10", "OV20", "OV30", "OV40")
"""No overlap with long and short silences, then 10 to 40 % of overlap."""
_LIBRICSS_NAME = re.compile(r"overlap_ratio_[\d.]+_sil[\d.]+_[\d.]+_(?P<session>session\d+)_actual(?P<real>[\d.]+)")
_SPLIT_OF_PART = {"train": "train", "dev": "dev", "eval": "test", "test": "test"}
_L = TypeVar("_L", bound=Listed)
_NOISE = re.compile(r"\[[^\]]*\]|<[^>]*>")
"""Marks of what is not speech: [laughs], [inaudible 0:01:02.00], <ST/>."""


def _folder(manifest: Manifest, what: str) -> Path:
    if not manifest.path.is_dir():
        raise InputError(f"{manifest.path} is no folder; name the folder of {what}")
    return manifest.path


def _parsed(path: Path) -> Any:
    """Return the contents of a JSON file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _segments(
    path: Path, rows: Iterable[Any], one: Callable[[Any], TranscribedSegment | None]
) -> tuple[TranscribedSegment, ...]:
    """Return the segments that a file lists.

    Raises:
        InputError: an entry is not a segment; names file and entry.
    """
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            segment = one(row)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{path}: entry {number} is not a segment: {reason}") from error
        if segment is not None:
            found.append(segment)
    return tuple(found)


def _some(found: list[_L], manifest: Manifest, what: str) -> list[_L]:
    if not found:
        raise InputError(f"{manifest.path} holds no session of {what}")
    return found


# ------------------------------------------------------------------------------------------------------------ LibriCSS


def _libricss_sessions(manifest: Manifest) -> Iterator[tuple[str, Path, re.Match[str]]]:
    """Yield condition, folder and name of each session."""
    root = _folder(manifest, "LibriCSS (for_release)")
    root = root / "for_release" if (root / "for_release").is_dir() else root
    for condition in LIBRICSS_CONDITIONS:
        for session in sorted((root / condition).glob("overlap_ratio_*")):
            named = _LIBRICSS_NAME.fullmatch(session.name)
            if named:
                yield condition, session, named


def libricss_files(manifest: Manifest) -> list[Path]:
    """Return the transcripts of all sessions."""
    return [session / "transcription/meeting_info.txt" for _, session, _ in _libricss_sessions(manifest)]


def read_libricss(manifest: Manifest, *, clean: bool = False) -> list[Recording]:
    """Return the sessions of LibriCSS of all conditions: the array's first channel, or the sum before it was replayed.

    Source: github.com/chenzhuo1011/libri_css; Chen et al. 2020, "Continuous speech separation: dataset and analysis".

    Raises:
        InputError: there is no session, or a transcript is malformed; names file and line.
    """
    found = []
    for condition, session, named in _libricss_sessions(manifest):
        path = session / "transcription/meeting_info.txt"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        segments = _segments(path, lines[1:], _libricss_segment)  # the first line names the columns
        found.append(
            Recording(
                recording_id=f"{condition}_{named['session']}",
                audio=session / ("clean/mix.wav" if clean else "record/raw_recording.wav"),
                segments=segments,
                split=manifest.split or "test",
                licence=None,
                columns={
                    "set": "LibriCSS",
                    "condition": condition,
                    "session": named["session"],
                    "overlap_share": round(float(named["real"]) / 100, 4),
                    "microphone": "clean" if clean else "array-0",
                },
            )
        )
    return _some(found, manifest, "LibriCSS (0L, 0S, OV10 ... OV40)")


def _libricss_segment(line: str) -> TranscribedSegment | None:
    """Return the segment of a line: start, end, speaker, utterance and transcript, separated by tabs."""
    if not line.strip():
        return None
    start_s, end_s, speaker, _, text = line.split("\t")
    return TranscribedSegment(speaker, float(start_s), float(end_s), text.strip())


# ----------------------------------------------------------------------------------------------------------------- AMI


def _ami_pairs(manifest: Manifest, microphone: str) -> Iterator[tuple[str, list[Path]]]:
    """Yield split and files of each part that lhotse prepared."""
    folder = _folder(manifest, "AMI's manifests, made by `lhotse prepare ami`")
    for part in ("train", "dev", "test"):
        if manifest.split in (None, part):
            pair = [folder / f"ami-{microphone}_{kind}_{part}.jsonl.gz" for kind in ("recordings", "supervisions")]
            if all(path.is_file() for path in pair):
                yield part, pair


def ami_files(manifest: Manifest, microphone: str) -> list[Path]:
    """Return the manifests of a microphone."""
    return [path for _, pair in _ami_pairs(manifest, microphone) for path in pair]


def read_ami(manifest: Manifest, *, microphone: str) -> Sequence[Listed]:
    """Return AMI's meetings of one microphone setting from lhotse's manifests, with the split that they were made with.

    Args:
        manifest: folder of `lhotse prepare ami --mic ihm-mix` or `--mic sdm` (partition full-corpus-asr by default).
        microphone: ihm-mix or sdm.

    Raises:
        InputError: there is none of that microphone.
    """
    found: list[Listed] = []
    for part, pair in _ami_pairs(manifest, microphone):
        rows = ({**row, "split": part} for row in pair_rows(manifest, pair))
        for recording in from_rows(Manifest(path=manifest.path, split=part), rows):
            columns = {"set": "AMI", "microphone": microphone, "site": re.sub(r"\d.*", "", recording.recording_id)}
            found.append(replace(recording, columns=columns) if isinstance(recording, Recording) else recording)
    return _some(found, manifest, f"AMI with microphone {microphone} (ami-{microphone}_recordings_test.jsonl.gz)")


# ---------------------------------------------------------------------------------------------------------- NOTSOFAR-1


def notsofar_files(manifest: Manifest) -> list[Path]:
    """Return the transcripts of all meetings."""
    return sorted(_folder(manifest, "NOTSOFAR-1's meetings").rglob("MTG_*/gt_transcription.json"))


def read_notsofar(manifest: Manifest) -> list[Recording]:
    """Return NOTSOFAR-1's meetings, one recording for each single-channel device (`sc_*`).

    Word times are the transcripts' own. Source: github.com/microsoft/NOTSOFAR1-Challenge; Vinnikov et al. 2024,
    arXiv:2401.08887.

    Raises:
        InputError: there is no meeting, or a transcript is malformed; names the file.
    """
    found = []
    for path in notsofar_files(manifest):
        meeting = path.parent
        known = meeting / "gt_meeting_metadata.json"
        about = _parsed(known) if known.exists() else {}
        segments = _segments(path, _parsed(path), _notsofar_segment)
        part = next((p for p in meeting.parts if p in ("train_set", "dev_set", "eval_set")), None)
        found += [
            Recording(
                recording_id=f"{meeting.name}_{device.name}",
                audio=device / "ch0.wav",
                segments=segments,
                split=manifest.split or (_SPLIT_OF_PART[part.removesuffix("_set")] if part else None),
                licence=None,
                columns={
                    "set": "NOTSOFAR-1",
                    "meeting": meeting.name,
                    "microphone": re.sub(r"_\d+$", "", device.name),
                    "talkers": len({segment.speaker for segment in segments}),
                    "conditions": str(about.get("Hashtags") or ""),
                    "meeting_type": str(about.get("MtgType") or ""),
                },
            )
            for device in sorted(meeting.glob("sc_*"))
        ]
    return _some(found, manifest, "NOTSOFAR-1 (MTG_*/gt_transcription.json with MTG_*/sc_*/ch0.wav)")


def _notsofar_segment(row: Mapping[str, Any]) -> TranscribedSegment | None:
    start_s, end_s = float(row["start_time"]), float(row["end_time"])
    text = _spoken(str(row["text"]))
    if end_s <= start_s or not text:
        return None
    words = tuple(
        (str(word), float(begin), float(end) - float(begin))
        for word, begin, end in row.get("word_timing") or ()
        if _spoken(str(word))
    )
    return TranscribedSegment(str(row["speaker_id"]), start_s, end_s, text, words)


def _spoken(text: str) -> str:
    """Return a transcript without marks of what is not speech.

    >>> _spoken("well [laughs] yes <ST/>")
    'well yes'
    """
    return " ".join(_NOISE.sub(" ", text).split())


# ------------------------------------------------------------------------------------------------------------- CHiME-6


def chime6_files(manifest: Manifest) -> list[Path]:
    """Return the transcripts of all sessions."""
    return sorted((_folder(manifest, "CHiME6 (audio and transcriptions)") / "transcriptions").rglob("S[0-9][0-9].json"))


def read_chime6(manifest: Manifest) -> list[Recording]:
    """Return CHiME-6's sessions: the first channel of the first array of each (usually U01.CH1), synchronized.

    Source: chimechallenge.github.io/chime6; Watanabe et al. 2020, arXiv:2004.09249. Segments that end before they begin
    are left out, as in its own recipes, and marks in brackets are no words.

    Raises:
        InputError: there is no session, or a transcript is malformed; names the file.
    """
    found = []
    for path in chime6_files(manifest):
        part, session = path.parent.name, path.stem
        if manifest.split not in (None, _SPLIT_OF_PART.get(part, part)):
            continue
        arrays = sorted((manifest.path / "audio" / part).glob(f"{session}_U*.wav"))
        if not arrays:
            raise InputError(f"{path} has no recording {manifest.path}/audio/{part}/{session}_U*.wav")
        found.append(
            Recording(
                recording_id=session,
                audio=arrays[0],
                segments=_segments(path, _parsed(path), _chime6_segment),
                split=manifest.split or _SPLIT_OF_PART.get(part, part),
                licence=None,
                columns={
                    "set": "CHiME-6",
                    "session": session,
                    "microphone": arrays[0].stem.removeprefix(f"{session}_"),
                },
            )
        )
    return _some(found, manifest, "CHiME-6 (transcriptions/{train,dev,eval}/S*.json)")


def _chime6_segment(row: Mapping[str, Any]) -> TranscribedSegment | None:
    start_s, end_s = seconds_of(str(row["start_time"])), seconds_of(str(row["end_time"]))
    text = _spoken(str(row["words"]))
    return TranscribedSegment(str(row["speaker"]), start_s, end_s, text) if end_s > start_s and text else None


def seconds_of(clock: str) -> float:
    """Return the seconds of a time as CHiME writes it: hours, minutes and seconds, or seconds alone.

    >>> seconds_of("1:02:03.25"), seconds_of("12.5")
    (3723.25, 12.5)
    """
    return sum(float(part) * 60.0**power for power, part in enumerate(reversed(clock.split(":"))))


# ---------------------------------------------------------------------------------------------------------- LibriConvo


def libriconvo_files(manifest: Manifest) -> list[Path]:
    """Return the lists of a folder, or the one named.

    Raises:
        InputError: there is none.
    """
    found = [manifest.path] if manifest.path.is_file() else sorted(manifest.path.rglob("*.jsonl"))
    if not found:
        raise InputError(f"{manifest.path} contains no *.jsonl of LibriConvo (docs/sets.md says how to write one)")
    return found


def read_libriconvo(manifest: Manifest) -> list[Recording]:
    """Return LibriConvo's conversations, unpacked from its Parquet files to sound files and JSON lines.

    A line has `file_name` and, as lists of one entry a turn, `start_time`, `end_time`, `text` and `abstract_symbol`
    (the speaker). Source: Gedeon and Mihajlik 2025, arXiv:2510.23320; the columns are those of LibriConvo-segmented.

    Raises:
        InputError: a line is malformed; names file and line.
    """
    found = []
    for path in libriconvo_files(manifest):
        for number, row in enumerate(json_lines(path), start=1):
            try:
                lists = [row[name] for name in ("start_time", "end_time", "text", "abstract_symbol")]
                segments = tuple(
                    TranscribedSegment(str(who), float(start_s), float(end_s), str(text))
                    for start_s, end_s, text, who in zip(*lists, strict=True)
                )
                name = str(row["file_name"])
            except (KeyError, TypeError, ValueError) as error:
                reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
                raise InputError(f"{path} line {number} is not of LibriConvo: {reason}") from error
            identity = row.get("segment_conversation_id") or row.get("conversation_id") or Path(name).stem
            found.append(
                Recording(
                    recording_id=str(identity),
                    audio=path.parent / name,
                    segments=segments,
                    split=manifest.split or row.get("split"),
                    licence=None,
                    columns={"set": "LibriConvo", "talkers": len({segment.speaker for segment in segments})},
                )
            )
    return _some(found, manifest, "LibriConvo")
