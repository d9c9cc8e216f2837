"""Hotwords: lists of words that a transcription is told to expect, of which some are said and the others are not."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

EMPTY_SHARE, WITHOUT_HIT_SHARE = 0.1, 0.2
"""Shares of documents whose list is empty, and whose list holds no word that is said."""
COMMON_SHARE = 0.9
"""Share of all that is said, which the most common words make up; the other words are rare."""
_SHORTEST = 5


def hotwords_in(turns: Iterable[Any]) -> set[str]:
    """Return the words of turns that can be hotwords: those of five letters or more."""
    return {word for turn in turns for word in turn["text_normalized"].split() if len(word) >= _SHORTEST}


@dataclass(frozen=True)
class WordCounts:
    """Words of a corpus, and in how many conversations each occurs: where distractors are drawn from."""

    counts: tuple[tuple[str, int], ...]
    """By word."""
    languages: tuple[str, ...] = field(default=(), compare=False)
    """Languages of the corpus, as it names them."""

    @staticmethod
    def of(conversations: Iterable[Sequence[Any]]) -> "WordCounts":
        """Count the words of conversations, each a sequence of turns; their order makes no difference.

        >>> WordCounts.of([[{"text_normalized": "hello there hello"}], [{"text_normalized": "oh hello"}]]).counts
        (('hello', 2), ('there', 1))
        """
        counts: Counter[str] = Counter()
        languages: set[str] = set()
        for turns in conversations:
            counts.update(hotwords_in(turns))
            languages |= {turn["language"] for turn in turns if turn.get("language")}
        return WordCounts(tuple(sorted(counts.items())), tuple(sorted(languages)))

    @staticmethod
    def rare(conversations: Iterable[Sequence[Any]]) -> "WordCounts":
        """Return the rare words of conversations, each counted once.

        Common words are the most frequent ones that together make up nine tenths of all words that are said.

        Source: Le et al. 2021, arXiv:2104.02194 (the 5,000 most common words of LibriSpeech, nine tenths
        of what is said there, are common, all others rare).

        >>> WordCounts.rare([[{"text_normalized": "so so so so so so so so so oslo"}]]).counts
        (('oslo', 1),)
        """
        counts = Counter(w for turns in conversations for turn in turns for w in turn["text_normalized"].split())
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        before = np.cumsum([0, *(count for _, count in ordered)])[:-1]
        few = [word for (word, _), n in zip(ordered, before, strict=True) if n >= COMMON_SHARE * counts.total()]
        return WordCounts(tuple((word, 1) for word in sorted(few)))

    def among(self, turns: Iterable[Any]) -> set[str]:
        """Return those of the words that turns hold."""
        said = {word for turn in turns for word in turn["text_normalized"].split()}
        return said & self._known

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(word for word, _ in self.counts)

    @cached_property
    def _running(self) -> NDArray[np.float64]:
        return np.cumsum([count for _, count in self.counts], dtype=np.float64)

    def distractors(self, number: int, said: set[str], draw: np.random.Generator) -> list[str]:
        """Draw up to so many different words that are not said, each as likely as it is common.

        Words that are said come as often as they are common; if distractors were rarer, how common a word is would tell
        whether it is said.
        """
        found: dict[str, None] = {}
        if self.counts:
            places = draw.random(8 * number) * self._running[-1]
            for index in np.searchsorted(self._running, places, side="right").tolist():
                word = self.counts[index][0]
                if word not in said and len(found) < number:
                    found.setdefault(word)
        return list(found)


def hotword_list(said: set[str], words: WordCounts, most: int, draw: np.random.Generator) -> list[str]:
    """Draw a list of hotwords: a tenth are empty, a fifth hold no word that is said, the others one or more.

    Source: Le et al. 2021, arXiv:2104.02194 (words of the reference among distractors from the corpus;
    lists in facebookresearch/fbai-speech, is21_deep_bias); shares without a word, or without one that is said: ours.

    Args:
        said: words that the window holds.
        words: where distractors are drawn from.
        most: words of a list.
        draw: generator of this document.

    >>> words = WordCounts.of([[{"text_normalized": "wonderful weather again today"}]])
    >>> hotword_list({"weather"}, words, 4, np.random.default_rng(1))
    ['again', 'weather', 'wonderful', 'today']
    """
    kind = draw.random()
    if kind < EMPTY_SHARE:
        return []
    present = sorted(said) if kind >= EMPTY_SHARE + WITHOUT_HIT_SHARE else []
    hits = int(draw.integers(1, min(len(present), most) + 1)) if present else 0
    chosen = [present[i] for i in draw.permutation(len(present))[:hits]]
    chosen += words.distractors(int(draw.integers(not hits, most - hits + 1)), said, draw)
    return [chosen[i] for i in draw.permutation(len(chosen))]
