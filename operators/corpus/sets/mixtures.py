"""Lists of mixtures that others define, as given conversations: LibriSpeechMix and LibriMix.

Both are sums of LibriSpeech utterances, made by a script of their own from a list. Here the list is read, and the sum
made when it is needed; at the list's 16 kHz the samples are those that the script writes.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from operators.corpus.formats import json_lines
from operators.corpus.manifest import Manifest
from operators.corpus.sets.given import Background, GivenConversation, GivenTurn, find_audio
from operators.errors import InputError

RATE_HZ = 16_000


def split_named(name: str) -> str | None:
    """Return the split that a file's or folder's name says, as in `libri2mix_test-clean.csv`; None for none.

    >>> split_named("test-clean-2mix.jsonl")
    'test'
    """
    found = re.search(r"(?<![a-z])(train|dev|test)(?![a-z])", name.lower())
    return found[1] if found else None


def _files(manifest: Manifest, pattern: str, what: str) -> list[Path]:
    """Return the list that a user named, or those of a folder; of one split, where the user named it.

    Raises:
        InputError: there is none.
    """
    if manifest.path.is_file():
        return [manifest.path]
    found = [
        path
        for path in sorted(manifest.path.glob(pattern))
        if "_info" not in path.name and manifest.split in (None, split_named(path.name) or manifest.split)
    ]
    if not found:
        split = f" for {manifest.split}" if manifest.split else ""
        raise InputError(f"folder {manifest.path} contains no {what}{split} ({pattern})")
    return found


def librispeechmix_files(manifest: Manifest) -> list[Path]:
    """Return the lists of LibriSpeechMix in a folder, or the one named.

    Raises:
        InputError: there is none.
    """
    return _files(manifest, "*mix*.jsonl", "list of LibriSpeechMix")


def read_librispeechmix(manifest: Manifest) -> list[GivenConversation]:
    """Return the mixtures of LibriSpeechMix's lists.

    A source starts at its delay, cut to a whole sample; sources are summed as they are, in double precision
    (github.com/NaoyukiKanda/LibriSpeechMix, list/*.jsonl and utils/mix_wavs.py; Kanda et al. 2020, arXiv:2003.12687).

    Raises:
        InputError: a line is not one of such a list; names file, line and reason.
    """
    found = []
    for path in librispeechmix_files(manifest):
        for number, row in enumerate(json_lines(path), start=1):
            try:
                found.append(_librispeechmix(row, manifest.split or split_named(path.name)))
            except (KeyError, ValueError, TypeError) as error:
                reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
                raise InputError(f"{path} line {number} is not of LibriSpeechMix: {reason}") from error
    return found


def _librispeechmix(row: Mapping[str, Any], split: str | None) -> GivenConversation:
    genders = row.get("genders") or [None] * len(row["wavs"])
    turns = tuple(
        GivenTurn(
            utterance_id=Path(wav).stem,
            audio=wav,
            speaker=str(speaker),
            text=text,
            start_sample=int(float(delay_s) * RATE_HZ),
            gain=1.0,
            gender=gender,
        )
        for wav, delay_s, speaker, text, gender in zip(
            row["wavs"], row["delays"], row["speakers"], row["texts"], genders, strict=True
        )
    )
    return GivenConversation(
        recording_id=str(row["id"]).rsplit("/", 1)[-1],
        turns=turns,
        rate_hz=RATE_HZ,
        mixing="float64",
        split=split,
        columns={"set": "LibriSpeechMix", "talkers": len({turn.speaker for turn in turns})},
    )


def librimix_files(manifest: Manifest) -> list[Path]:
    """Return the metadata of LibriMix in a folder, or the file named.

    Raises:
        InputError: there is none.
    """
    return _files(manifest, "libri*mix*.csv", "metadata of LibriMix")


def read_librimix(
    manifest: Manifest, audio_roots: Sequence[Path] = (), *, noisy: bool = False
) -> list[GivenConversation]:
    """Return the mixtures of LibriMix's metadata, at 16 kHz and in mode `max`, with noise (mix_both) or without.

    Sources start together, each times its gain; sums are in single precision
    (github.com/JorisCos/LibriMix, metadata/ and scripts/create_librimix_from_metadata.py; Cosentino et al. 2020,
    arXiv:2005.11262). The metadata has no transcripts: they are read from LibriSpeech's own, beside each chapter.

    Raises:
        InputError: a row is not of such metadata, or a transcript is missing; names file and row.
    """
    found = []
    for path in librimix_files(manifest):
        for number, row in enumerate(_csv_rows(path), start=2):
            try:
                found.append(
                    _librimix(row, manifest.split or split_named(path.name), [manifest.root, *audio_roots], noisy=noisy)
                )
            except (KeyError, ValueError, TypeError) as error:
                reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
                raise InputError(f"{path} line {number} is not of LibriMix: {reason}") from error
    return found


def _csv_rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _librimix(row: Mapping[str, str], split: str | None, roots: Sequence[Path], *, noisy: bool) -> GivenConversation:
    number = sum(bool(re.fullmatch(r"source_\d+_path", name)) for name in row)
    if not number:
        raise ValueError("it has no source_1_path")
    turns = []
    for source in range(1, number + 1):
        audio = row[f"source_{source}_path"]
        utterance_id = Path(audio).stem
        turns.append(
            GivenTurn(
                utterance_id=utterance_id,
                audio=audio,
                speaker=utterance_id.split("-")[0],
                text=_transcript(audio, roots),
                start_sample=0,
                gain=float(row[f"source_{source}_gain"]),
            )
        )
    return GivenConversation(
        recording_id=row["mixture_ID"],
        turns=tuple(turns),
        rate_hz=RATE_HZ,
        mixing="float32",
        split=split,
        background=Background(audio=row["noise_path"], gain=float(row["noise_gain"])) if noisy else None,
        columns={"set": f"Libri{number}Mix", "talkers": number, "noise": "wham" if noisy else "none"},
    )


def _transcript(audio: str, roots: Sequence[Path]) -> str:
    _, path = find_audio(audio, roots)
    utterance_id = path.stem
    chapter = path.with_name(f"{utterance_id.rsplit('-', 1)[0]}.trans.txt")
    texts = _chapter_texts(chapter)
    if utterance_id not in texts:
        raise ValueError(f"{chapter} has no transcript of {utterance_id}")
    return texts[utterance_id]


@cache
def _chapter_texts(path: Path) -> dict[str, str]:
    """Return the transcripts of a chapter of LibriSpeech by utterance."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"transcripts {path} cannot be read: {error.strerror}") from error
    return {name: text for name, _, text in (line.partition(" ") for line in lines if line.strip())}
