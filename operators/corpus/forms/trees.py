"""Trees of sound files with their texts beside: LibriSpeech, LibriTTS, VCTK, and folders of NAME.wav and NAME.txt."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from operators.corpus.forms.form import SOUNDS, Form, Row, Tree, split_of
from operators.corpus.manifest import Manifest
from operators.corpus.splits import split_named
from operators.formats.text import lines_of, text_of

_SPEAKER_LINE = re.compile(r"^\s*(\d+)\s*\|\s*([MF])\s*\|")


def _lines(path: Path, root: Path) -> Iterator[tuple[str, str]]:
    for number, line in lines_of(path, comments=("\0",)):
        yield f"{path.relative_to(root)}:{number}", line


def _genders(root: Path) -> dict[str, str]:
    """Return the genders of LibriSpeech's and LibriTTS's SPEAKERS.TXT, beside the parts or above one."""
    for name in ("SPEAKERS.TXT", "speakers.tsv"):
        for folder in (root, root.parent):
            if (folder / name).is_file():
                lines = (line.replace("\t", "|") for _, line in lines_of(folder / name, comments=(";",)))
                return {m[1]: m[2].lower() for line in lines if (m := _SPEAKER_LINE.match(line))}
    return {}


def _librispeech_files(tree: Tree) -> list[Path]:
    return [path for path in tree.ending(".trans.txt") if re.fullmatch(r"\d+-\d+\.trans\.txt", path.name)]


def _read_librispeech(manifest: Manifest, files: Sequence[Path]) -> Iterator[Row]:
    genders = _genders(manifest.root)
    for path in files:
        speaker, chapter = path.name.removesuffix(".trans.txt").split("-")
        for where, line in _lines(path, manifest.root):
            name, _, text = line.strip().partition(" ")
            yield {
                "where": where,
                "utterance_id": name,
                "audio": _beside(path.parent / name),
                "speaker": speaker,
                "chapter": chapter,
                "position": int(name.rsplit("-", 1)[-1]) * 1000 if name.rsplit("-", 1)[-1].isdecimal() else None,
                "gender": genders.get(speaker),
                "text": text.strip(),
                "split": split_of(path, manifest.root),
            }


def _beside(stem: Path) -> str:
    """Return the sound file of this name, or the name with FLAC's suffix where there is none."""
    found = (stem.with_name(stem.name + suffix) for suffix in (".flac", ".wav", *SOUNDS))
    return str(next((path for path in found if path.exists()), stem.with_name(f"{stem.name}.flac")))


def _libritts_files(tree: Tree) -> list[Path]:
    return tree.ending(".normalized.txt")


def _read_libritts(manifest: Manifest, files: Sequence[Path]) -> Iterator[Row]:
    genders = _genders(manifest.root)
    for path in files:
        name = path.name.removesuffix(".normalized.txt")
        yield {
            "where": f"{path.relative_to(manifest.root)}:1",
            "utterance_id": name,
            "audio": _beside(path.with_name(name)),
            "speaker": name.split("_")[0],  # chapter and position are in the id
            "gender": genders.get(name.split("_")[0]),
            "text": text_of(path).strip(),
            "split": split_of(path, manifest.root),
        }


def _vctk_files(tree: Tree) -> list[Path]:
    folders = [name for name in tree.names if re.search(r"(^|/)wav48[^/]*/", name)]
    texts = [tree.root / name for name in tree.names if re.search(r"(^|/)txt/[^/]+/[^/]+\.txt$", name)]
    return sorted(texts) + tree.named("speaker-info.txt") if folders and texts else []


def _read_vctk(manifest: Manifest, files: Sequence[Path]) -> Iterator[Row]:
    info: dict[str, str] = {}
    for path in (path for path in files if path.name == "speaker-info.txt"):
        for _, line in lines_of(path):
            fields = line.split()
            if len(fields) > 2 and fields[2] in ("M", "F"):
                info[fields[0].removeprefix("p").removeprefix("s")] = fields[2].lower()
    for path in (path for path in files if path.name != "speaker-info.txt"):
        speaker, name, top = path.parent.name, path.stem, path.parents[2]
        # Version 0.92 has two microphones; the first is the one that its authors recommend.
        tries = [
            top / folder / speaker / f"{name}{end}"
            for folder in ("wav48_silence_trimmed", "wav48")
            for end in ("_mic1.flac", ".wav", ".flac", "_mic2.flac")
        ]
        audio = next((one for one in tries if one.exists()), tries[0])
        yield {
            "where": f"{path.relative_to(manifest.root)}:1",
            "utterance_id": name,
            "audio": str(audio),
            "speaker": speaker,
            "gender": info.get(speaker.removeprefix("p").removeprefix("s")),
            "text": text_of(path).strip(),
            "split": split_of(path, manifest.root),
        }


def _text_files(tree: Tree) -> list[Path]:
    if tree.path.is_file():
        return []
    texts = [name for name in tree.names if name.lower().endswith((".txt", ".lab", ".normalized.txt"))]
    pairs = [name for name in texts if name.rsplit(".", 1)[0] in tree.sounds]
    return [tree.root / name for name in sorted({*pairs, *tree.sounds.values()})] if pairs else []


def _read_texts(manifest: Manifest, files: Sequence[Path]) -> Iterator[Row]:
    """Yield the rows of NAME.wav with NAME.txt; the speaker is the folder, where there is one below the root."""
    texts = {path.with_suffix(""): path for path in files if path.suffix.lower() not in SOUNDS}
    for path in (path for path in files if path.suffix.lower() in SOUNDS):
        below = path.relative_to(manifest.root)
        folders = [
            part for part in below.parts[:-1] if split_named(part) is None and part.lower() not in ("wav", "wavs")
        ]
        row: Row = {
            "where": str(below),
            "utterance_id": below.with_suffix("").as_posix(),
            "audio": str(path),
            "split": split_of(path, manifest.root),
            "speaker": folders[-1] if folders and not manifest.reading.speaker_from else None,
        }
        text = texts.get(path.with_suffix(""))
        if text is None:
            yield {**row, "problem": f"there is no {path.with_suffix('.txt').name} beside it"}
        else:
            yield {**row, "text": " ".join(text_of(text).split())}


LIBRISPEECH = Form("a LibriSpeech tree (*.trans.txt)", _librispeech_files, _read_librispeech)
LIBRITTS = Form("a LibriTTS tree (*.normalized.txt)", _libritts_files, _read_libritts)
VCTK = Form("VCTK (wav48*/ and txt/)", _vctk_files, _read_vctk)
TEXTS = Form("a folder of sound files with NAME.txt beside NAME.wav", _text_files, _read_texts)
