"""Turns that a cut goes through: their words, and the part of a turn on either side."""

from collections.abc import Mapping
from typing import Any

from operators.corpus.normalizers import normalize

Turn = Mapping[str, Any]
"""An entry of the `turns` column of CODES."""


def word_spans(turn: Turn) -> list[tuple[str, int, int]]:
    """Return a turn's words with start and end frame; where they have no times, by their share of the turn's letters.

    >>> word_spans({"start_frame": 100, "num_frames": 90, "text": "so it is", "words": []})
    [('so', 100, 130), ('it', 130, 160), ('is', 160, 190)]
    """
    if turn["words"]:
        return [(w["word"], w["start_frame"], w["start_frame"] + w["num_frames"]) for w in turn["words"]]
    words = (turn["text"] or turn["text_normalized"] or "").split()
    letters = sum(map(len, words))
    spans, spoken = [], 0
    for word in words:
        start, spoken = spoken, spoken + len(word)
        spans.append((word, *(turn["start_frame"] + round(turn["num_frames"] * n / letters) for n in (start, spoken))))
    return spans


def part_between(turn: Turn, start_frame: int, end_frame: int) -> Turn | None:
    """Return what lies in frames [start_frame, end_frame) of a turn; None where nothing does.

    A word belongs to the part that holds its middle. A part that holds no word has no text, but is speech all the same.
    """
    first, last = turn["start_frame"], turn["start_frame"] + turn["num_frames"]
    start, end = max(first, start_frame), min(last, end_frame)
    if (start, end) == (first, last):
        return turn
    if start >= end:
        return None
    kept = [i for i, (_, a, b) in enumerate(word_spans(turn)) if start_frame <= (a + b) / 2 < end_frame]
    spans = word_spans(turn)
    text = " ".join(spans[i][0] for i in kept)
    return {
        **turn,
        "start_frame": start,
        "num_frames": end - start,
        "text": text,
        "text_normalized": normalize(text),
        "words": [_within(turn["words"][i], start, end) for i in kept] if turn["words"] else [],
    }


def _within(word: Mapping[str, Any], start_frame: int, end_frame: int) -> dict[str, Any]:
    start = min(max(word["start_frame"], start_frame), end_frame - 1)
    end = max(start + 1, min(word["start_frame"] + word["num_frames"], end_frame))
    return {**word, "start_frame": start, "num_frames": end - start}
