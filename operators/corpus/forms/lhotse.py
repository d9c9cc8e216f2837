"""Lhotse's manifests: recordings and supervisions, cuts of every type, and Shar.

Read row by row, so that one that lhotse's own readers stop at is quarantined and the rest goes on. Source of the
fields: github.com/lhotse-speech/lhotse, lhotse/audio/recording.py, lhotse/supervision.py, lhotse/cut/.
"""

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from operators.corpus.formats import found_rows
from operators.corpus.forms.form import Row
from operators.corpus.manifest import Manifest
from operators.errors import InputError

_CUSTOM = ("book", "chapter", "position", "licence", "consent", "split")
_CUTS = ("MonoCut", "MultiCut", "MixedCut", "PaddingCut", "Cut")


def is_cut(row: Mapping[str, Any]) -> bool:
    """Return whether a row of a list is one of lhotse's cuts."""
    return row.get("type") in _CUTS or "supervisions" in row or ("start" in row and "recording" in row)


def pair_rows(manifest: Manifest, files: Sequence[Path]) -> Iterator[Row]:
    """Yield the rows of recordings and supervisions; a supervision whose recording is missing has a problem.

    Raises:
        InputError: a file cannot be read, or there is only one of the two.
    """
    listed = [path for path in files if "supervisions" not in path.name]
    supervisions = [path for path in files if "supervisions" in path.name]
    if not listed or not supervisions:
        raise InputError(f"{manifest.path}: lhotse's recordings and supervisions must be a pair in one folder")
    recordings: dict[str, dict[str, Any]] = {}
    for path in listed:
        for found in found_rows(path):
            if found.problem or not isinstance(found.row.get("id"), str):
                yield {"where": found.where, "problem": found.problem or "a recording without id"}
            else:
                recordings[found.row["id"]] = found.row
    for path in supervisions:
        for found in found_rows(path):
            if found.problem:
                yield {"where": found.where, "problem": found.problem}
                continue
            of = found.row.get("recording_id")
            recording = recordings.get(of) if isinstance(of, str) else None
            if recording is None:
                reason = f"there is no recording {of}" if of is not None else "it names no recording"
                yield {"where": found.where, "problem": reason, "utterance_id": found.row.get("id")}
            else:
                yield _from_supervision(found.row, recording, found.where)


def cut_rows(cut: Mapping[str, Any], where: str, members: Mapping[str, tuple[int, int, str]]) -> Iterator[Row]:
    """Yield the rows of a cut: one a supervision, or one with a problem. `members` are those of its Shar tar.

    The speech of a MixedCut is read track by track, each supervision from its own recording; `mixed` names the cut.
    """
    tracks = cut.get("tracks")
    if tracks is not None or cut.get("type") == "MixedCut":
        found = False
        for track in tracks if isinstance(tracks, list) else ():
            inner = track.get("cut") if isinstance(track, dict) else None
            if isinstance(inner, dict) and inner.get("supervisions"):
                found = True
                for row in cut_rows(inner, where, {}):
                    yield {**row, "mixed": str(cut.get("id"))}
        if not found:
            yield {"where": where, "problem": "a MixedCut without supervisions", "utterance_id": cut.get("id")}
        return
    supervisions, recording = cut.get("supervisions"), cut.get("recording")
    problem = ""
    if not isinstance(supervisions, list) or not all(isinstance(one, dict) for one in supervisions):
        problem = f"a {cut.get('type', 'cut')} without a list of supervisions"
    elif not supervisions:
        problem = f"a {cut.get('type', 'cut')} without supervisions: nobody speaks in it"
    elif not isinstance(recording, dict):
        problem = "a cut without recording" + (": it has features only" if cut.get("features") else "")
    if problem:
        yield {"where": where, "problem": problem, "utterance_id": cut.get("id")}
        return
    for supervision in supervisions or ():
        if isinstance(cut.get("id"), str) and cut["id"] in members:
            # A Shar tar's member holds only the cut's sound, so times count from the cut's start.
            offset, length, shard = members[cut["id"]]
            source = {"type": "file", "source": shard, "channels": _listed(cut.get("channel", 0))}
            row = _from_supervision(supervision, {**(recording or {}), "sources": [source]}, where)
            yield {**row, "byte_offset": offset, "byte_length": length}
        else:
            yield _from_supervision(supervision, recording or {}, where, offset_s=cut.get("start", 0.0))


def shar_members(cuts: Path) -> dict[str, tuple[int, int, str]]:
    """Return first byte, number of bytes and tar of each recording in a Shar file's tar; empty where there is none.

    Raises:
        InputError: the tar is damaged.
    """
    tar_path = cuts.parent / re.sub(r"^cuts\.(\d+)\.jsonl(\.gz)?$", r"recording.\1.tar", cuts.name)
    if tar_path.suffix != ".tar" or not tar_path.exists():
        return {}
    members = {}
    try:
        with tarfile.open(tar_path, "r:") as tar:
            for member in tar:
                stem, _, suffix = member.name.rpartition(".")
                if suffix != "json":
                    members[stem] = (member.offset_data, member.size, str(tar_path))
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{tar_path} cannot be read: {error}") from error
    return members


def _from_supervision(
    supervision: Mapping[str, Any], recording: Mapping[str, Any], where: str, offset_s: Any = 0.0
) -> Row:
    """Return the row of a supervision whose times count from `offset_s` seconds of the recording."""
    row: Row = {"where": where, "utterance_id": supervision.get("id"), "recording_id": supervision.get("recording_id")}
    if row["utterance_id"] is None:
        return {**row, "problem": "a supervision without id"}
    source, channel, problem = _source(recording, supervision.get("channel", 0))
    custom, alignment = supervision.get("custom") or {}, supervision.get("alignment") or {}
    start_s = supervision.get("start", 0.0)
    numbers = [offset_s, start_s]
    if not isinstance(custom, dict) or not isinstance(alignment, dict):
        problem = f"{'custom' if not isinstance(custom, dict) else 'alignment'} is no object"
    elif any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers):
        wrong = next(one for one in numbers if isinstance(one, bool) or not isinstance(one, int | float))
        problem = f"start is {'text' if isinstance(wrong, str) else 'no number'}: {wrong!r}"
    elif offset_s and any(not isinstance(item, list) or len(item) < 3 for item in alignment.get("word") or ()):
        problem = "the times of words are no list of word, start and duration"
    if problem:
        return {**row, "problem": problem}
    known = {name: custom[name] for name in _CUSTOM if name in custom}
    try:
        words = [(item[0], offset_s + item[1], item[2]) for item in alignment.get("word") or ()]
    except (TypeError, IndexError, KeyError):
        return {**row, "problem": "the times of words are no list of word, start and duration"}
    return {
        **row,
        "audio": source,
        "text": supervision.get("text"),
        "speaker": supervision.get("speaker"),
        "language": supervision.get("language"),
        "channel": channel,
        "start_s": offset_s + start_s,
        "duration_s": supervision.get("duration"),
        "rate_hz": recording.get("sampling_rate"),
        "words": words,
        "gender": supervision.get("gender"),
        "user": {k: v for k, v in custom.items() if k not in known},
        **known,
    }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _source(recording: Mapping[str, Any], channel: Any) -> tuple[Any, Any, str]:
    """Return the file of a recording's channel and the channel's place in it, or the reason why there is none.

    A source holds the channels that it lists, in that order: channel 2 may be the only one of its file.
    """
    wanted = _listed(channel)[0] if _listed(channel) else 0
    sources = recording.get("sources")
    if not isinstance(sources, list) or not sources or not all(isinstance(one, dict) for one in sources):
        return None, None, "its recording names no sound file"
    if recording.get("transforms"):
        return None, None, "its recording is transformed (speed, volume, ...), which only lhotse does: save its audio"
    with_channels = [one for one in sources if isinstance(one.get("channels"), list) and one["channels"]]
    chosen = next((one for one in with_channels if wanted in one["channels"]), None)
    if chosen is None and len(sources) == 1 and not with_channels:
        chosen = sources[0]
    if chosen is None:
        held = sorted({str(c) for one in with_channels for c in one["channels"]})
        return None, None, f"there is no channel {wanted} in its recording, which has {', '.join(held) or 'none'}"
    if chosen.get("type") not in ("file", "url"):
        return None, None, f"source is {chosen.get('type')}"
    place = chosen["channels"].index(wanted) if chosen in with_channels else wanted
    return chosen.get("source"), place, ""
