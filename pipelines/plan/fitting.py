"""What a recipe leaves to the corpus: numbers that follow from its hours, its utterances, and the windows."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from models.config.shape import SIZES, sized
from operators.corpus.splits import SPLITS, Splits
from operators.simulate.converse import Converse
from pipelines.recipes.recipe import Recipe

TIMES_CAST = 3
"""How often each utterance of the train split is cast, about: in company that differs each time."""
CONVERSATIONS = (200, 100_000)
"""Fewest and most conversations."""
PASSES = 4
"""How often training sees each conversation, about."""
STEPS = (300, 50_000)
"""Fewest and most steps: a small corpus is seen more often."""
HOURS_OF_SIZE = {"tiny": 10.0, "small": 200.0, "base": 2000.0, "0.6b": float("inf")}
"""Hours of training speech up to which each size is taken."""


@dataclass(frozen=True)
class Speech:
    """How much speech a split has."""

    utterances: int
    utterances_s: float
    recorded_s: float

    @property
    def hours(self) -> float:
        """Hours of single speakers and of recorded conversations."""
        return (self.utterances_s + self.recorded_s) / 3600

    @staticmethod
    def of(utterances: pa.Table, splits: Splits, recordings: pa.Table | None) -> dict[str, "Speech"]:
        """Return the speech of each split, from the rows of UTTERANCES and of recorded CONVERSATIONS."""
        seconds = np.asarray(utterances["source_num_samples"]) / np.asarray(utterances["source_rate_hz"])
        recorded = dict.fromkeys(SPLITS, 0.0)
        if recordings is not None:
            columns = recordings.select(["split", "num_samples", "sample_rate_hz"]).to_pydict()
            for split, samples, rate_hz in zip(*columns.values(), strict=True):
                recorded[split] = recorded.get(split, 0.0) + samples / rate_hz
        rows = {split: splits.rows.get(split, np.zeros(0, np.int64)) for split in SPLITS}
        return {s: Speech(len(rows[s]), float(seconds[rows[s]].sum()), recorded[s]) for s in SPLITS}


def fit(recipe: Recipe, train: Speech) -> tuple[Recipe, str]:
    """Return a recipe whose open numbers follow from the speech of the train split, and a line that says which.

    >>> from pipelines.recipes.named import custom
    >>> fit(custom(), Speech(9000, 100 * 3600.0, 0.0))[1].split(";")[0]
    '100 h of training speech: 27000 conversations (about 225 h, each utterance 3 times)'
    """
    said: list[str] = []
    if "conversations" in recipe.fit and train.utterances:
        turns, lasting_s = _typical(recipe.converse, train.utterances_s / train.utterances)
        number = _rounded(TIMES_CAST * train.utterances / turns, *CONVERSATIONS)
        recipe = replace(recipe, casting=replace(recipe.casting, train_conversations=number))
        times = float(f"{number * turns / train.utterances:.1g}")
        said.append(f"{number} conversations (about {number * lasting_s / 3600:.3g} h, each utterance {times:g} times)")
    if "steps" in recipe.fit:
        number = _rounded(PASSES * _packs(recipe, train) / recipe.train.packs_per_step, *STEPS)
        recipe = replace(recipe, train=replace(recipe.train, steps=number))
        said.append(f"{number} steps")
    if "size" in recipe.fit and recipe.train.start_from is None:
        size = next(name for name, most in HOURS_OF_SIZE.items() if train.hours <= most)
        recipe = replace(recipe, model=sized(recipe.model, size))
        said.append(f"a {size} model ({_parameters(size):.1f} M parameters without embeddings)")
    hours = f"{train.hours:.3g} h" if train.hours >= 1 else f"{60 * train.hours:.2g} min"
    return recipe, f"{hours} of training speech: {'; '.join(said)}" if said else ""


def _typical(converse: Converse, utterance_s: float) -> tuple[float, float]:
    """Return about how many utterances a conversation takes, and the seconds it lasts."""
    turns = (converse.min_turns + converse.max_turns) / 2
    if converse.cut_above_s:  # a turn is a part of an utterance
        turns *= min(1.0, converse.cut_above_s / utterance_s)
    turns = max(1.0, min(turns, converse.max_duration_s / utterance_s))
    return turns, min(converse.max_duration_s, turns * utterance_s)


def _packs(recipe: Recipe, train: Speech) -> float:
    """Return about how many packs the train split makes."""
    seconds = train.recorded_s
    if train.utterances:
        _, lasting_s = _typical(recipe.converse, train.utterances_s / train.utterances)
        seconds += recipe.casting.train_conversations * lasting_s
    codec = recipe.encode.spec
    # A window of a minute is long enough for the rounding of layouts not to count.
    per_second = recipe.compose.layout_of(codec).num_columns(int(60 * codec.frame_rate_hz)) / 60
    return seconds * per_second * len(recipe.compose.tasks) / recipe.pack.capacity


def _rounded(number: float, least: int, most: int) -> int:
    """Return a number with two digits that count: a corpus that grows by a little keeps it.

    >>> [_rounded(number, 200, 5000) for number in (17, 1234, 1e6)]
    [200, 1200, 5000]
    """
    return int(min(most, max(least, float(f"{number:.1e}"))))


def _parameters(size: str) -> float:
    """Return millions of parameters of a named size, without embeddings and heads."""
    shape = SIZES[size]
    width = shape.head_dim
    attention = shape.dim * width * (2 * shape.num_heads + 2 * shape.num_kv_heads)
    return shape.num_layers * (attention + 3 * shape.dim * shape.ffn_dim) / 1e6
