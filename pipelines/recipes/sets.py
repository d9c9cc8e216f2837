"""Recipes of sets that stay the same: for evaluating checkpoints, with the paths left to the user (docs/sets.md).

Settings that a checkpoint must share (codec, layout, tokenizer, window) are those of recipe speechocean; for a
checkpoint trained otherwise they are given on the command line.
"""

from collections.abc import Callable
from functools import partial

from models.config.shape import SIZES
from operators.corpus.sets.layouts import LAYOUTS, LayoutName
from operators.documents.compose import Compose
from operators.packing.pack import Pack
from pipelines.recipes.recipe import Corpus, Evaluation, Partitions, Recipe

_MIXTURES = ("given", "librispeechmix", "librimix_clean", "librimix_noisy", "libriconvo")


def _set(layout: LayoutName, name: str = "", recorded: tuple[str, ...] = (), roots: tuple[str, ...] = ()) -> Recipe:
    """Return a recipe whose conversations are those of a set, and nothing else."""
    return Recipe(
        name=name or layout,
        corpus=Corpus(recorded=recorded, layout=layout, audio_roots=roots, language="en"),
        compose=Compose(group=4, window_s=20.0),
        pack=Pack(capacity=1024),
        # Mixtures last seconds, meetings an hour.
        partitions=Partitions(recordings_per_partition=400 if layout in _MIXTURES else 4),
        model=SIZES["tiny"],
        evaluate=Evaluation(max_tokens=200),
    )


def frozen() -> Recipe:
    """Real read speech, 1 to 4 talkers, five shares of overlap, dry and in rooms: 1,280 conversations, never drawn."""
    corpus = "../shared/data/speechocean762"
    return _set("given", "frozen", ("test=operators/corpus/sets/frozen.jsonl.gz",), (corpus,))


def _of_layout(layout: LayoutName) -> Callable[[], Recipe]:
    """Return the recipe of a published set; the user names its folder."""
    made = partial(_set, layout)
    made.__doc__ = f"A published set: --corpus.recorded test=PATH of {LAYOUTS[layout].about} (docs/sets.md)."
    return made


SETS: dict[str, Callable[[], Recipe]] = {
    "frozen": frozen,
    **{layout: _of_layout(layout) for layout in LAYOUTS if layout not in ("labels", "given")},
}
"""By name; a published set's recipe has the name of its layout."""
