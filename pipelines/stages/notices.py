"""What is reported of a corpus and its conversations: licences, turn-taking, utterance lengths."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.documents.task import Told
from operators.documents.tasks import TASKS
from operators.documents.tasks.asr_formatted import is_formatted
from operators.errors import InputError
from operators.simulate.priors import prior_of
from operators.simulate.realism import against_prior, analyze_conversations
from operators.store.dataset import Dataset, Snapshot
from pipelines.plan.output import Output
from pipelines.recipes.recipe import Recipe


def check_licences(recipe: Recipe, output: Output, snapshots: Mapping[str, Snapshot]) -> None:
    """Check that everything that was indexed may be used.

    Raises:
        InputError: names the licences that may not, how much has them, and the way out.
    """
    allowed = recipe.corpus.allow_licences
    if not allowed:
        return
    counted: Counter[str] = Counter()
    for name in ("utterances", "recordings"):
        for receipt in snapshots[name].receipts if name in snapshots else ():
            for batch in output.dataset(name).batches(receipt):
                column = batch["licence"] if name == "utterances" else pc.list_flatten(batch["turns"]).combine_chunks()
                values = column if name == "utterances" else column.field("licence")
                counted.update(str(value or "unknown") for value in values.to_pylist())
    refused = {licence: number for licence, number in counted.items() if licence not in allowed}
    if refused:
        shown = ", ".join(f"{number:,} have {licence}" for licence, number in sorted(refused.items()))
        raise InputError(
            f"of {sum(counted.values()):,} utterances {shown}; corpus.allow_licences allows {', '.join(allowed)}. "
            "Leave them out (--corpus.where \"licence == '...'\"), name the corpus's own (--corpus.licence), or allow "
            "them"
        )


_CURES: Mapping[Told, str] = {
    "gender": "field gender or sex of the manifests (--corpus.map gender=NAME where it is called otherwise)",
    "language": "field language, lang or locale of the manifests, or --corpus.language for all rows without one",
    "formatted text": "field text of the manifests, with case and punctuation as it is to be written",
}
"""Where a corpus tells what a task needs."""


def check_told(recipe: Recipe, output: Output, snapshots: Mapping[str, Snapshot], *, trains: bool = True) -> None:
    """Check that the corpus tells what tasks ask about.

    Args:
        recipe: whose tasks are checked.
        output: of the run.
        snapshots: of the corpus's index.
        trains: whether documents are trained on; where a checkpoint is given, whole conversations are transcribed
            without what they tell.

    Raises:
        InputError: no row tells it; names the field, and what to do.
    """
    for task in recipe.compose.tasks:
        needed = TASKS[task].needs_told
        if needed is None or (not trains and TASKS[task].judged_by == "conversation"):
            continue
        if not any(_tells(rows, needed) for rows in _spoken(output, snapshots)):
            raise InputError(
                f"compose.tasks: {task} needs the {needed} of utterances, which no row of the corpus tells: give "
                f"{_CURES[needed]}, or leave out {task}"
            )


def _spoken(output: Output, snapshots: Mapping[str, Snapshot]) -> Iterator[pa.Table]:
    """Yield what is told of everything that was indexed: utterances, and turns of recorded conversations."""
    names = ["text", "text_normalized", "gender", "language"]
    for name in ("utterances", "recordings"):
        for receipt in snapshots[name].receipts if name in snapshots else ():
            for batch in output.dataset(name).batches(receipt):
                if name == "utterances":
                    yield batch.select(names)
                else:
                    turns = pc.list_flatten(batch["turns"]).combine_chunks()
                    yield pa.table({one: pc.struct_field(turns, one) for one in names})


def _tells(rows: pa.Table, needed: Told) -> bool:
    if needed == "formatted text":
        pairs = zip(rows["text"].to_pylist(), rows["text_normalized"].to_pylist(), strict=True)
        return any(is_formatted(text or "", normalized) for text, normalized in pairs if normalized)
    return any(rows[needed].to_pylist())


def long_utterances(recipe: Recipe, utterances: pa.Table) -> str:
    """Return a notice where most utterances are longer than the prior's turns, and what to do; empty where they fit."""
    if not utterances.num_rows or recipe.converse.cut_above_s:
        return ""
    seconds = np.array(utterances["source_num_samples"]) / np.array(utterances["source_rate_hz"])
    wanted = np.array(prior_of(recipe.converse.prior).segment_s)
    share = float(np.mean(seconds > np.quantile(wanted, 0.9)))
    if share < 0.5:
        return ""
    timed = any(pc.list_value_length(utterances["words"]).to_pylist())
    cure = "--converse.cut-above-s 5 cuts them between words"
    return (
        f"{share:.0%} of the utterances are longer than nine in ten turns of the {recipe.converse.prior} prior (median "
        f"{np.median(seconds):.1f} s, there {np.median(wanted):.1f} s): silence and overlap will be a smaller share "
        f"of the talk than there; {cure if timed else f'hubbub data align finds word times, then {cure}'}"
    )


def turn_taking(recipe: Recipe, dataset: Dataset, snapshot: Snapshot, most: int = 500) -> tuple[str, dict[str, float]]:
    """Compare turn-taking of simulated conversations with the prior.

    Returns:
        A line with KS distances and shares of silence and overlap, and the same as metrics.
    """
    tables: list[pa.Table] = []
    for receipt in snapshot.receipts:
        simulated = receipt.partition_id.startswith("train-") and not receipt.partition_id.startswith("train-recorded-")
        if simulated and sum(t.num_rows for t in tables) < most:
            tables += [batch.slice(0, most) for batch in dataset.batches(receipt)]
    looked_at = pa.concat_tables(tables).slice(0, most) if tables else pa.table({})
    if not looked_at.num_rows:
        return "all conversations are recorded ones", {}
    talks = analyze_conversations(looked_at)
    try:
        card = against_prior(talks, prior_of(recipe.converse.prior), draws=2)
    except (InputError, ZeroDivisionError):
        return "too little talk to compare", {}
    distances: dict[str, Any] = card["distances"]  # type: ignore[assignment]
    figures: dict[str, Any] = card["simulated"]  # type: ignore[assignment]
    far = ", ".join(f"{name}s {d['ks']:.3f}" for name, d in distances.items() if d and name in ("offset", "pause"))
    measured = {f"ks_{name}": float(d["ks"]) for name, d in distances.items() if d}
    measured |= {name: float(figures[name]) for name in ("silence_share", "overlap_share", "three_speaker_share")}
    text = (
        f"{far} from the {recipe.converse.prior} prior (KS); {figures['silence_share']:.0%} silence, "
        f"{figures['overlap_share']:.0%} of speech overlapped; {sizes(looked_at)}"
    )
    return text, measured


def sizes(conversations: pa.Table) -> str:
    """Return how many speakers and turns conversations have and how long they are, from the least to the most."""
    seconds = np.array(conversations["num_samples"]) / np.array(conversations["sample_rate_hz"])
    counted = [pc.list_value_length(conversations[name]).to_pylist() for name in ("speakers", "turns")]
    speakers, turns, lasting = (
        f"{low:g}" if low == high else f"{low:g} to {high:g}"
        for low, high in ((min(values), max(values)) for values in (*counted, seconds.round(1).tolist()))
    )
    return f"each conversation has {speakers} speakers and {turns} turns in {lasting} s"


def short_casts(recipe: Recipe, snapshot: Snapshot) -> str:
    """Return a notice of conversations in which not everybody of the cast is heard; empty where there is none."""
    short = sum(receipt.counts.get("short_casts", 0) for receipt in snapshot.receipts)
    if not short:
        return ""
    simulated = sum(receipt.num_rows for receipt in snapshot.receipts if "short_casts" in receipt.counts)
    return (
        f"{short:.0f} of {simulated} conversations have fewer speakers than their cast: the others' utterances do not "
        f"fit into {recipe.converse.max_duration_s:g} s; raise --converse.max-duration-s (and --compose.window-s), "
        "lower --casting.max-speakers, or cut utterances (--converse.cut-above-s)"
    )
