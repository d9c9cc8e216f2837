"""Kaldi's and ESPnet's data folders: wav.scp, text, utt2spk, segments. Blanks or tabs part their fields."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from operators.corpus.forms.form import Form, Row, Tree, split_of
from operators.corpus.manifest import Manifest
from operators.formats.text import lines_of

_FILES = ("wav.scp", "text", "utt2spk", "segments", "spk2gender", "utt2lang", "utt2dur")


def _files(tree: Tree) -> list[Path]:
    """Return the files of a data folder, or of those below it; splits are not read twice."""
    if tree.path.is_file():
        return []
    if (tree.path / "wav.scp").is_file():
        folders = [tree.path]
    else:
        folders = sorted(p.parent for p in tree.named("wav.scp") if not p.parent.parent.name.startswith("split"))
    return [folder / name for folder in folders for name in _FILES if (folder / name).is_file()]


def _map(path: Path) -> dict[str, tuple[str, str]]:
    """Return the rest of each line and where it stands, by the line's first field."""
    found: dict[str, tuple[str, str]] = {}
    if path.is_file():
        for number, line in lines_of(path, comments=("\0",)):
            key, *rest = line.split(maxsplit=1)
            found[key] = (rest[0].strip() if rest else "", f"{path.name}:{number}")
    return found


def _read(manifest: Manifest, files: Sequence[Path]) -> Iterator[Row]:
    for folder in dict.fromkeys(path.parent for path in files):
        yield from _folder(folder, manifest)


def _folder(folder: Path, manifest: Manifest) -> Iterator[Row]:
    tables = {name: _map(folder / name) for name in _FILES}
    segments = tables["segments"] or {name: (name, where) for name, (_, where) in tables["wav.scp"].items()}
    prefix = "" if folder == manifest.path else f"{folder.relative_to(manifest.root)}/"
    for name, (segment, where) in segments.items():
        recording, *times = segment.split()
        speaker = tables["utt2spk"].get(name, (None, ""))[0]
        row: Row = {
            "where": prefix + where,
            "utterance_id": name,
            "recording_id": recording,
            "speaker": speaker,
            "text": tables["text"].get(name, (None, ""))[0],
            "gender": tables["spk2gender"].get(speaker or "", (None, ""))[0],
            "language": tables["utt2lang"].get(name, (None, ""))[0],
            "split": split_of(folder / "wav.scp", manifest.root),
        }
        audio = tables["wav.scp"].get(recording, (None, ""))[0]
        problem = _problem(audio, recording)
        if not problem and tables["segments"]:
            try:
                start_s, end_s = float(times[0]), float(times[1])
            except (ValueError, IndexError):
                problem = f"segments has no start and end in {segment!r}"
            else:
                # An end of -1 is that of the recording.
                row |= {"start_s": start_s, "duration_s": None if end_s == -1 else end_s - start_s}
        beside = folder / (audio or "")
        yield {**row, "problem": problem} if problem else {**row, "audio": str(beside) if beside.is_file() else audio}


def _problem(audio: str | None, recording: str) -> str:
    """Return why a line of wav.scp cannot be used; empty where it is a path."""
    if audio is None:
        return f"wav.scp has no recording {recording}"
    if audio.endswith("|") or audio.startswith("|"):
        return "wav.scp has a command, which is not run; write its sound to files (ESPnet: format_wav_scp.sh)"
    if ".ark:" in audio:
        return "wav.scp points into an archive (.ark); write its sound to files (Kaldi: wav-copy scp:wav.scp ...)"
    return ""


KALDI = Form("a Kaldi or ESPnet data folder (wav.scp, text, utt2spk)", _files, _read)
