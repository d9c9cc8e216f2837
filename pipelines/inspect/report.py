"""report: one static page of a run: what was run, on what, how well, where it came from, and what it cost."""

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from models.config.intact import read_json
from models.training.metrics import StepRecord, ValidationRecord, read_metrics, read_records
from operators.errors import InputError
from operators.store.dataset import Snapshot
from pipelines.inspect import graph
from pipelines.inspect.lineage import chain
from pipelines.inspect.listen import STYLE, sound, timeline
from pipelines.plan.output import Output, read_evaluation
from pipelines.plan.stage import Plan
from pipelines.recipes.files import recipe_of
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console
from pipelines.stages import dataset_names, notices, plan_recipe, stage_names
from pipelines.stages.score_tables import SCORE_COLUMNS, score_rows
from pipelines.stages.train import summary

_STYLE = (
    STYLE
    + """table{border-collapse:collapse;margin:.6em 0}td,th{padding:.25em .9em .25em 0;text-align:left;
border-bottom:1px solid #ddd;vertical-align:top}th{font-weight:600}.num{text-align:right}.big{font-size:1.6em}
.bar{background:#4269d0;height:1em;display:inline-block;vertical-align:middle;margin-right:.5em}
svg{max-width:100%;height:auto}nav a{margin-right:1em}.warn{color:#a33}"""
)


def report(folder: Path, page: Path, examples: int) -> Path:
    """Write the page.

    Raises:
        InputError: the folder is not the output of a run, or nothing in it is evaluated yet.
    """
    recipe, output = recipe_of(folder), Output(folder)
    found = sorted(folder.glob("evaluation/*/metrics.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"nothing in {folder} is evaluated yet; run `hubbub run` to its end first")
    plan = plan_recipe(recipe, output)
    recipe = plan.recipe
    own = output.evaluation(plan.evaluation_key) / "metrics.json"
    path = own if own in found else found[-1]
    metrics = read_evaluation(path)
    snapshots = {name: snapshot for name in dataset_names() if (snapshot := output.dataset(name).latest())}
    way = chain(str(path.parent), [output])
    parts = {
        "Result": _result(metrics),
        "Data sets": _datasets(snapshots),
        "Conversations": _realism(recipe, output, snapshots),
        "Packs": _packs(snapshots),
        "Training": _training(plan, metrics),
        "Examples": _examples(output, recipe, path.parent, metrics["task"], examples),
        "Time": _time(folder),
        "Left out": _left_out(snapshots),
        "Where it came from": graph.svg(way),
        "Recipe": f"<details><summary>{html.escape(recipe.digest)}</summary><pre>"
        f"{html.escape((folder / 'recipe.json').read_text())}</pre></details>",
    }
    anchors = {title: title.lower().replace(" ", "-") for title in parts}
    menu = "".join(f"<a href='#{anchor}'>{title}</a>" for title, anchor in anchors.items())
    body = "".join(f"<h2 id='{anchors[title]}'>{title}</h2>{part}" for title, part in parts.items())
    head = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(recipe.name)}: report</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(recipe.name)}</h1>"
        f"{_headline(recipe, metrics, way, snapshots)}<nav>{menu}</nav>"
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{head}{body}</html>\n", encoding="utf-8")
    console.line("written", str(page))
    return page


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return an HTML table, with numbers aligned right."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    cells = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{cells}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"<td class='num'>{value:,}</td>"
    if isinstance(value, float):
        return f"<td class='num'>{value:,.4g}</td>"
    return f"<td>{html.escape(str(value))}</td>"


def _headline(
    recipe: Recipe, metrics: Mapping[str, Any], way: Mapping[str, Any], snapshots: Mapping[str, Snapshot]
) -> str:
    """Return in three lines what was run, on what, and how well."""
    rate = metrics["trained"][metrics["headline"]]
    made = next((node for node in _walk(way) if node["kind"] == "checkpoint"), {})
    code = made.get("code", {})
    where = f"commit {code['commit'][:10]}" if "commit" in code else f"source tree {code.get('tree', '?')[:10]}"
    warn = " <b class='warn'>with changes that were not committed</b>" if code.get("dirty") else ""
    title, value, interval, base = rate["row"][:4]
    size = f"dim {recipe.model.dim}, {recipe.model.num_layers} layers"
    return (
        f"<p class='big'>{title} {value} <small>({interval}) on {rate['num_recordings']} "
        f"conversations; of {base}</small></p><p>{_corpus(recipe, snapshots)} "
        f"{html.escape(metrics['splits'][:1].upper() + metrics['splits'][1:])}. Model of "
        f"{size}, {_steps(recipe, metrics):,} steps on {recipe.encode.codec} codes. Recipe {recipe.digest[:12]}, seed "
        f"{recipe.seed}, {where}{warn}.</p>"
    )


def _steps(recipe: Recipe, metrics: Mapping[str, Any]) -> int:
    """Return after how many steps the checkpoint was taken, which the best one and early stopping make fewer."""
    name = Path(metrics["trained"]["checkpoint"]).name
    return int(name[5:]) if name.startswith("step-") else recipe.train.steps


def _corpus(recipe: Recipe, snapshots: Mapping[str, Snapshot]) -> str:
    """Return what was used: recordings, their speakers and licences, and what was made of them."""
    sources = []
    if utterances := snapshots.get("utterances"):
        names = ", ".join(sorted({name.removeprefix("manifest ") for name in utterances.inputs}))
        sources.append(
            f"{console.hours(utterances.total('audio_s'))} by {utterances.total('speakers'):.0f} speakers "
            f"({names or 'stories'}{', ' + recipe.corpus.licence if recipe.corpus.licence else ''})"
        )
    if recordings := snapshots.get("recordings"):
        sources.append(f"{recordings.num_rows:,} recorded conversations")
    conversations = snapshots["conversations"]
    made = f"{conversations.num_rows:,} conversations, {console.hours(conversations.total('audio_s'))}"
    return html.escape(f"From {' and '.join(sources)}: {made}.")


def _walk(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node["from"]:
        yield from _walk(child)


def _result(metrics: Mapping[str, Any]) -> str:
    return table(SCORE_COLUMNS, score_rows(metrics))


def _datasets(snapshots: Mapping[str, Snapshot]) -> str:
    rows = []
    for name, snapshot in snapshots.items():
        audio_s, seconds = snapshot.total("audio_s"), snapshot.total("seconds")
        rate = f"{audio_s / seconds:,.0f} x real time" if audio_s and seconds > 1 else ""
        rows.append(
            [
                name,
                snapshot.num_rows,
                len(snapshot.receipts),
                console.hours(audio_s) if audio_s else "",
                f"{sum(r.num_bytes for r in snapshot.receipts) / 1e6:,.1f} MB",
                f"{seconds:.0f} s",
                rate,
                snapshot.merkle_root[:12],
            ]
        )
    return table(["data set", "rows", "partitions", "audio", "size", "work", "rate", "Merkle root"], rows)


def _realism(recipe: Recipe, output: Output, snapshots: Mapping[str, Snapshot]) -> str:
    text, figures = notices.turn_taking(recipe, output.dataset("conversations"), snapshots["conversations"])
    rows = [[name.replace("_", " "), float(value)] for name, value in sorted(figures.items())]
    return f"<p>{html.escape(text)}</p>{table(['figure', 'value'], rows)}"


def _packs(snapshots: Mapping[str, Snapshot]) -> str:
    packs = snapshots.get("packs")
    if packs is None:
        return "<p>none</p>"
    columns, room = packs.total("columns"), max(packs.total("room"), 1)
    figures: list[list[Any]] = [
        ["documents", int(packs.total("documents"))],
        ["columns", int(columns)],
        ["fill", f"{columns / room:.2%}"],
        ["text tokens", int(packs.total("text_tokens"))],
        ["pairs of columns that see each other, a column", packs.total("squares") / max(columns, 1) / 2],
    ]
    return table(["figure", "value"], figures)


def _training(plan: Plan, metrics: Mapping[str, Any]) -> str:
    folder = Path(metrics["trained"]["checkpoint"]).parent
    if not folder.exists():
        folder = plan.output.training(plan.training_key)
    records = read_metrics(folder / "metrics.jsonl")
    if not records:
        return "<p>The curve is not here: the checkpoint was trained elsewhere.</p>"
    validations = read_records(folder / "validation.jsonl", ValidationRecord)
    figures = summary(records, validations, plan.recipe.train.best_by)
    rows: list[list[Any]] = [[name.replace("_", " "), float(value)] for name, value in figures.items()]
    device = folder / "device.json"
    if device.exists():
        data = read_json(device, f"remove {device}")
        flops = sum(record.flops for record in records) / sum(record.seconds for record in records)
        rows.append([f"MFU on {data['name']} (models/speech_lm/flops.py)", f"{flops / data['peak_flops']:.1%}"])
    held_out = [(one.step, one.loss) for one in validations]
    shown = {
        "loss" + (" of training (blue) and validation (orange)" if held_out else ""): curve(records, "loss", held_out),
        "gradient norm": curve(records, "grad_norm"),
        "learning rate": curve(records, "lr"),
    }
    curves = "".join(f"<figure>{svg}<figcaption>{name}</figcaption></figure>" for name, svg in shown.items())
    return curves + table(["figure", "value"], rows)


def curve(
    records: Sequence[StepRecord],
    name: str,
    validation: Sequence[tuple[int, float]] = (),
    width: int = 680,
    height: int = 180,
) -> str:
    """Draw one value of all steps as SVG, with its range; what jumps about is drawn pale under its running mean.

    Args:
        records: the steps.
        name: of the value.
        validation: step and value of each validation, drawn in another colour.
        width: of the drawing, in pixels.
        height: of the drawing, in pixels.
    """
    values = [(record.step, float(getattr(record, name))) for record in records]
    ranked = sorted([v for _, v in values] + [v for _, v in validation])
    low, high = ranked[0], ranked[int(0.98 * (len(ranked) - 1))]  # the first steps would flatten all that follow
    span, last = max(high - low, 1e-12), max(values[-1][0], 2)

    def points(of: Sequence[tuple[int, float]]) -> str:
        placed = [
            (50 + (step - 1) / (last - 1) * (width - 60), height - 22 - (min(v, high) - low) / span * (height - 34))
            for step, v in of
        ]
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)

    mean, smooth = values[0][1], []
    for step, value in values:
        mean += (value - mean) * max(0.02, 1.0 / step)
        smooth.append((step, mean))
    thin = values[:: max(1, len(values) // 1500)]
    text = "font-family='system-ui' font-size='11' fill='#555' text-anchor='end'"
    line = f"<polyline points='{points(validation)}' fill='none' stroke='#ef8536' stroke-width='1.6'/>"
    held_out = line if validation else ""
    return (
        f"<svg viewBox='0 0 {width} {height}' width='{width}' height='{height}' role='img' aria-label='{name}'>"
        f"<polyline points='{points(thin)}' fill='none' stroke='#4269d0' stroke-opacity='.3'/>"
        f"<polyline points='{points(smooth[:: max(1, len(smooth) // 1500)])}' fill='none' stroke='#4269d0' "
        f"stroke-width='1.6'/>{held_out}<text x='46' y='16' {text}>{high:.3g}</text>"
        f"<text x='46' y='{height - 22}' {text}>{low:.3g}</text>"
        f"<text x='{width - 10}' y='{height - 6}' {text}>step {last}</text></svg>"
    )


def _examples(output: Output, recipe: Recipe, folder: Path, task: str, number: int) -> str:
    """Return test conversations: a timeline, the audio as encoded, reference and hypothesis."""
    reference = _by_recording(folder / f"{task}_reference.seglst.json")
    hypothesis = _by_recording(folder / f"trained_{task}_hypothesis.seglst.json")
    codes, parts = output.dataset("codes"), list[str]()
    newest = codes.latest()
    for receipt in newest.receipts if newest else ():
        if not receipt.partition_id.startswith("test-") or len(parts) >= number:
            continue
        for row in codes.open(receipt).read_all().slice(0, number - len(parts)).to_pylist():
            name = row["conversation_id"]
            rows = [[reference.get(name, []), hypothesis.get(name, [])]]
            both = "".join(
                f"<td><b>{title}</b><br>"
                + "<br>".join(f"{html.escape(who)}: {html.escape(words)}" for who, words in turns)
                + "</td>"
                for title, turns in zip(("reference", "hypothesis"), rows[0], strict=True)
            )
            parts.append(
                f"<h3>{html.escape(name)}</h3>{timeline(row['turns'], row['speakers'], max(1, row['num_frames']))}"
                f"{sound(row['codes'], recipe.encode.loaded, 'decoded from codes')}<table><tr>{both}</tr></table>"
            )
    return "".join(parts) or "<p>none</p>"


def _by_recording(path: Path) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for segment in read_json(path, f"remove {path.parent} and run again", list) if path.exists() else []:
        # Where windows are not joined, speakers are numbered anew in each.
        where = f" (window {segment['window'] + 1})" if "window" in segment else ""
        recording = segment.get("recording_id", segment["session_id"])
        found.setdefault(recording, []).append((segment["speaker"] + where, segment["words"]))
    return found


def _time(folder: Path) -> str:
    """Return the time that each stage took, summed over all runs."""
    spent, begun = dict.fromkeys(stage_names(), 0.0), dict[str, float]()
    path = folder / "journal.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line that a kill cut short
        if event["event"] == "start":
            begun[event["stage"]] = event["time"]
        elif event["stage"] in begun:
            spent[event["stage"]] += event["time"] - begun.pop(event["stage"])
    longest = max([*spent.values(), 1e-9])
    rows = "".join(
        f"<tr><td>{stage}</td><td><span class='bar' style='width:{240 * seconds / longest:.0f}px'></span>"
        f"{seconds:.1f} s</td></tr>"
        for stage, seconds in spent.items()
    )
    return f"<table><tr><th>stage</th><th>{sum(spent.values()):.0f} s in all</th></tr>{rows}</table>"


def _left_out(snapshots: Mapping[str, Snapshot]) -> str:
    bad = [(name, one) for name, s in snapshots.items() for receipt in s.receipts for one in receipt.quarantined]
    if not bad:
        return "<p>Nothing: every row could be used.</p>"
    rows = [[name, one.row_id, one.reason] for name, one in bad[:20]]
    more = f"<p>and {len(bad) - 20:,} more in quarantine.jsonl</p>" if len(bad) > 20 else ""
    return table(["data set", "row", "why"], rows) + more
