"""Verbs that score and compare any system's hypotheses: no model, no run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from models.config.values import SEED, within
from pipelines.cli.arguments import Arguments, read
from pipelines.reporting import console


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
    """Score a hypothesis against a reference: WER, cpWER, tcpWER, DER and others, with intervals."""

    reference: Annotated[Path, tyro.conf.Positional]
    """A file, or a folder of files: SegLST, STM, RTTM, CTM, TextGrid, CHiME-8 JSON, NeMo manifest or JSON lines."""
    hypothesis: Annotated[Path, tyro.conf.Positional]
    """The same of the system."""
    html: Path | None = None
    """Write a page with the worst sessions, words coloured."""
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
    from pipelines.use.score import score_files

    found = score_files(parsed.reference, parsed.hypothesis, _inputs(parsed), parsed.worst)
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
    _write(parsed.html, page(found))


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
