"""Imports: a manifest of plain JSON lines, with sound files where the corpus's own cannot be read in place."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from operators.corpus.formats import found_rows
from operators.corpus.forms import manifest_rows, recognize
from operators.corpus.forms.fields import checked
from operators.corpus.forms.form import Row, Tree
from operators.corpus.forms.lhotse import is_cut
from operators.corpus.forms.tables import sound_column, unpacked
from operators.corpus.manifest import Manifest
from operators.corpus.sources import EDGE_S, locate
from operators.errors import InputError

_WRITTEN = {
    "utterance_id": "id",
    "start_s": "offset",
    "duration_s": "duration",
    "rate_hz": "sample_rate",
}
_LEFT_OUT = ("where", "user", "words", "recording_id", "mixed")


def import_corpus(manifest: Manifest, folder: Path) -> tuple[int, Counter[str]]:
    """Write a corpus as `manifest.jsonl` in a folder; return the number of rows, and why others could not be used.

    Sound in Parquet is unpacked. Of recorded conversations (`Manifest.is_recorded`), lhotse's MixedCuts are mixed, and
    channels in several files are written into one.

    Raises:
        InputError: the corpus is of no known form, or the folder has a manifest.
    """
    target = folder / "manifest.jsonl"
    if target.exists():
        raise InputError(f"{target} exists; name a folder without a manifest")
    folder.mkdir(parents=True, exist_ok=True)
    problems: Counter[str] = Counter()
    packed = {path: column for path in Tree(manifest.path).ending(".parquet") if (column := sound_column(path))}
    if packed:
        rows = _from_parquet(packed, folder, problems)
    elif manifest.is_recorded:
        rows = _from_recorded(manifest, folder, problems)
    else:
        rows = _from_rows(manifest, problems)
    number, staged = 0, target.with_name(".manifest.jsonl")
    with open(staged, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
            number += 1
    if number:
        staged.replace(target)
    else:
        staged.unlink()
    return number, problems


def _plain(row: Row, audio: str) -> dict[str, Any]:
    """Return a row as a line of plain JSON; words are left to forced alignment (`hubbub data align`)."""
    named = {_WRITTEN.get(key, key): value for key, value in row.items() if key not in _LEFT_OUT}
    return {**row.get("user", {}), **named, "audio": audio}


def _from_rows(manifest: Manifest, problems: Counter[str]) -> Iterator[dict[str, Any]]:
    for row in manifest_rows(manifest):
        try:
            good = checked(row)
            yield _plain(good, str(locate(good["audio"], manifest.root)))
        except ValueError as error:
            problems[str(error)] += 1


def _named(folder: Path, name: str, suffix: str) -> Path:
    """Return a new file below `audio/` for a name, which may hold anything."""
    safe = re.sub(r"[^\w.+-]", "_", name).lstrip(".")[:120] or "sound"
    path, number = folder / "audio" / f"{safe}{suffix}", 2
    while path.exists():
        path, number = path.with_name(f"{safe}_{number}{suffix}"), number + 1
    path.parent.mkdir(exist_ok=True)
    return path


def _from_parquet(packed: Mapping[Path, str], folder: Path, problems: Counter[str]) -> Iterator[dict[str, Any]]:
    for path, column in packed.items():
        for where, row, data, suffix in unpacked(path, column):
            if not data:
                problems["a row without sound"] += 1
                continue
            written = _named(folder, str(row.get("id") or where.replace(":row ", "-")), suffix)
            written.write_bytes(data)
            plain = {key: value for key, value in row.items() if isinstance(value, str | int | float | bool)}
            yield {**plain, "audio": str(written.relative_to(folder))}


def _from_recorded(manifest: Manifest, folder: Path, problems: Counter[str]) -> Iterator[dict[str, Any]]:
    groups: dict[str, list[Row]] = {}
    for row in manifest_rows(manifest):
        name = row.get("mixed") or row.get("recording_id") or row.get("audio") or row.get("where")
        groups.setdefault(str(name), []).append(row)
    mixed = {name for name, rows in groups.items() if rows[0].get("mixed")}
    for name, rows in groups.items():
        if name in mixed:
            continue
        try:
            yield from _joined(name, [checked(row) for row in rows], manifest, folder)
        except (ValueError, OSError, soundfile.SoundFileError) as error:
            problems[f"{name}: {error}"] += 1
    for path in recognize(manifest)[1] if mixed else ():
        for found in found_rows(path):
            if not found.problem and is_cut(found.row) and str(found.row.get("id")) in mixed:
                try:
                    yield from _mixed(found.row, manifest, folder)
                except Exception as error:  # noqa: BLE001 (lhotse raises AssertionError, KeyError and others)
                    problems[f"{found.row.get('id')}: {error}"] += 1


def _joined(name: str, rows: Sequence[Row], manifest: Manifest, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a recording; where its channels are in several files, after writing them into one."""
    places = sorted({(row["audio"], row.get("channel", 0)) for row in rows})
    if len({audio for audio, _ in places}) == 1:
        for row in rows:
            yield _plain(row, str(locate(row["audio"], manifest.root)))
        return
    sounds, rates = [], set()
    for audio, channel in places:
        samples, rate_hz = soundfile.read(locate(audio, manifest.root), dtype="int16", always_2d=True)
        sounds.append(samples[:, channel])
        rates.add(rate_hz)
    longest, shortest = max(map(len, sounds)), min(map(len, sounds))
    if len(rates) > 1 or longest - shortest > EDGE_S * rate_hz:
        raise ValueError(f"its files have rates of {sorted(rates)} Hz and {shortest} to {longest} samples")
    written = _named(folder, name, ".wav")
    stacked = np.stack([np.pad(sound, (0, longest - len(sound))) for sound in sounds], axis=1)
    soundfile.write(written, stacked, rate_hz, subtype="PCM_16")
    for row in rows:
        channel = places.index((row["audio"], row.get("channel", 0)))
        yield _plain({**row, "channel": channel}, str(written.relative_to(folder)))


def _mixed(cut: Mapping[str, Any], manifest: Manifest, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a MixedCut after writing its mixture, as lhotse makes it."""
    from lhotse.serialization import deserialize_item

    made = deserialize_item(_located(cut, manifest))
    samples = np.asarray(made.load_audio()).mean(axis=0)
    written = _named(folder, str(cut["id"]), ".wav")
    soundfile.write(written, samples, made.sampling_rate, subtype="FLOAT")
    for one in made.supervisions:
        row = {
            "utterance_id": one.id,
            "speaker": one.speaker,
            "text": one.text,
            "language": one.language,
            "gender": one.gender,
            "start_s": max(0.0, one.start),
            "duration_s": one.duration + min(0.0, one.start),
        }
        yield _plain({k: v for k, v in row.items() if v is not None}, str(written.relative_to(folder)))


def _located(value: Any, manifest: Manifest) -> Any:
    """Return a cut whose sources are paths that exist."""
    if isinstance(value, dict):
        out = {key: _located(one, manifest) for key, one in value.items()}
        if out.get("type") == "file" and isinstance(out.get("source"), str):
            out["source"] = str(locate(out["source"], manifest.root))
        elif "sources" in out or out.get("type") in ("command", "url"):
            refused = [one for one in out.get("sources", [out]) if one.get("type") != "file"]
            if refused:
                raise ValueError(f"source is {refused[0].get('type')}")
        return out
    return [_located(one, manifest) for one in value] if isinstance(value, list) else value
