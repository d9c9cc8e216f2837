"""data fit, data score: a prior from recordings; a scorecard of simulated conversations against recorded ones."""

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from operators.corpus.segments import read_rttm
from operators.errors import InputError
from operators.simulate.priors import PRESETS, prior_of
from operators.simulate.priors.fit import fit
from operators.simulate.realism import MEASURES, against_prior, analyze_conversations, scorecard, values_of
from operators.simulate.turn_taking import KINDS, TurnAnalysis, analyze_turns
from pipelines.plan.output import Output
from pipelines.reporting import console
from pipelines.reporting.mlflow_runs import record_scorecard


def fit_prior(rttms: Sequence[Path], target: Path, name: str) -> None:
    """Estimate a prior from RTTM files and write it down.

    Raises:
        InputError: a file cannot be read, or there is too little talk in it.
    """
    talks = _recorded(rttms)
    prior = fit(name, ", ".join(path.name for path in rttms), talks)
    target.write_text(prior.to_json(), encoding="utf-8")
    middle = len(prior.offset_s) // 2
    events = sum(len(talk.events) for talk in talks)
    console.line("fitted", f"{len(talks)} recordings, {console.count(events)} changes of the floor and backchannels")
    console.line("median", f"offset {prior.offset_s[middle]:.2f} s, pause {prior.pause_s[middle]:.2f} s")
    console.line("written", f"{target}; use it with --converse.prior {target}")


def _recorded(rttms: Sequence[Path]) -> list[TurnAnalysis]:
    talks = [analyze_turns(name, segments) for name, segments in sorted(read_rttm(rttms).items())]
    if not talks:
        raise InputError(f"there is no SPEAKER line in {', '.join(map(str, rttms))}")
    return talks


def score(simulated: Sequence[Path], against: Sequence[str], folder: Path) -> dict[str, Any]:
    """Compare simulated conversations with recorded ones or a prior; write scorecard.json and scorecard.html.

    Args:
        simulated: an output folder, or RTTM files.
        against: a preset, a fitted prior's file, or RTTM files.
        folder: where the page goes.

    Raises:
        InputError: there is nothing to compare.
    """
    if len(simulated) == 1 and simulated[0].is_dir():
        talks = analyze_conversations(Output(simulated[0]).dataset("conversations").read())
    else:
        talks = _recorded(simulated)
    prior_given = len(against) == 1 and (against[0] in PRESETS or against[0].endswith(".json"))
    real: list[TurnAnalysis] = []
    if prior_given:
        card = against_prior(talks, prior_of(against[0]))
    else:
        real = _recorded([Path(path) for path in against])
        card = scorecard(talks, real)
    card["against"] = list(against)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scorecard.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (folder / "scorecard.html").write_text(_page(card, talks, real, against), encoding="utf-8")
    rows = [
        [
            measure,
            f"{d['ks']:.3f}",
            f"{d['ks_low']:.3f} to {d['ks_high']:.3f}",
            f"{d['w1_s']:.3f}",
            f"{d['median']:.2f}",
            f"{d['median_real']:.2f}",
            console.count(d["number"]),
        ]
        for measure, d in card["distances"].items()  # type: ignore[attr-defined]
        if d is not None
    ]
    console.table("", ["seconds of", "KS", "95 %", "W1", "median", "median there", "number"], rows)
    figures: dict[str, Any] = card["simulated"]  # type: ignore[assignment]
    console.line(
        "shares",
        f"silence {figures['silence_share']:.1%} of the time; overlap {figures['overlap_share']:.1%} and three or more "
        f"{figures['three_speaker_share']:.1%} of speech",
    )
    console.line("written", f"{folder / 'scorecard.html'}")
    if len(simulated) == 1 and simulated[0].is_dir():
        values = {f"ks_{name}": float(d["ks"]) for name, d in card["distances"].items() if d}  # type: ignore[attr-defined]
        values |= {name: float(value) for name, value in figures.items() if isinstance(value, float)}
        if record_scorecard(simulated[0], values, folder):
            console.line("MLflow", "the scorecard is with the run that simulated")
    return card


def _page(
    card: dict[str, Any], simulated: Sequence[TurnAnalysis], real: Sequence[TurnAnalysis], against: Sequence[str]
) -> str:
    """Return one static page: a plot a measure, and the figures side by side."""
    other = prior_of(against[0]) if not real else None
    tables = {"offset": "offset_s", "pause": "pause_s", "segment": "segment_s"}
    plots = []
    for measure, meaning in MEASURES.items():
        ours = [value for talk in simulated for value in values_of(measure, talk)]
        theirs = [value for talk in real for value in values_of(measure, talk)]
        if other is not None and measure in tables:
            theirs = list(getattr(other, tables[measure]))
        if ours and theirs:
            found = card["distances"].get(measure) or {}
            note = f"KS {found['ks']:.3f}, W1 {found['w1_s']:.3f} s" if found else ""
            plots.append(
                f"<figure><img alt='{measure}' src='data:image/png;base64,{_plot(ours, theirs)}'>"
                f"<figcaption><b>{measure}</b>: {html.escape(meaning)}. {note}</figcaption></figure>"
            )
    sides = [("simulated", card["simulated"])] + ([("recorded", card["real"])] if "real" in card else [])
    names = list(asdict_keys(sides[0][1]))
    figures = "".join(
        f"<tr><th>{name.replace('_', ' ')}</th>"
        + "".join(f"<td>{_shown(side[name])}</td>" for _, side in sides)
        + "</tr>"
        for name in names
    )
    matrices = "".join(
        f"<h3>What follows what, {title}</h3>" + _matrix(card[key])
        for title, key in (("simulated", "transition_matrix"), ("recorded", "transition_matrix_real"))
        if key in card
    )
    head = "".join(f"<th>{title}</th>" for title, _ in sides)
    return (
        "<!doctype html><meta charset='utf-8'><title>Scorecard</title><style>body{font:15px system-ui;max-width:70em;"
        "margin:2em auto;padding:0 1em}figure{display:inline-block;width:31em;margin:.5em}img{width:100%}"
        "td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd}</style>"
        f"<h1>Simulated conversations against {html.escape(', '.join(against))}</h1>"
        f"<p>{card['num_conversations']} simulated conversations. Curves: share of values below; "
        "blue simulated, orange the other.</p>"
        + "".join(plots)
        + f"<h3>Figures</h3><table><tr><th></th>{head}</tr>{figures}</table>{matrices}"
    )


def asdict_keys(figures: Any) -> list[str]:
    """Return the names of figures, as they were written."""
    return list(figures if isinstance(figures, dict) else asdict(figures))


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(f"{part:.3f}" for part in value)
    return "too few" if value is None else f"{value:.3f}"


def _matrix(matrix: Sequence[Sequence[float]]) -> str:
    head = "".join(f"<th>{kind}</th>" for kind in KINDS)
    rows = "".join(
        f"<tr><th>{kind}</th>" + "".join(f"<td>{value:.2f}</td>" for value in row) + "</tr>"
        for kind, row in zip(KINDS, matrix, strict=True)
    )
    return f"<table><tr><th></th>{head}</tr>{rows}</table>"


def _plot(ours: Sequence[float], theirs: Sequence[float]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 2.6), layout="constrained")
    axes = figure.add_subplot()
    levels = np.linspace(0, 1, 400)
    for values, color in ((ours, "tab:blue"), (theirs, "tab:orange")):
        axes.plot(np.quantile(np.asarray(values), levels), levels, color=color)
    low, high = np.quantile(np.concatenate([np.asarray(ours), np.asarray(theirs)]), [0.005, 0.99])
    axes.set_xlim(float(low), float(high))
    axes.set_xlabel("seconds")
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()
