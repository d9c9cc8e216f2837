"""Where a recording is cut to be transcribed: by its sound or by the clock, never by the reference unless asked.

The borders between windows say whose words count; a window's audio reaches beyond them where windows overlap.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from operators.documents.split_turns import Turn
from operators.documents.windows import windows
from operators.evaluate.options import Cut


@dataclass(frozen=True)
class Piece:
    """A window of a recording, in frames: its audio, and the part of it whose words count."""

    start: int
    end: int
    own_start: int
    own_end: int


def pieces(
    num_frames: int,
    length: int,
    *,
    back: int = 0,
    ahead: int = 0,
    cut: Cut = "quiet",
    levels: NDArray[np.uint8] | None = None,
    quiet_frames: int = 1,
    turns: Sequence[Turn] = (),
) -> list[Piece]:
    """Cut a recording into windows.

    Args:
        num_frames: of the recording.
        length: most frames of a window, overlap included.
        back: frames of audio before a window's own part.
        ahead: frames of audio after it.
        cut: how the borders are found.
        levels: (T,) of each frame in dB below full scale; for `quiet`, which is `fixed` without.
        quiet_frames: how long the quiet place is that is looked for.
        turns: of the reference; for `reference`.

    Raises:
        ValueError: the overlap leaves no frame of a window's own.

    >>> [(p.start, p.own_start, p.own_end, p.end) for p in pieces(250, 100, back=10, ahead=10, cut="fixed")]
    [(0, 0, 80, 90), (70, 80, 160, 170), (150, 160, 240, 250), (230, 240, 250, 250)]
    """
    own = length - back - ahead
    if own < 1:
        raise ValueError(f"windows of {length} frames that overlap by {back + ahead} have none of their own")
    if num_frames <= length:
        return [Piece(0, num_frames, 0, num_frames)]
    if cut == "reference":
        found = [(window.start_frame, window.end_frame) for window in windows(turns, num_frames, own, 0)]
    else:
        borders = [0]
        while num_frames - borders[-1] > own:
            last = borders[-1] + own
            if cut == "quiet" and levels is not None:
                last = _quietest(levels, borders[-1] + own * 2 // 3, last, quiet_frames)
            borders.append(last)
        found = list(itertools.pairwise([*borders, num_frames]))
    return [Piece(max(0, a - back), min(num_frames, b + ahead), a, b) for a, b in found]


def _quietest(levels: NDArray[np.uint8], first: int, last: int, quiet_frames: int) -> int:
    """Return the middle of the quietest stretch that lies in frames [first, last]; the latest of equals."""
    size = min(quiet_frames, last - first)
    if size < 1:
        return last
    power = 10.0 ** (-levels[first:last].astype(np.float64) / 10)
    means = np.convolve(power, np.full(size, 1.0 / size), mode="valid")
    best = len(means) - 1 - int(np.argmin(means[::-1]))
    return first + best + (size + 1) // 2
