"""Figures as rows, as Markdown and as JSON: one renderer for the command line, evaluation and the report."""

import json
from collections.abc import Mapping, Sequence

from operators.scoring.result import Comparison, Conditions, Difference, Figure, GeneratedConditions, Scores

COLUMNS = ("measure", "value", "95 % interval", "of", "sub / del / ins", "confusion", "note")
COMPARED = ("measure", "A", "B", "A - B", "95 % interval", "p")


def shown(value: float | None, unit: str, *, signed: bool = False) -> str:
    """Return a value as tables show it.

    >>> shown(0.1234, "share"), shown(0.05, "s"), shown(None, "s")
    ('12.3%', '0.050 s', '-')
    """
    if value is None:
        return "-"
    sign = "+" if signed else ""
    return f"{value:{sign}.1%}" if unit == "share" else f"{value:{sign}.3f}" + (" s" if unit == "s" else "")


def _interval(low: float | None, high: float | None, unit: str, *, signed: bool = False) -> str:
    if low is None or high is None:
        return "-"
    return f"{shown(low, unit, signed=signed)} to {shown(high, unit, signed=signed)}"


def row(figure: Figure) -> list[str]:
    """Return a figure as a row of `COLUMNS`."""
    kinds = ("substitutions", "deletions", "insertions")
    if set(kinds) <= set(figure.counts):
        errors = " / ".join(f"{figure.counts[kind]:.0f}" for kind in kinds)
    else:
        errors = ", ".join(
            f"{name.removesuffix('_s').replace('_', ' ')} {value:.1f} s"
            for name, value in figure.counts.items()
            if name.endswith("_s")
        )
    return [
        figure.title,
        shown(figure.value, figure.unit),
        _interval(figure.low, figure.high, figure.unit),
        f"{figure.base:.0f}" if float(figure.base).is_integer() else f"{figure.base:.1f}",
        errors,
        "" if figure.confusion is None else shown(figure.confusion, "share"),
        figure.note or "",
    ]


def rows(figures: Sequence[Figure]) -> list[list[str]]:
    """Return figures as rows of `COLUMNS`."""
    return [row(figure) for figure in figures]


def compared_rows(differences: Sequence[Difference]) -> list[list[str]]:
    """Return differences as rows of `COMPARED`."""
    return [
        [
            one.title,
            shown(one.a, one.unit),
            shown(one.b, one.unit),
            shown(one.difference, one.unit, signed=True),
            _interval(one.low, one.high, one.unit, signed=True),
            "-" if one.p is None else f"{one.p:.2g}",
        ]
        for one in differences
    ]


def slice_rows(
    slices: Mapping[str, Mapping[str, tuple[Figure, ...]]], measures: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Return the header and a row for each slice, with its sessions and the values of some measures."""
    titles: dict[str, str] = {}
    found = []
    for column, parts in slices.items():
        for label, figures in parts.items():
            own = {figure.measure: figure for figure in figures}
            cells = []
            for name in measures:
                if name in own:
                    titles[name] = own[name].title
                    bounds = _interval(own[name].low, own[name].high, own[name].unit)
                    cells.append(shown(own[name].value, own[name].unit) + ("" if bounds == "-" else f" ({bounds})"))
            found.append([column, label, str(figures[0].num_sessions if figures else 0), *cells])
    return ["column", "value", "sessions", *(titles[name] for name in measures if name in titles)], found


SLICED = ("wer", "cpwer", "tcpwer", "der", "empty_accuracy")
"""Measures that tables of slices show; JSON has all."""


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    r"""Return a table in Markdown.

    >>> print(markdown_table(["a", "b"], [["1", "x|y"]]))
    | a | b |
    |---|---|
    | 1 | x\|y |
    """
    lines = [header, *body]
    text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(header), *text[1:]])


def meaning(conditions: Conditions, resampled: str) -> str:
    """Return in one paragraph what figures mean."""
    version = f" ({conditions.normalizer_version})" if conditions.normalizer_version else ""
    drawn = f"95 % intervals: {conditions.draws} bootstrap draws of {resampled}, seed {conditions.seed}."
    if isinstance(conditions, GeneratedConditions):
        return f"Normalizer {conditions.normalizer}{version} on both sides; {_heard_by(conditions)}. {drawn}"
    uem = "from first start to last end" if conditions.uem is None else f"in the regions of UEM {conditions.uem[:8]}"
    return (
        f"Normalizer {conditions.normalizer}{version} on both sides; {conditions.reference_policy}; words match by "
        f"time within {conditions.collar_s:g} s; DER and JER {uem}, overlap scored. {drawn}"
    )


def _heard_by(conditions: GeneratedConditions) -> str:
    """Return by what generated recordings were judged."""
    parts = []
    if conditions.recognizer is not None:
        about = f"{conditions.recognizer_digest}, language {conditions.language or 'detected'}"
        parts.append(f"words heard by {conditions.recognizer} ({about}), against all words wanted, by turn starts")
    if conditions.speaker_encoder is not None:
        weights = f"weights {(conditions.speaker_encoder_digest or '')[:8]}"
        parts.append(f"similarity by {conditions.speaker_encoder} ({weights})")
    parts.append("a wanted recording that is missing is 0 s long and its words count as deleted")
    if conditions.timing is not None:
        parts.append("timing against all of the reference's times, as in the simulator's scorecard")
    return "; ".join(parts)


def markdown(scores: Scores) -> str:
    """Return all scores in Markdown."""
    parts = [
        f"# Scores of {scores.num_sessions} sessions",
        meaning(scores.conditions, scores.resampled),
        markdown_table(COLUMNS, rows(scores.figures)),
    ]
    parts += [_left_out(scores.left_out)] if scores.left_out else []
    for number, side, other in (
        (scores.only_in_reference, "reference", "deleted"),
        (scores.only_in_hypothesis, "hypothesis", "inserted"),
    ):
        if number:
            parts.append(f"{number} sessions are only in the {side}; their words count as {other}.")
    if scores.slices:
        parts += ["## Slices", markdown_table(*slice_rows(scores.slices, SLICED))]
    if scores.worst:
        listed = [[one.session_id, str(one.errors), str(one.reference_words)] for one in scores.worst]
        parts += ["## Worst sessions", markdown_table(["session", "errors", "reference words"], listed)]
    return "\n\n".join(parts) + "\n"


def compared_markdown(comparison: Comparison) -> str:
    """Return a comparison in Markdown."""
    parts = [
        f"# A and B on {comparison.num_sessions} sessions",
        meaning(comparison.conditions, comparison.resampled)
        + " p: permutation test, the systems exchanged unit by unit.",
        markdown_table(COMPARED, compared_rows(comparison.differences)),
    ]
    parts += [_left_out(comparison.left_out)] if comparison.left_out else []
    for column, labels in comparison.slices.items():
        for label, differences in labels.items():
            parts += [f"## {column}: {label}", markdown_table(COMPARED, compared_rows(differences))]
    return "\n\n".join(parts) + "\n"


def _left_out(left_out: Mapping[str, str]) -> str:
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        reasons.setdefault(reason, []).append(name)
    return "\n".join(f"Left out: {', '.join(names)}: {reason}." for reason, names in reasons.items())


def as_json(found: Scores | Comparison) -> str:
    """Return everything as JSON; equal scores are equal bytes."""
    return json.dumps(found.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
