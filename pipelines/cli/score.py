"""Verbs that score and compare any system's hypotheses: no model, no run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import quote

import tyro

from models.config.values import SEED, within
from operators.errors import InputError
from pipelines.cli.arguments import Arguments, read
from pipelines.reporting import console

if TYPE_CHECKING:
    from operators.scoring.result import Scores


@dataclass(frozen=True, kw_only=True)
class _Options(Arguments):
    """What both verbs take."""

    normalizer: str = "basic"
    """Text normalizer of both sides: none, basic, whisper-english or chime8."""
    collar_s: float = field(default=5.0, metadata=within(0, 86_400, "s"))
    """How far a word's time may be off in tcpWER and tcORC-WER, in seconds."""
    uem: Path | None = None
    """UEM file of the regions in which DER and JER are scored."""
    by: tuple[str, ...] = ()
    """Columns to slice by: num_speakers, overlap, turn_length_s, gap_s, or any key of the entries or of --columns."""
    columns: Path | None = None
    """JSON lines of more columns, one object a session with its session_id."""
    measures: tuple[str, ...] = ()
    """Measures to take; all by default."""
    units: Literal["auto", "speakers", "recordings"] = "auto"
    """What the bootstrap resamples; auto takes speakers where their names are the same in all recordings."""
    seed: int = field(default=0, metadata=SEED)
    """Seed of the bootstrap."""
    format: str | None = None
    """Format of all files, where suffixes do not say it: seglst, stm, rttm, ctm, textgrid, chime8, nemo or jsonl."""
    json: Path | None = None
    """Write everything as JSON."""
    markdown: Path | None = None
    """Write the tables as Markdown."""


@dataclass(frozen=True, kw_only=True)
class ScoreArguments(_Options):
    """Score a hypothesis against a reference: WER, cpWER, tcpWER, DER and others, with intervals.

    With --audio, generated recordings: WER and CER of what a recognizer hears, speaker similarity, duration, timing.
    """

    reference: Annotated[Path, tyro.conf.Positional]
    """A file, or a folder of files: SegLST, STM, RTTM, CTM, TextGrid, CHiME-8 JSON, NeMo manifest or JSON lines."""
    hypothesis: Annotated[Path, tyro.conf.Positional]
    """The same of the system; with --audio, a folder of recordings named by session, or JSON lines with audio."""
    audio: bool = False
    """Score generated recordings. The reference is what was wanted; its entries may name a voice, a recording of the
    wanted speaker, and have times or audio_s, the wanted length."""
    recognizer: str | None = None
    """What transcribes the recordings: pocketsphinx (English), or the folder of a Whisper as transformers saves it."""
    language: str | None = None
    """Code of the language of the recordings, such as en; a Whisper of many languages detects it by default."""
    speaker_encoder: str | None = None
    """resemblyzer, or the folder of a model with x-vectors; the first that is installed by default."""
    turns: Path | None = None
    """Who speaks when in the recordings, a file or folder such as RTTM: their timing is scored against the
    reference's."""
    heard: Path | None = None
    """Write what was heard in the recordings as SegLST, which `hubbub score` and `hubbub compare` take."""
    html: Path | None = None
    """Write a page with the worst sessions, words coloured; with --audio, with players of their recordings."""
    worst: int = field(default=20, metadata=within(0, 10**6))
    """How many sessions the page shows."""


@dataclass(frozen=True, kw_only=True)
class CompareArguments(_Options):
    """Compare two systems on the same sessions: difference, interval and p of each measure."""

    reference: Annotated[Path, tyro.conf.Positional]
    """A file, or a folder of files."""
    a: Annotated[Path, tyro.conf.Positional]
    """Of one system."""
    b: Annotated[Path, tyro.conf.Positional]
    """Of the other."""


def score(arguments: Sequence[str]) -> None:
    """Print, and write where asked, the scores of a hypothesis."""
    parsed = read(ScoreArguments, "hubbub score", arguments)
    from operators.scoring import table
    from operators.scoring.page import page

    found = _scored(parsed)
    console.table(f"{found.num_sessions} sessions", table.COLUMNS, table.rows(found.figures))
    if found.slices:
        header, rows = table.slice_rows(found.slices, table.SLICED)
        console.table("slices", header, rows)
    for reason in sorted(set(found.left_out.values())):
        names = [name for name, own in found.left_out.items() if own == reason]
        console.notice(f"left out: {', '.join(names)}: {reason}")
    console.line("means", table.meaning(found.conditions, found.resampled))
    _write(parsed.json, table.as_json(found))
    _write(parsed.markdown, table.markdown(found))
    _write(parsed.html, page(found, _sounds(parsed)))


def _scored(parsed: ScoreArguments) -> "Scores":
    """Return the scores of transcripts, or of recordings."""
    names = ("recognizer", "language", "speaker_encoder", "turns")
    if parsed.audio:
        if parsed.uem is not None:
            raise InputError("--uem is of DER and JER, which --audio does not take; score --turns as a hypothesis")
        from pipelines.use.generated import score_audio

        options = {**_inputs(parsed), **{name: getattr(parsed, name) for name in names}}
        return score_audio(parsed.reference, parsed.hypothesis, options, parsed.worst, parsed.heard)
    given = [name for name in (*names, "heard") if getattr(parsed, name) != getattr(ScoreArguments, name)]
    if given:
        raise InputError(f"--{given[0].replace('_', '-')} is of generated recordings; add --audio, or leave it out")
    from pipelines.use.score import score_files

    return score_files(parsed.reference, parsed.hypothesis, _inputs(parsed), parsed.worst)


def _sounds(parsed: ScoreArguments) -> dict[str, str]:
    """Return the path of each generated recording from the page; none without --audio and --html."""
    if not parsed.audio or parsed.html is None:
        return {}
    from pipelines.use.generated import find_recordings

    folder = parsed.html.parent.resolve()
    recordings = find_recordings(parsed.hypothesis)
    return {one.session_id: quote(os.path.relpath(one.path.resolve(), folder)) for one in recordings}


def compare(arguments: Sequence[str]) -> None:
    """Print, and write where asked, how two systems differ."""
    parsed = read(CompareArguments, "hubbub compare", arguments)
    from operators.scoring import table
    from pipelines.use.score import compare_files

    found = compare_files(parsed.reference, parsed.a, parsed.b, _inputs(parsed))
    console.table(f"{found.num_sessions} sessions", table.COMPARED, table.compared_rows(found.differences))
    for column, labels in found.slices.items():
        for label, differences in labels.items():
            console.table(f"{column}: {label}", table.COMPARED, table.compared_rows(differences))
    console.line("means", table.meaning(found.conditions, found.resampled))
    _write(parsed.json, table.as_json(found))
    _write(parsed.markdown, table.compared_markdown(found))


def _inputs(parsed: _Options) -> dict[str, object]:
    names = ("normalizer", "collar_s", "uem", "by", "columns", "measures", "units", "seed", "format")
    return {name: getattr(parsed, name) for name in names}


def _write(path: Path | None, text: str) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        console.line("written", str(path))
