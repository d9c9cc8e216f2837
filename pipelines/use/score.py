"""score, compare: files of references and hypotheses -> figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from operators.errors import InputError
from operators.formats import read_entries
from operators.formats.uem import read_uem
from operators.scoring.compare import compare
from operators.scoring.result import Comparison, Conditions, Scores
from operators.scoring.score import score


def score_files(reference: Path, hypothesis: Path, options: Mapping[str, Any], num_worst: int = 20) -> Scores:
    """Return the scores of a hypothesis.

    Args:
        reference: file or folder.
        hypothesis: file or folder.
        options: normalizer, collar_s, measures, units, seed; by; uem and columns (paths), format.
        num_worst: how many of the worst sessions are aligned.

    Raises:
        InputError: a file is malformed, or sides do not fit together.
    """
    one = read_entries([reference], "reference", options["format"])
    other = read_entries([hypothesis], "hypothesis", options["format"])
    return score(one, other, _conditions(options), **_tables(options), by=options["by"], num_worst=num_worst)


def compare_files(reference: Path, a: Path, b: Path, options: Mapping[str, Any]) -> Comparison:
    """Return how two systems differ; see `score_files` for the options and errors."""
    one = read_entries([reference], "reference", options["format"])
    systems = [read_entries([path], "hypothesis", options["format"]) for path in (a, b)]
    return compare(one, systems[0], systems[1], _conditions(options), **_tables(options), by=options["by"])


def _conditions(options: Mapping[str, Any]) -> Conditions:
    names = ("normalizer", "collar_s", "measures", "units", "seed")
    return Conditions(**{name: options[name] for name in names})


def _tables(options: Mapping[str, Any]) -> dict[str, Any]:
    regions = None if options["uem"] is None else read_uem(options["uem"])
    return {"regions": regions, "columns": columns_of(options["columns"])}


def columns_of(path: Path | None) -> dict[str, dict[str, Any]]:
    """Return the columns of each session in a file of JSON lines; none without a file.

    Raises:
        InputError: a row has no session_id.
    """
    from operators.corpus.formats import json_lines

    columns: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(json_lines(path) if path is not None else (), 1):
        if not isinstance(row.get("session_id"), str):
            raise InputError(f"{path}: row {number} has no session_id")
        columns[row["session_id"]] = {key: value for key, value in row.items() if key != "session_id"}
    return columns
