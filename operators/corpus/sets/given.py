"""Given conversations: mixtures that a list defines, turn by turn, as rows of CONVERSATIONS.

A list is JSON lines, gzipped or not, one conversation a line. Nothing is drawn; the same list is the same mixtures.

    {"conversation_id": "a-1", "split": "test", "sample_rate_hz": 16000, "mixing": "float64",
     "columns": {"talkers": 2}, "turns": [{"utterance_id": "u1", "audio": "flac/u1.flac", "speaker": "ann",
     "text": "HELLO", "start_sample": 0, "gain": 0.5}, ...]}

Of a turn, `start_s` may replace `start_sample`; `source_start_sample` and `source_num_samples` take a slice of its
file; `channel`, `gender`, `language` and `licence` are optional. `gain` multiplies the samples as they are (1 where no
turn names one) and `mixing` is the arithmetic of their sum; with `gain_db` instead, turns are scaled to the level that
simulated speakers share. Of a conversation, `num_samples` (to the end of the last turn), `room` (as in CONVERSATIONS),
`background` (`audio`, `gain`, `channel`: added as it is, from its start) and `columns` are optional.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile

from operators.corpus.formats import json_lines
from operators.corpus.manifest import Manifest
from operators.corpus.normalizers import normalize
from operators.corpus.recorded import Defaults, columns_json, name_transitions, split_of
from operators.corpus.sources import AudioHeader, read_header, resampled_length
from operators.errors import InputError

PRECISIONS = ("float32", "float64")
_SAME_SAMPLES = {".wav": ".flac", ".flac": ".wav"}
"""Lists often name WAV files that were unpacked from FLAC: the samples are the same."""


@dataclass(frozen=True, kw_only=True)
class GivenTurn:
    """One turn of a given conversation; samples of the timeline are at the list's rate."""

    utterance_id: str
    audio: str
    speaker: str
    text: str
    start_sample: int
    gain: float | None = None
    """Factor of the samples as they are."""
    gain_db: float = 0.0
    """Over the level that speakers share, where there is no `gain`."""
    source_start_sample: int = 0
    source_num_samples: int | None = None
    """At the file's own rate; to its end by default."""
    channel: int = 0
    gender: str | None = None
    language: str | None = None
    licence: str | None = None


@dataclass(frozen=True, kw_only=True)
class Background:
    """Sound that is added to a mixture as it is."""

    audio: str
    gain: float
    channel: int = 0


@dataclass(frozen=True, kw_only=True)
class GivenConversation:
    """A mixture as a list defines it."""

    recording_id: str
    turns: tuple[GivenTurn, ...]
    rate_hz: int
    mixing: str | None
    """float32 or float64: arithmetic of the sum; None where turns are scaled to the shared level."""
    split: str | None = None
    num_samples: int | None = None
    room: Mapping[str, Any] | None = None
    background: Background | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def row(self, root: Path, defaults: Defaults) -> dict[str, Any]:
        """Return the row of CONVERSATIONS; raise ValueError where a file is missing, too short or unreadable."""
        turns = [self._turn(turn, root, defaults) for turn in self.turns]
        turns.sort(key=lambda turn: int(turn["start_sample"]))  # stable: sums keep the list's order
        name_transitions(turns)
        speakers = list(dict.fromkeys(turn["speaker"] for turn in turns))
        end = max(turn["start_sample"] + turn["num_samples"] for turn in turns)
        num_samples = end if self.num_samples is None else self._scaled(self.num_samples, defaults)
        if num_samples < end:
            raise ValueError(f"num_samples {num_samples} ends before the last turn does, at sample {end}")
        if self.room is not None:
            seats = {seat["speaker"]: seat["rir_id"] for seat in self.room["seats"]}
            missing = [speaker for speaker in speakers if speaker not in seats]
            if missing:
                raise ValueError(f"room has no seat for speaker {missing[0]}")
            for turn in turns:
                turn["rir_id"] = seats[turn["speaker"]]
        return {
            "conversation_id": self.recording_id,
            "origin": "simulated",
            "split": split_of(self.recording_id, self.split, defaults),
            "seed": defaults.seed,
            "sample_rate_hz": defaults.rate_hz,
            "num_samples": num_samples,
            "speakers": speakers,
            "turns": turns,
            "room": self.room,
            "enrolments": [],
            "mixing": self.mixing,
            "background": self._background(num_samples, root, defaults),
            "user_columns": columns_json(self.columns),
            "num_clipped_offsets": 0,
            "num_dropped_pieces": 0,
        }

    def _scaled(self, sample: int, defaults: Defaults) -> int:
        """Return a time of the list's rate at the timeline's; the same where the rates are."""
        return resampled_length(sample, self.rate_hz, defaults.rate_hz)

    def _turn(self, turn: GivenTurn, root: Path, defaults: Defaults) -> dict[str, Any]:
        source, header = _source(turn.audio, turn.channel, root, defaults)
        left = header.num_samples - turn.source_start_sample
        wanted = left if turn.source_num_samples is None else turn.source_num_samples
        if turn.source_start_sample < 0 or not 0 < wanted <= left:
            raise ValueError(
                f"turn {turn.utterance_id} wants {wanted} samples from sample {turn.source_start_sample}, but "
                f"{turn.audio} has {header.num_samples}"
            )
        return {
            "utterance_id": turn.utterance_id,
            "speaker": turn.speaker,
            "start_sample": self._scaled(turn.start_sample, defaults),
            "num_samples": resampled_length(wanted, header.rate_hz, defaults.rate_hz),
            "gain_db": turn.gain_db,
            "gain": turn.gain,
            **source,
            "source_start_sample": turn.source_start_sample,
            "source_num_samples": wanted,
            "text": turn.text,
            "text_normalized": normalize(turn.text),
            "gender": turn.gender,
            "language": turn.language or defaults.language,
            "licence": turn.licence or defaults.licence,
            "is_part": False,
            "rir_id": None,
            "words": [],
        }

    def _background(self, num_samples: int, root: Path, defaults: Defaults) -> dict[str, Any] | None:
        if self.background is None:
            return None
        source, header = _source(self.background.audio, self.background.channel, root, defaults)
        needed = -(-num_samples * header.rate_hz // defaults.rate_hz)
        return {
            **source,
            "source_start_sample": 0,
            "source_num_samples": min(header.num_samples, needed),
            "gain": self.background.gain,
        }


def find_audio(audio: str, roots: Sequence[Path]) -> tuple[Path, Path]:
    """Return the folder and the file that a list's audio path names, searching the folders in turn.

    Raises:
        ValueError: there is no such file in any of them, as WAV or FLAC.
    """
    named = Path(audio)
    for root in roots:
        for path in (named, named.with_suffix(_SAME_SAMPLES.get(named.suffix.lower(), named.suffix))):
            if (root / path).is_file():
                return root, root / path
    raise ValueError(
        f"missing file {audio}; it is looked for in {', '.join(map(str, roots))} "
        "(--corpus.audio-roots FOLDER ... names more)"
    )


def _source(audio: str, channel: int, root: Path, defaults: Defaults) -> tuple[dict[str, Any], AudioHeader]:
    """Return where a file's samples are, but for the slice, and its header."""
    folder, path = find_audio(audio, [root, *(other for other in defaults.corpora if other != root)])
    header = defaults.headers.get(path)
    if header is None:
        try:
            header = defaults.headers[path] = read_header(path)
        except (OSError, soundfile.SoundFileError) as error:
            raise ValueError(f"unreadable or truncated audio {path}: {error}") from error
    if channel >= header.num_channels:
        raise ValueError(f"no channel {channel} in {path}, which has {header.num_channels}")
    source = {
        "corpus": defaults.corpora[folder],
        "audio": str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path),
        "byte_offset": 0,
        "byte_length": 0,
        "channel": channel,
        "source_rate_hz": header.rate_hz,
    }
    return source, header


def list_files(manifest: Manifest) -> list[Path]:
    """Return the files of a list of given conversations.

    Raises:
        InputError: the folder contains none.
    """
    if manifest.path.is_file():
        return [manifest.path]
    found = sorted(manifest.path.glob("*.jsonl*"))
    if not found:
        raise InputError(f"folder {manifest.path} contains no list of conversations (*.jsonl or *.jsonl.gz)")
    return found


def read_given(manifest: Manifest) -> list[GivenConversation]:
    """Return the conversations of a list.

    Raises:
        InputError: a line is not a conversation; names file, line and reason.
    """
    found = []
    for path in list_files(manifest):
        for number, row in enumerate(json_lines(path), start=1):
            try:
                found.append(_given(row, manifest.split))
            except (KeyError, TypeError, ValueError) as error:
                reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
                raise InputError(f"{path} line {number} is not a given conversation: {reason}") from error
    return found


def _given(row: Mapping[str, Any], split: str | None) -> GivenConversation:
    rate_hz = int(row.get("sample_rate_hz", 16_000))
    listed = row["turns"]
    if not listed:
        raise ValueError("it has no turns")
    scaled = any("gain_db" in turn for turn in listed)
    if scaled and (any("gain" in turn for turn in listed) or row.get("mixing") or row.get("background")):
        raise ValueError("turns with gain_db are scaled to a level; gain, mixing and background cannot be given too")
    mixing = None if scaled else row.get("mixing", "float64")
    if mixing is not None and mixing not in PRECISIONS:
        raise ValueError(f"mixing {mixing!r} is neither of {', '.join(PRECISIONS)}")
    turns = []
    for turn in listed:
        values = {name: value for name, value in turn.items() if name != "start_s"}
        if "start_s" in turn:
            values["start_sample"] = round(float(turn["start_s"]) * rate_hz)
        if not scaled:
            values["gain"] = float(turn.get("gain", 1.0))
        turns.append(GivenTurn(**values))
        if turns[-1].start_sample < 0:
            raise ValueError(f"turn {turns[-1].utterance_id} starts before the conversation does")
    background = row.get("background")
    return GivenConversation(
        recording_id=str(row["conversation_id"]),
        turns=tuple(turns),
        rate_hz=rate_hz,
        mixing=mixing,
        split=split or row.get("split"),
        num_samples=row.get("num_samples"),
        room=row.get("room"),
        background=None if background is None else Background(**background),
        columns=row.get("columns", {}),
    )
