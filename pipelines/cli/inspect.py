"""Verbs that look at what exists: lineage, report and doctor."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from models.config.values import within
from pipelines.cli.arguments import Arguments, read
from pipelines.reporting import console


@dataclass(frozen=True, kw_only=True)
class LineageArguments(Arguments):
    """Follow a checkpoint, data set, evaluation or MLflow run back to the manifests, or forwards to what it became."""

    id: Annotated[str, tyro.conf.Positional]
    """A path, a data set's name, or 6 or more digits of a Merkle root, weights digest or run id."""
    output: Path | None = None
    """Output folder to search; every folder below runs/ by default."""
    forwards: bool = False
    """Show what was made from it, instead of what it was made from; a manifest is named by its digest."""
    json: bool = False
    """Print JSON instead of a tree."""
    html: Path | None = None
    """Write one static page with the graph."""


def lineage(arguments: Sequence[str]) -> None:
    """Print where something came from, or what it became."""
    parsed = read(LineageArguments, "hubbub lineage", arguments)
    from pipelines.inspect.graph import page
    from pipelines.inspect.lineage import chain, descendants
    from pipelines.plan.output import Output

    path = Path(parsed.id)
    above = [folder for folder in (path, *path.absolute().parents) if (folder / "recipe.json").exists()]
    folders = (
        [parsed.output] if parsed.output else above[:1] or sorted(p.parent for p in Path("runs").glob("*/recipe.json"))
    )
    follow = descendants if parsed.forwards else chain
    found = follow(parsed.id.rstrip("/"), [Output(folder) for folder in folders])
    if parsed.html is not None:
        parsed.html.write_text(page(found), encoding="utf-8")
        console.line("written", str(parsed.html))
        return
    if parsed.json:
        print(json.dumps(found, indent=1, default=str))
    else:
        console.tree(found)


@dataclass(frozen=True, kw_only=True)
class ReportArguments(Arguments):
    """Write one static page: what was run, on what, how well, and where it came from."""

    output: Annotated[Path, tyro.conf.Positional]
    """A run's output folder."""
    page: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File of the page; OUTPUT/report.html by default."""
    examples: int = field(default=6, metadata=within(0, 10_000))
    """Test conversations with audio, reference and hypothesis."""


def report(arguments: Sequence[str]) -> None:
    """Write a run's page."""
    parsed = read(ReportArguments, "hubbub report", arguments)
    from pipelines.inspect.report import report as write_report

    write_report(parsed.output, parsed.page or parsed.output / "report.html", parsed.examples)


@dataclass(frozen=True, kw_only=True)
class DoctorArguments(Arguments):
    """Report what this machine can do, and what will be used, and why."""

    output: Path = Path("runs")
    """Where output would go."""


def doctor(arguments: Sequence[str]) -> None:
    """Print what this machine can do."""
    parsed = read(DoctorArguments, "hubbub doctor", arguments)
    from pipelines.inspect.doctor import report as print_report

    print_report(parsed.output)
