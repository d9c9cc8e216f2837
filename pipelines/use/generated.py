"""score --audio: generated recordings, and what was wanted -> figures."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from operators.corpus.formats import json_lines
from operators.digest import digest, digest_file, merkle_root
from operators.errors import InputError
from operators.evaluate.generated.score import Judges, heard, score_generated
from operators.evaluate.generated.speakers import find_speaker_encoder
from operators.evaluate.recognizers import load_recognizer
from operators.evaluate.recognizers.recognizer import RATE_HZ
from operators.formats import read_entries
from operators.formats.json_entries import write_seglst
from operators.scoring.result import GeneratedConditions, GeneratedScores
from pipelines.reporting import console
from pipelines.use.score import columns_of
from pipelines.use.transcribe import read_mono

_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff")


@dataclass(frozen=True)
class Generated:
    """A generated recording."""

    session_id: str
    path: Path
    length_s: float


def score_audio(
    reference: Path, generated: Path, options: Mapping[str, Any], num_worst: int = 20, listened: Path | None = None
) -> GeneratedScores:
    """Return the scores of generated recordings.

    Args:
        reference: file or folder of what was wanted: session, text, and optionally speaker, times or audio_s, and voice
            (a recording of the wanted speaker, from the reference's folder).
        generated: folder of recordings named by session, or JSON lines with `audio`, and session_id where the file has
            another name.
        options: of `hubbub score`: normalizer, measures, units, seed, by, columns, format; recognizer, language,
            speaker_encoder, turns.
        num_worst: how many of the worst sessions are aligned.
        listened: where what was heard is written, as SegLST.

    Raises:
        InputError: a file is missing or malformed, or a judge does not load.
    """
    import torch

    wanted = read_entries([reference], "reference", options["format"])
    turns = read_entries([options["turns"]], "hypothesis") if options["turns"] else []
    recordings = find_recordings(generated)
    voices = _voices(wanted, reference if reference.is_dir() else reference.parent)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    judges, reasons = _judges(options, device, has_voices=bool(voices))
    columns = columns_of(options["columns"])
    entries, cache = [], {}
    with console.bar("listen", len(recordings)) as bar:
        for number, one in enumerate(recordings, 1):
            wav = read_mono(one.path, RATE_HZ) if one.length_s else np.zeros(0, np.float32)
            voice = voices.get(one.session_id) if judges.encoder is not None else None
            if voice is not None and voice not in cache:
                cache[voice] = read_mono(voice, RATE_HZ)
            sample = None if voice is None else cache[voice]
            entries.append(heard(one.session_id, wav, RATE_HZ, one.length_s, judges, sample))
            bar.to(number)
    conditions = GeneratedConditions(
        **{name: options[name] for name in ("normalizer", "measures", "units", "seed")},
        recordings=merkle_root((one.session_id, digest_file(one.path)) for one in recordings),
        recognizer=judges.recognizer.name if judges.recognizer else None,
        recognizer_digest=judges.recognizer.digest if judges.recognizer else None,
        language=judges.language,
        speaker_encoder=judges.encoder.name if judges.encoder else None,
        speaker_encoder_digest=judges.encoder.digest if judges.encoder else None,
        voices=_digest_of(voices) if judges.encoder else None,
        timing=digest(turns) if turns else None,
    )
    if listened is not None:
        listened.parent.mkdir(parents=True, exist_ok=True)
        listened.write_text(write_seglst(entries), encoding="utf-8")
    return score_generated(
        wanted,
        entries,
        conditions,
        turns=turns,
        reasons=reasons,
        columns=columns,
        by=options["by"],
        num_worst=num_worst,
    )


def find_recordings(generated: Path) -> list[Generated]:
    """Return the recordings of a folder, by name, or of a manifest in JSON lines.

    Raises:
        InputError: there are none, one cannot be read, or two are of the same session.
    """
    if generated.is_dir():
        paths = sorted(path for path in generated.rglob("*") if path.suffix.lower() in _SUFFIXES)
        named = [(path.stem, path) for path in paths]
    else:
        named = [_row(generated, number, row) for number, row in enumerate(json_lines(generated), 1)]
    if not named:
        raise InputError(f"{generated} holds no recordings ({', '.join(_SUFFIXES)})")
    found: dict[str, Generated] = {}
    for name, path in named:
        if name in found:
            raise InputError(f"{found[name].path} and {path} are both of session {name}; give one recording a session")
        found[name] = Generated(name, path, _length_s(path))
    return list(found.values())


def _row(manifest: Path, number: int, row: Mapping[str, Any]) -> tuple[str, Path]:
    audio = row.get("audio", row.get("audio_filepath"))
    if not isinstance(audio, str) or not audio:
        raise InputError(f"{manifest} row {number} has no audio, the path of a recording")
    return str(row.get("session_id") or Path(audio).stem), manifest.parent / audio


def _length_s(path: Path) -> float:
    try:
        found = soundfile.info(path)
    except (soundfile.SoundFileError, OSError) as error:
        raise InputError(f"{path} cannot be read as audio: {error}") from error
    return float(found.frames / found.samplerate)


def _voices(wanted: Iterable[Mapping[str, Any]], folder: Path) -> dict[str, Path]:
    """Return the recording of the wanted voice of each session that has exactly one.

    Raises:
        InputError: it cannot be read.
    """
    found: dict[str, set[Path]] = {}
    for entry in wanted:
        if entry.get("voice") is not None:
            found.setdefault(entry["session_id"], set()).add(folder / str(entry["voice"]))
    for path in sorted({path for paths in found.values() for path in paths}):
        if not _length_s(path):
            raise InputError(f"{path} is the recording of a wanted voice, but holds no samples")
    several = sum(len(paths) > 1 for paths in found.values())
    if several:
        console.notice(f"{several} sessions have several voices; the similarity of their recordings is not taken")
    return {name: next(iter(paths)) for name, paths in found.items() if len(paths) == 1}


def _judges(options: Mapping[str, Any], device: str, *, has_voices: bool) -> tuple[Judges, dict[str, str]]:
    """Return what listens, and why measures are left out."""
    asked = options["measures"] or ("wer", "cer", "speaker_similarity")
    judges, reasons = Judges(), {}
    if not {"wer", "cer"} & set(asked):
        pass
    elif options["recognizer"] is None:
        reasons = dict.fromkeys(("wer", "cer"), "no recognizer: give --recognizer, pocketsphinx or a Whisper's folder")
    else:
        recognizer = load_recognizer(options["recognizer"], device)
        judges = replace(judges, recognizer=recognizer, language=options["language"])
    if "speaker_similarity" not in asked:
        return judges, reasons
    if not has_voices:
        return judges, {**reasons, "speaker_similarity": "no session of the reference names one recording as its voice"}
    encoder = find_speaker_encoder(options["speaker_encoder"], device)
    if isinstance(encoder, str):
        return judges, {**reasons, "speaker_similarity": encoder}
    return replace(judges, encoder=encoder), reasons


def _digest_of(voices: Mapping[str, Path]) -> str:
    digests = {path: digest_file(path) for path in set(voices.values())}
    return merkle_root((name, digests[path]) for name, path in voices.items())
