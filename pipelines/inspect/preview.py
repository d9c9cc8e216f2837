"""What a corpus that is not indexed yet would give: a part of its rows is read, and nothing is written."""

from collections.abc import Iterator

import numpy as np

from operators.corpus.forms import manifest_rows
from operators.corpus.index import index_utterances
from operators.corpus.splits import SPLITS, split_named
from pipelines.plan.context import most_frequent
from pipelines.plan.fitting import Speech, fit
from pipelines.plan.output import Output
from pipelines.plan.sources import manifests_of
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console

MOST_ROWS = 1000
"""Rows whose recordings are opened, about."""


def preview(recipe: Recipe, output: Output, most_rows: int = MOST_ROWS) -> Iterator[tuple[str, str]]:
    """Yield lines on the utterances of a corpus: rows, hours, splits, what cannot be used, the numbers it decides.

    Raises:
        InputError: a manifest cannot be read.
    """
    corpus, manifests = recipe.corpus, manifests_of(recipe, output)
    counts = [sum(1 for _ in manifest_rows(manifest)) for manifest in manifests]
    every = max(1, sum(counts) // most_rows)
    used, bad = index_utterances(
        manifests, corpus.where, corpus.max_duration_s, corpus.language, corpus.licence, every=every
    )
    looked_at = sum(-(-count // every) for count in counts)
    scale = sum(counts) / max(1, looked_at)
    seconds = scale * np.asarray(used["source_num_samples"]) / np.asarray(used["source_rate_hz"])
    splits = np.array([split_named(name) or "" for name in used["split"].to_pylist()])
    lengths = {split: seconds[splits == split] for split in (*SPLITS, "")}

    text = f"{sum(counts):,} rows"
    text += "" if every == 1 else f", of which {looked_at:,} were looked at"
    text += f": {scale * len(seconds):,.0f} are used ({console.hours(seconds.sum())}"
    text += f"{', about' if every > 1 else ''}), {scale * len(bad):,.0f} would be quarantined"
    yield "rows", text
    if bad:
        stops = len(bad) > corpus.max_bad_share * looked_at
        yield (
            "bad",
            f"{most_frequent(bad)}; the first is {bad[0].row_id}: {bad[0].reason}"
            + (f"; a run would stop (corpus.max_bad_share is {corpus.max_bad_share:g})" if stops else ""),
        )
    named = [
        f"{split or 'without a split'}: {scale * len(of):,.0f} rows, {console.hours(of.sum())}"
        for split, of in lengths.items()
        if len(of)
    ]
    is_drawn = recipe.casting.split == "speaker" or not len(lengths["test"])
    yield "splits", "; ".join([*named, *(["test speakers would be drawn"] if is_drawn else [])])
    trained = seconds if recipe.casting.split == "speaker" else np.concatenate([lengths["train"], lengths[""]])
    share = 1 - recipe.casting.test_speakers if is_drawn else 1.0
    speech = Speech(round(share * scale * len(trained)), share * float(trained.sum()), 0.0)
    if said := fit(recipe, speech)[1]:
        yield "fit", f"about {said}"
