"""Windows: pieces of a conversation, cut at silences, each of which becomes one document per task."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from operators.errors import UnusableRowError

Turn = Mapping[str, Any]
"""An entry of the `turns` column of CODES."""


@dataclass(frozen=True)
class Window:
    """A piece of a conversation: frames [start_frame, end_frame), turns carried over, and turns that are new."""

    start_frame: int
    end_frame: int
    carried: tuple[Turn, ...]
    """Turns of the window before that are in this one's audio again; their text is part of the prompt."""
    turns: tuple[Turn, ...]
    """Turns that are new in this window; their text is the target of a transcription."""


def windows(turns: Sequence[Turn], num_frames: int, length: int, overlap: int) -> list[Window]:
    """Cut a conversation into windows, only where no one speaks.

    Args:
        turns: by start, with start_frame and num_frames.
        num_frames: of the whole conversation.
        length: frames of a window at most.
        overlap: frames that a window may reach back before its first new turn. Turns that lie wholly within them are
            carried over: their audio is repeated and their text is given in the prompt, so that tags stay the same.

    Raises:
        UnusableRowError: turns that overlap each other without a pause are longer than a window.

    >>> talk = [{"start_frame": s, "num_frames": 40} for s in (0, 50, 100)]
    >>> [(w.start_frame, w.end_frame, len(w.carried), len(w.turns)) for w in windows(talk, 150, 100, 60)]
    [(0, 95, 0, 2), (45, 145, 1, 1)]
    """
    if num_frames <= length:
        return [Window(0, num_frames, (), tuple(turns))]
    islands = _islands(turns)
    # Cut in the middle of the silence between two islands.
    cuts = [0, *((a[1] + b[0]) // 2 for a, b in itertools.pairwise(islands)), num_frames]
    found: list[Window] = []
    first = 0
    while first < len(islands):
        back = first
        while back > 0 and cuts[first] - cuts[back - 1] <= overlap:
            back -= 1
        while back < first and islands[first][1] - cuts[back] > length:
            back += 1  # carry less where the new turns would not fit
        start = cuts[back]
        if islands[first][1] - start > length:
            start = islands[first][1] - length  # drop silence rather than speech
            if start > islands[first][0]:
                frames = islands[first][1] - islands[first][0]
                raise UnusableRowError(
                    f"{frames} frames of speech without a pause do not fit into a window of {length}"
                )
        last = first
        while last + 1 < len(islands) and islands[last + 1][1] - start <= length:
            last += 1
        end = min(cuts[last + 1], start + length)
        carried = tuple(turn for island in islands[back:first] for turn in island[2])
        found.append(Window(start, end, carried, tuple(t for island in islands[first : last + 1] for t in island[2])))
        first = last + 1
    return found


def _islands(turns: Sequence[Turn]) -> list[tuple[int, int, list[Turn]]]:
    """Return the stretches (start, end, turns) throughout which at least one speaker speaks."""
    islands: list[tuple[int, int, list[Turn]]] = []
    for turn in turns:
        start, end = turn["start_frame"], turn["start_frame"] + turn["num_frames"]
        if islands and start < islands[-1][1]:
            islands[-1] = (islands[-1][0], max(end, islands[-1][1]), [*islands[-1][2], turn])
        else:
            islands.append((start, end, [turn]))
    return islands
