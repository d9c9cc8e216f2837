"""Silences: stretches of a conversation that its windows leave out, from which a model learns to write nothing."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from operators.documents.windows import Window
from operators.rng import rng

_SHORTEST = 8
"""A silence shorter than a window's length over this makes no window."""


def silences(row: Mapping[str, Any], windows: Sequence[Window], length: int) -> list[Window]:
    """Return windows without turns: the stretches between a conversation's windows, cut to a window's length.

    No turn reaches into them, transcribed or not. What comes before the first turn of a recording and after its last is
    left out: it may be speech that nobody has annotated.

    Args:
        row: of CODES.
        windows: of the conversation.
        length: frames of a window at most.

    >>> from operators.documents.windows import windows as cut
    >>> talk = [{"start_frame": s, "num_frames": 40} for s in (0, 400)]
    >>> row = {"origin": "simulated", "num_frames": 600}
    >>> [(w.start_frame, w.end_frame) for w in silences(row, cut(talk, 600, 100, 0), 100)]
    [(100, 200), (200, 300), (300, 340), (440, 540), (540, 600)]
    """
    spans = sorted((window.start_frame, window.end_frame) for window in windows)
    edges = spans if row["origin"] == "recorded" else [(0, 0), *spans, (row["num_frames"], row["num_frames"])]
    ends = itertools.accumulate((end for _, end in edges), max)
    gaps = [(end, start) for end, (start, _) in zip(ends, edges[1:], strict=False)]
    pieces = [(start, min(start + length, stop)) for begin, stop in gaps for start in range(begin, stop, length)]
    return [Window(start, end, (), ()) for start, end in pieces if (end - start) * _SHORTEST >= length]


def chosen(conversation_id: str, number: int, num_windows: int, share: float, seed: int) -> list[int]:
    """Return which of a conversation's silences make documents, so that they are at most a share of all on average.

    Args:
        conversation_id: address of the draws.
        number: of silences.
        num_windows: windows with speech.
        share: of all documents.
        seed: of the draws.

    >>> [len(chosen("c0", 40, 40, share, 0)) for share in (0.0, 0.2, 0.9)]
    [0, 10, 40]
    """
    wanted = share / (1.0 - share) * num_windows
    return [i for i in range(number) if rng(seed, "silence", f"{conversation_id}/{i}").random() * number < wanted]
