"""Recipes of sets that stay the same: for evaluating checkpoints, with the paths left to the user (docs/sets.md).

Settings that a checkpoint must share (codec, layout, tokenizer, window) are those of recipe speechocean; for a
checkpoint trained otherwise they are given on the command line.
"""

from collections.abc import Callable

from models.config.shape import SIZES
from operators.corpus.sets.layouts import LayoutName
from operators.documents.compose import Compose
from operators.packing.pack import Pack
from pipelines.recipes.recipe import Corpus, Evaluation, Recipe


def _set(name: str, layout: LayoutName, recorded: tuple[str, ...] = (), audio_roots: tuple[str, ...] = ()) -> Recipe:
    """Return a recipe whose conversations are those of a set, and nothing else."""
    return Recipe(
        name=name,
        corpus=Corpus(recorded=recorded, layout=layout, audio_roots=audio_roots, language="en"),
        compose=Compose(group=4, window_s=20.0),
        pack=Pack(capacity=1024),
        model=SIZES["tiny"],
        evaluate=Evaluation(max_tokens=200),
    )


def frozen() -> Recipe:
    """Real read speech, 1 to 4 talkers, five shares of overlap, dry and in rooms: 1,280 conversations, never drawn."""
    corpus = "../shared/data/speechocean762"
    return _set("frozen", "given", ("test=operators/corpus/sets/frozen.jsonl.gz",), (corpus,))


SETS: dict[str, Callable[[], Recipe]] = {
    "frozen": frozen,
}
