"""The fields of a corpus's rows: their names in corpora, and the one place where types and ranges are checked."""

import contextlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from operators.corpus.manifest import Manifest
from operators.errors import UnusableRowError

NAMES = {
    "audio": ("audio", "audio_filepath", "audio_path", "wav", "path", "file_name", "file"),
    "text": ("text", "transcript", "sentence", "transcription", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "spk", "client_id"),
    "utterance_id": ("id", "utterance_id", "utt_id", "utt"),
    "gender": ("gender", "sex"),
    "language": ("language", "lang", "locale"),
    "licence": ("licence", "license"),
    "consent": ("consent",),
    "book": ("book", "story"),
    "chapter": ("chapter", "chapter_id"),
    "position": ("position",),
    "split": ("split",),
    "channel": ("channel",),
    "start_s": ("offset", "start"),
    "duration_s": ("duration",),
    "rate_hz": ("sample_rate", "sampling_rate", "sample_rate_hz"),
    "byte_offset": ("byte_offset",),
    "byte_length": ("byte_length",),
}
"""Our name of each field, and its names in corpora."""
_NUMBERS = ("channel", "position", "start_s", "duration_s", "rate_hz", "byte_offset", "byte_length")
NOBODY = ("nan", "None", "null", "<NA>", "N/A")
"""What programs write where they have no value."""
_MOST = {"channel": 2**15 - 1, "position": 2**31 - 1, "rate_hz": 2**31 - 1}
SPEAKER_RULES = {"folder": r"([^/]+)/[^/]+$", "prefix": r"([^/_-]+)[^/]*$"}
"""Named rules of corpus.speaker_from: the file's folder, and its name up to the first - or _."""


def renamed(row: Mapping[str, Any], manifest: Manifest, where: str) -> dict[str, Any]:
    """Return a row of a list under our names; fields that the user mapped come first."""
    taken = {key: name for key, names in NAMES.items() for name in reversed(names) if row.get(name) is not None}
    taken |= {key: name for key, name in manifest.reading.renamed if row.get(name) is not None}
    out: dict[str, Any] = {key: row[name] for key, name in taken.items()}
    out["where"] = where
    known = {name for names in NAMES.values() for name in names}
    out["user"] = {k: v for k, v in row.items() if k not in taken.values() and not (v is None and k in known)}
    return out


def numbers_of(row: Mapping[str, str | None]) -> dict[str, Any]:
    """Return a row of a table of texts with its numeric fields as numbers, and without empty cells."""
    numeric = {name for key in _NUMBERS for name in NAMES[key]}
    out: dict[str, Any] = {}
    for name, value in row.items():
        if name is None or value is None or value == "":
            continue
        out[name] = value
        if name in numeric:
            with contextlib.suppress(ValueError):  # the check of the row names field and value
                out[name] = int(value) if re.fullmatch(r"[+-]?\d+", value) else float(value)
    return out


_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
"""Letters of no text: control characters but for white space."""


def checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without nulls, after checking the type and range of every field.

    Raises:
        UnusableRowError: a field has another type or an impossible value; names field and value.
    """
    if row.get("problem"):
        raise UnusableRowError(str(row["problem"]))
    out = {key: value for key, value in row.items() if value is not None}
    audio = out.get("audio")
    if not isinstance(audio, str) or not audio.strip():
        raise UnusableRowError("no audio path" if audio in (None, "") else f"audio {_shown(audio)} is no path")
    if "\0" in audio or len(audio) > 4096:
        raise UnusableRowError("audio is no path")
    for name in ("text", "language", "licence", "split"):
        if name in out and not isinstance(out[name], str):
            raise UnusableRowError(f"{name} {_shown(out[name])} is no text")
        if name in out and _CONTROL.search(out[name]):
            raise UnusableRowError(f"{name} {_shown(out[name])} holds a control character")
    for name in ("utterance_id", "gender", "consent", "book", "chapter", "recording_id"):
        if name in out:
            out[name] = _name(out[name], name)
    for name in _NUMBERS:
        if name in out:
            out[name] = _number(out[name], name)
    if "duration_s" in out and out["duration_s"] <= 0:
        raise UnusableRowError(f"duration {out['duration_s']:g} is no length of time")
    if "words" in out:
        out["words"] = _words(out["words"])
    if not isinstance(out.get("user", {}), dict):
        raise UnusableRowError(f"custom {_shown(out['user'])} is no object")
    return out


def speaker_of(row: Mapping[str, Any], manifest: Manifest) -> str:
    """Return a row's speaker: as the corpus names it, else by the user's rule over the audio's path.

    Raises:
        UnusableRowError: there is none, or it is no name.
    """
    speaker, rule = row.get("speaker"), manifest.reading.speaker_from
    if speaker is None and rule:
        path = Path(str(row["audio"]))
        path = path if path.is_absolute() else manifest.root / path
        found = re.search(SPEAKER_RULES.get(rule, rule), path.as_posix())
        if found is None:
            raise UnusableRowError(f"no speaker: --corpus.speaker-from {rule} is not in {row['audio']}")
        speaker = next((group for group in found.groups() if group), found[0])
    if isinstance(speaker, int) and not isinstance(speaker, bool):
        return str(speaker)
    if isinstance(speaker, str) and speaker.strip() and speaker.strip() not in NOBODY:
        if _CONTROL.search(speaker):
            raise UnusableRowError(f"speaker {_shown(speaker)} holds a control character")
        return speaker
    if speaker is None or speaker == "":
        raise UnusableRowError("no speaker")
    raise UnusableRowError(f"speaker {_shown(speaker)} is no name")


def _name(value: Any, field: str) -> str:
    """Return a name or number as text; names are never blank."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UnusableRowError(f"{field} {_shown(value)} is no name")
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise UnusableRowError(f"{field} {_shown(value)} is no name")
    return str(value)


def _number(value: Any, field: str) -> int | float:
    """Return a finite number: whole and not negative for all fields but times."""
    is_time = field.endswith("_s")
    name = field.removesuffix("_s").replace("rate_hz", "sampling rate")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnusableRowError(f"{name} is {'text' if isinstance(value, str) else 'no number'}: {_shown(value)}")
    if is_time:
        if not abs(value) < 1e9:  # also NaN
            raise UnusableRowError(
                f"{name} {_shown(value)} is no {'length of' if name == 'duration' else 'point in'} time"
            )
        return float(value)
    if not 0 <= value <= _MOST.get(field, 2**62) or value != int(value):
        raise UnusableRowError(
            f"{name} {_shown(value)} is no {'rate' if field == 'rate_hz' else 'whole number from 0'}"
        )
    return int(value)


def _words(value: Any) -> list[tuple[str, float, float]]:
    try:
        words = [(word, _number(start, "start_s"), _number(length, "duration_s")) for word, start, length in value]
    except (TypeError, ValueError) as error:
        raise UnusableRowError(f"the times of words are no list of word, start and duration: {error}") from error
    if not all(isinstance(word, str) for word, _, _ in words):
        raise UnusableRowError("the times of words name a word that is no text")
    return words


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) < 60 else f"{text[:57]}..."
