"""What measures of words share: turns as meeteval takes them, and assignments among any number of speakers."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.scoring.sessions import Session, Turn, is_timed, words_of

MEETEVAL_MAX_SPEAKERS = 20
"""meeteval refuses sessions with more speakers as a likely mistake; we assign them by the same method."""

MEETEVAL_MAX_STREAMS = 10
"""meeteval's limit where utterances are assigned to streams."""

MAX_EXACT_CELLS = 2e7
"""Above so many cells of its table, reference words times the lengths of all streams, the exact assignment of
utterances is exchanged for meeteval's greedy one."""

Pairs = Sequence[tuple[str | None, str | None]]
"""Speakers of the reference and of the hypothesis that are taken for each other; None where nobody is left."""


_LOGGERS = ("preprocess", "time_constrained", "error_rate")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep meeteval from logging a line for each pair of speakers whose turns overlap themselves."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def with_words(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns that have words: others change no word error, but count as speakers."""
    return [turn for turn in turns if turn.words]


def num_speakers(turns: Sequence[Turn]) -> int:
    """Return the number of speakers of turns, with words or without, as meeteval counts them."""
    return len({turn.speaker for turn in turns})


def seglst(turns: Sequence[Turn]) -> Any:
    """Return turns as meeteval's SegLST, with times where all turns have them."""
    import meeteval

    timed = is_timed(turns)
    return meeteval.io.SegLST(
        [
            {
                "session_id": "",
                "speaker": turn.speaker,
                "words": turn.words,
                **({"start_time": turn.start_s, "end_time": turn.end_s} if timed else {}),
            }
            for turn in turns
        ]
    )


def by_speaker(turns: Sequence[Turn]) -> dict[str, list[Turn]]:
    """Return the turns that have words, by speaker, in order of first turns."""
    found: dict[str, list[Turn]] = {}
    for turn in with_words(turns):
        found.setdefault(turn.speaker, []).append(turn)
    return found


def cp_assignment(session: Session, collar_s: float | None) -> Pairs:
    """Return the assignment of speakers with the fewest word errors.

    Args:
        session: whose speakers are assigned.
        collar_s: words match within so many seconds; None for whatever their times.
    """
    made: Pairs = session.remember(("assignment", collar_s), lambda: _assign(session, collar_s))
    return made


def _assign(session: Session, collar_s: float | None) -> Pairs:
    """Return the optimal assignment by the Hungarian method (Kuhn 1955), as meeteval's."""
    from scipy.optimize import linear_sum_assignment

    one, other = by_speaker(session.reference), by_speaker(session.hypothesis)
    names: list[list[str | None]] = [
        [*side, *[None] * (max(len(one), len(other)) - len(side))] for side in (one, other)
    ]
    if not names[0]:
        return []
    distance = distance_of(collar_s)
    # A speaker without turns is nobody: all words of the other are wrong.
    costs = np.array(
        [
            [distance(one.get(a or "", ()) if a else (), other.get(b or "", ()) if b else ()) for b in names[1]]
            for a in names[0]
        ]
    )
    return [(names[0][i], names[1][j]) for i, j in zip(*linear_sum_assignment(costs), strict=True)]


def distance_of(collar_s: float | None) -> Callable[[Sequence[Turn], Sequence[Turn]], int]:
    """Return the function that counts the word errors between turns of two speakers."""

    def untimed(one: Sequence[Turn], other: Sequence[Turn]) -> int:
        from rapidfuzz.distance import Levenshtein

        return int(Levenshtein.distance(words_of(one), words_of(other)))

    def timed(one: Sequence[Turn], other: Sequence[Turn]) -> int:
        return int(siso(one, other, collar_s).errors)

    return untimed if collar_s is None else timed


def siso(one: Sequence[Turn], other: Sequence[Turn], collar_s: float | None) -> Any:
    """Return meeteval's error rate of one stream against another, by words' times where a collar is given."""
    import meeteval
    from meeteval.wer.wer.time_constrained import time_constrained_siso_word_error_rate

    if collar_s is None or not one or not other:
        num_one, num_other = len(words_of(one)), len(words_of(other))
        if one and other:
            return meeteval.wer.siso_word_error_rate(" ".join(words_of(one)), " ".join(words_of(other)))
        return meeteval.wer.ErrorRate(num_one + num_other, num_one, num_other, num_one, 0, None, None)
    sides = (seglst([Turn("", turn.words, turn.start_s, turn.end_s) for turn in side]) for side in (one, other))
    return time_constrained_siso_word_error_rate(*sides, collar=collar_s)


def summed(scores: Sequence[Any]) -> Any:
    """Return the sum of meeteval's error rates."""
    import meeteval

    return meeteval.wer.combine_error_rates(*scores)


def is_exact(segments: Sequence[Turn], streams: Sequence[Turn]) -> bool:
    """Return whether utterances are assigned to streams exactly: the table grows by the product of all streams."""
    lengths = [len(words_of(turns)) + 1 for turns in by_speaker(streams).values()]
    if num_speakers(streams) > MEETEVAL_MAX_STREAMS:
        return False
    return len(words_of(segments)) * float(np.prod(lengths, dtype=float)) <= MAX_EXACT_CELLS


def greedy_assignment(segments: Sequence[Turn], streams: Sequence[Turn], collar_s: float | None) -> list[str]:
    """Return the stream of each utterance by meeteval's greedy search, for more streams than it lets through.

    The search starts from the assignment of speakers, as meeteval's does.
    """
    from meeteval.wer.matching import greedy_combination_matching as greedy
    from meeteval.wer.preprocess import preprocess

    timed = collar_s is not None
    one, other, _, _ = preprocess(
        seglst(segments),
        seglst(streams),
        keep_keys=("words", "segment_index", "speaker", *(("start_time", "end_time") if timed else ())),
        reference_sort=False,
        hypothesis_sort=False,
        segment_representation="segment",
        segment_index="segment",
        remove_empty_segments=False,
        convert_to_int=True,
        **(
            {
                "collar": collar_s,
                "reference_pseudo_word_level_timing": "character_based",
                "hypothesis_pseudo_word_level_timing": "character_based_points",
            }
            if timed
            else {}
        ),
    )
    grouped = other.groupby("speaker")
    start = greedy.initialize_assignment(one, other, initialization="tcp" if timed else "cp")
    if timed:
        found = _greedy_timed(
            [_array(words) for words in one.T["words", "start_time", "end_time"]],
            [
                np.concatenate([_array(words) for words in stream.T["words", "start_time", "end_time"]])
                for stream in grouped.values()
            ],
            start,
        )
    else:
        _, found = greedy.greedy_combination_matching(
            one.T["words"],
            [[word for words in stream.T["words"] for word in words] for stream in grouped.values()],
            initial_assignment=start,
        )
    names = list(grouped)
    return [names[place] for place in found]


def _array(words: Any) -> NDArray[np.float64]:
    """Return number, start and end of an utterance's words (N, 3)."""
    return np.array(words, dtype=np.float64).T.reshape(-1, 3)


def _greedy_timed(
    segments: list[NDArray[np.float64]], streams: list[NDArray[np.float64]], start: list[int]
) -> list[int]:
    """Return the stream of each utterance as meeteval's `greedy_time_constrained_combination_matching` finds it.

    Its search, but with words in arrays from the start: it makes them of lists at each of some 100,000 steps.
    """
    from meeteval.wer.matching import greedy_combination_matching as greedy

    found = start
    for cost in (2, 1):

        def forward(column: Any, a: Any, b: Any, cost: int = cost) -> Any:
            columns = (np.ascontiguousarray(side[:, place]) for place in (0, 1, 2) for side in (a, b))
            a_words, b_words, a_begin, b_begin, a_end, b_end = columns
            return greedy.cy_forward_col_time_constrained(
                column,
                a=a_words.astype(np.uint),
                b=b_words.astype(np.uint),
                a_begin=a_begin,
                a_end=a_end,
                b_begin=b_begin,
                b_end=b_end,
                cost_substitution=cost,
            )

        found, _ = greedy._greedy_correct_assignment(segments, streams, found, forward)  # noqa: SLF001
    return [int(place) for place in found]


def rates_of(assigned: Sequence[str], segments: Sequence[Turn], streams: Sequence[Turn], collar_s: float | None) -> Any:
    """Return the summed error rate of streams against the utterances assigned to them."""
    groups = by_speaker(streams)
    own: dict[str, list[Turn]] = {name: [] for name in groups}
    for name, turn in zip(assigned, segments, strict=True):
        own[name].append(turn)
    return summed([siso(own[name], groups[name], collar_s) for name in groups])
