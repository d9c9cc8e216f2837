"""The card of an exported model: what it was trained on, under which licences, how well it does, and its lineage.

A README.md with the fields that model hubs read, made of the checkpoint's header and the run that it is part of.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import yaml

from models.config.header import Header, weights_digest
from operators.errors import InputError
from pipelines.plan.output import Output, read_evaluation


def write_card(checkpoint: Path, step: int, header: Header, folder: Path) -> None:
    """Write the card of a checkpoint to the folder that it was exported to."""
    run = checkpoint.absolute().parents[2]
    output = Output(run) if (run / "recipe.json").exists() else None
    licences = sorted(_licences(output)) if output else []
    fields: dict[str, Any] = {"library_name": "transformers", "tags": ["hubbub", "multi-talker", *header.tasks]}
    if len(licences) == 1:
        fields["license_name"] = licences[0]
    lineage, tasks = header.lineage, ", ".join(header.tasks) or "of another version"
    told = ", ".join(licences) or ("told by no manifest" if output else "not known here, for this is no run's folder")
    code = lineage.get("code", {}).get("commit", "unknown")
    made_by = f"recipe {lineage.get('recipe_digest', 'unknown')}, seed {lineage.get('seed', 'unknown')}, code {code}"
    lines = [
        "---",
        yaml.safe_dump(fields, sort_keys=True).rstrip("\n"),
        "---",
        f"# {lineage.get('recipe', 'model')}, step {step}",
        "",
        f"Trained by Hubbub on tasks {tasks}; windows of {header.window_s:g} s.",
        "",
        "## Data",
        "",
        f"Licences of the recordings: {told}.",
        *_table("corpus", lineage.get("corpora", {})),
        "",
        "## Figures",
        "",
        *_figures(output, checkpoint),
        "",
        "## Lineage",
        "",
        f"Weights {weights_digest(checkpoint)[:32]}, {made_by}.",
        *_table("started from", _started(header)),
        *_table("data set", lineage.get("datasets", {})),
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _licences(output: Output) -> set[str]:
    """Return the licences of all utterances, and of all turns of recorded conversations, of a run."""
    found: set[str] = set()
    for name in ("utterances", "recordings"):
        dataset = output.dataset(name)
        if dataset.latest() is None:
            continue
        rows = dataset.read()
        turns = None if name == "utterances" else pc.list_flatten(rows["turns"])
        values = rows["licence"] if turns is None else pc.struct_field(turns, "licence")
        found |= {value for value in pc.unique(values).to_pylist() if value}
    return found


def _figures(output: Output | None, checkpoint: Path) -> Iterator[str]:
    """Yield a table of the figures of every evaluation of the checkpoint."""
    rows = []
    for path in sorted(output.folder.glob("evaluation/*/metrics.json")) if output else ():
        try:
            metrics = read_evaluation(path)
        except InputError:
            continue
        if Path(metrics["trained"]["checkpoint"]).name != checkpoint.name:
            continue
        for task, of_task in metrics["trained"]["tasks"].items():
            rows += [[task, *one["row"]] for one in of_task["measures"].values() if "row" in one]
    if not rows:
        yield "Not evaluated in the run that it is from."
        return
    yield "| task | score | value | 95 % interval | of | sub / del / ins |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        yield "| " + " | ".join(str(cell) for cell in (row + [""] * 6)[:6]) + " |"


def _started(header: Header) -> dict[str, str]:
    started = header.lineage.get("started_from", {})
    return {str(started["kind"]): str(started.get("weights_digest", "-"))} if started else {}


def _table(what: str, digests: dict[str, str]) -> Iterator[str]:
    if digests:
        yield ""
        yield f"| {what} | digest |"
        yield "|---|---|"
        for name, digest in digests.items():
            yield f"| {name} | {digest[:32]} |"
