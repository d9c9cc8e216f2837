"""Tables of an evaluation: its scores as rows, as Markdown, and as MLflow names them."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.stages.asked import WHICH

SCORE_COLUMNS = ("model", "task", "score", "value", "95 % interval", "of", "sub / del / ins")
SHORT = ("cpwer", "orcwer", "tcpwer", "der", "nll")
"""Measures in the summary of a run; reports and files have all."""


def rates(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return every score as MLflow names it: `trained.cpwer`, of further tasks for instance `trained.asr_timed.der`."""
    found: dict[str, float | None] = {}
    for which in WHICH:
        for task, scores in metrics.get(which, {}).get("tasks", {}).items():
            prefix = which if task == metrics["task"] else f"{which}.{task}"
            found |= {f"{prefix}.{name}": one["rate"] for name, one in scores["measures"].items()}
    for which, scores in metrics.get("baselines", {}).items():
        found |= {f"{which}.{name}": one["rate"] for name, one in scores["measures"].items()}
    return {name: rate for name, rate in found.items() if rate is not None}


def score_rows(metrics: Mapping[str, Any], names: Sequence[str] = ()) -> list[list[str]]:
    """Return scores as rows of `SCORE_COLUMNS`, baselines under checkpoints: those of some measures, or all."""
    return [
        [which, task, *one["row"][:5]]
        for which, task, scores in _scored(metrics)
        for name, one in scores["measures"].items()
        if name in (names or scores["measures"]) and one["rate"] is not None
    ]


def _scored(metrics: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return name, task and scores of all that was scored, checkpoints first."""
    found = [
        (which, task, scores) for which in WHICH for task, scores in metrics.get(which, {}).get("tasks", {}).items()
    ]
    return found + [(name, scores["task"], scores) for name, scores in metrics.get("baselines", {}).items()]


def overview(metrics: Mapping[str, Any]) -> str:
    """Return every score of an evaluation, and its slices, in Markdown."""
    from operators.scoring.table import markdown_table

    parts = ["# Scores", markdown_table(SCORE_COLUMNS, score_rows(metrics))]
    for which, task, scores in _scored(metrics):
        if rows := scores.get("slices", {}).get("rows"):
            parts += [f"## Slices: {which}, {task}", markdown_table(scores["slices"]["header"], rows)]
    return "\n\n".join(parts) + "\n"
