"""SegLST, CHiME-8 JSON, JSON lines and NeMo manifests: entries as JSON objects under several names."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from operators.errors import InputError
from operators.formats.format import Format
from operators.formats.text import Entry, lines_of, span, text_of

_NAMES = {
    "session_id": ("session_id", "session", "recording_id", "recording", "audio_filepath", "audio", "id"),
    "speaker": ("speaker", "speaker_id", "spk"),
    "words": ("words", "text", "transcript"),
    "start_time": ("start_time", "start", "offset"),
    "end_time": ("end_time", "end"),
}
_AUDIO = ("audio_filepath", "audio")


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where each object of a JSON list is, and the object."""
    text = text_of(path)
    decoder = json.JSONDecoder()
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno} is not JSON: {error.msg}") from error
    if not isinstance(found, list):
        raise InputError(f"{path}:1 is no list of objects with session_id, speaker and words")
    place = text.index("[") + 1
    for one in found:
        while text[place] in " \t\r\n,":
            place += 1
        where = f"{path}:{text.count(chr(10), 0, place) + 1}"
        _, place = decoder.raw_decode(text, place)
        if not isinstance(one, dict):
            raise InputError(f"{where} is no object with session_id, speaker and words")
        yield where, one


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in lines_of(path, comments=("//",)):
        where = f"{path}:{number}"
        try:
            one = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where} is not JSON: {error.msg}") from error
        if not isinstance(one, dict):
            raise InputError(f"{where} is no JSON object")
        yield where, one


def _times(one: Mapping[str, Any], where: str) -> dict[str, float]:
    """Return start_time and end_time of an object; empty where it has none."""
    start, end = (
        next((one[name] for name in _NAMES[key] if one.get(name) is not None), None)
        for key in ("start_time", "end_time")
    )
    if end is None and one.get("duration") is not None:
        start = 0.0 if start is None else start
        end = span(0.0, one["duration"], where)["end_time"] + span(start, start, where)["start_time"]
    if start is None and end is None:
        return {}
    if start is None or end is None:
        raise InputError(f"{where} has one of start_time and end_time; give both or none")
    return span(start, end, where)


def _entry(one: Mapping[str, Any], where: str, session: str | None, words: Sequence[str], speaker: str | None) -> Entry:
    """Return an entry under our names, with its further keys."""
    taken = {key: name for key, names in {**_NAMES, "words": words}.items() for name in reversed(names) if name in one}
    found: Entry = {}
    for key, fallback in (("session_id", session), ("speaker", speaker), ("words", None)):
        value = one.get(taken.get(key, ""), fallback)
        if isinstance(value, int) and not isinstance(value, bool) and key != "words":
            value = str(value)
        if value is None and key == "words" and "words" not in taken:
            continue
        if not isinstance(value, str):
            raise InputError(f"{where}: {taken.get(key, key)} is {value!r}; it must be text")
        found[key] = Path(value).stem if taken.get(key) in _AUDIO else value
    times = _times(one, where)
    if "words" not in found and not times:
        raise InputError(f"{where} has neither words nor times")
    used = {*taken.values(), *_NAMES["start_time"], *_NAMES["end_time"], "duration"}
    return {**found, **times, **{key: value for key, value in one.items() if key not in used}}


def read_seglst(path: Path, side: str) -> list[Entry]:  # noqa: ARG001
    """Return the entries of a SegLST file.

    Raises:
        InputError: it is no such file; names file and line.
    """
    return [_entry(one, where, None, _NAMES["words"], None) for where, one in _objects(path)]


def write_seglst(entries: Sequence[Entry]) -> str:
    """Return entries as a SegLST file."""
    return json.dumps(list(entries), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_chime8(path: Path, side: str) -> list[Entry]:  # noqa: ARG001
    """Return the entries of a CHiME-8 file, whose times may be texts; its name is the default session."""
    return [_entry(one, where, path.stem, _NAMES["words"], None) for where, one in _objects(path)]


def read_jsonl(path: Path, side: str) -> list[Entry]:  # noqa: ARG001
    """Return one entry a line: SegLST objects, or session, speaker and text under other usual names."""
    return [_entry(one, where, path.stem, _NAMES["words"], "unknown") for where, one in _json_lines(path)]


def read_nemo(path: Path, side: str) -> list[Entry]:
    """Return one entry a line of a NeMo manifest, or one a word where `words` lists them with their times.

    A hypothesis is read from `pred_text` where there is one. The session is the audio file's name.
    """
    names = ("pred_text", "text") if side == "hypothesis" else ("text",)
    entries = []
    for where, one in _json_lines(path):
        listed = one.get("words")
        rest = {key: value for key, value in one.items() if key not in ("words", "pred_text", "text")}
        if not isinstance(listed, list):
            chosen = next((one[name] for name in names if name in one), None)
            entries.append(_entry({**rest, "text": chosen}, where, path.stem, ("text",), "unknown"))
            continue
        untimed = {key: value for key, value in rest.items() if key not in ("offset", "duration", "start", "end")}
        for word in listed:
            if not isinstance(word, dict) or not isinstance(word.get("word"), str):
                raise InputError(f"{where}: words holds {word!r}; there are objects with word, start_time and end_time")
            times = {key: value for key, value in word.items() if key != "word"}
            entries.append(_entry({**untimed, **times, "text": word["word"]}, where, path.stem, ("text",), "unknown"))
    return entries


_ENTRY = {"session_id": "talk", "speaker": "ann", "start_time": 1.5, "end_time": 3.5, "words": "yes well"}
SEGLST = Format(
    read=read_seglst,
    write=write_seglst,
    about="segments of speakers with text, as JSON",
    suffixes=(".seglst.json", ".json"),
    example='[{"session_id": "talk", "speaker": "ann", "start_time": 1.5, "end_time": 3.5, "words": "yes well"}]',
    entries=(_ENTRY,),
    malformed=(
        '[\n{"session_id": "talk",\n "speaker": "ann", "start_time": NaN, "end_time": 1, "words": ""}]',
        ":2: nan",
    ),
)
CHIME8 = Format(
    read=read_chime8,
    about="CHiME-6 to CHiME-8 transcripts: SegLST with times as texts, seconds or h:mm:ss",
    suffixes=(),
    example='[{"speaker": "ann", "start_time": "0:00:01.5", "end_time": "3.5", "words": "yes well"}]',
    entries=(_ENTRY,),
    malformed=('[{"speaker": "ann", "start_time": "3", "end_time": "2", "words": "a"}]', ":1: ends at 2 s, before"),
)
JSONL = Format(
    read=read_jsonl,
    about="one JSON object a line: session_id, speaker, words or text, start and end or duration",
    suffixes=(".jsonl", ".ndjson"),
    example='{"session": "talk", "spk": "ann", "start": 1.5, "end": 3.5, "text": "yes well"}\n',
    entries=(_ENTRY,),
    malformed=('{"session": "talk", "text": "a"}\n{"session"\n', ":2 is not JSON"),
)
NEMO = Format(
    read=read_nemo,
    about="NeMo manifests: text or pred_text, offset and duration, or words with times",
    suffixes=(),
    example='{"audio_filepath": "a/talk.wav", "speaker": "ann", "offset": 1.5, "duration": 2.0, "text": "yes well"}\n',
    entries=(_ENTRY,),
    malformed=('{"audio_filepath": "talk.wav", "offset": 0, "duration": 1e400, "text": "a"}\n', ":1: inf is no time"),
)
