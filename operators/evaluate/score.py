"""Scores hypotheses against references: cpWER and tcpWER by meeteval, with bootstrap intervals over conversations.

Speakers are numbered anew in each window of a conversation, so each window is scored as a session of its own. A
hypothesis with the right words and the right changes of speaker in every window scores 0, however many windows there
are; whether speakers are recognized from one window to the next is not scored.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from operators.corpus.normalizers import normalize
from operators.scoring.word_errors import COLLAR_S, WordErrors, cpwer, tcpwer

__all__ = ["COLLAR_S", "WordErrors", "cpwer", "hypothesis_segments", "reference_segments", "tcpwer", "windows_of"]


Windows = Mapping[str, Sequence[Mapping[str, int]]]
"""Windows of each conversation: their `start_frame` and `num_frames`, by start."""


def windows_of(hypotheses: pa.Table) -> dict[str, list[dict[str, int]]]:
    """Return the windows in which conversations were transcribed (rows of HYPOTHESES)."""
    return {
        row["conversation_id"]: row["windows"] for row in hypotheses.select(["conversation_id", "windows"]).to_pylist()
    }


def _session(conversation_id: str, windows: Windows, window: int) -> dict[str, Any]:
    if len(windows.get(conversation_id, ())) <= 1:
        return {"session_id": conversation_id, "recording_id": conversation_id}
    return {"session_id": f"{conversation_id}/{window}", "recording_id": conversation_id, "window": window}


def reference_segments(codes: pa.Table, frame_rate_hz: float, windows: Windows) -> list[dict[str, Any]]:
    """Return the reference transcripts of conversations (rows of CODES) as SegLST entries, times in seconds.

    A turn belongs to the last window that starts no later than it, so windows must not overlap. The session of a window
    is named `conversation/number` where there are several.
    """
    entries = []
    for row in codes.select(["conversation_id", "turns"]).to_pylist():
        name = row["conversation_id"]
        starts = [window["start_frame"] for window in windows.get(name, ())]
        for turn in row["turns"]:
            start_s, end_s = (
                round((turn["start_frame"] + frames) / frame_rate_hz, 6) for frames in (0, turn["num_frames"])
            )
            window = max((i for i, first in enumerate(starts) if first <= turn["start_frame"]), default=0)
            entries.append(
                {
                    **_session(name, windows, window),
                    "speaker": turn["speaker"],
                    "start_time": start_s,
                    "end_time": end_s,
                    "words": turn["text_normalized"],
                }
            )
    return entries


def hypothesis_segments(hypotheses: pa.Table, frame_rate_hz: float, *, is_timed: bool) -> list[dict[str, Any]]:
    """Return hypotheses (rows of HYPOTHESES) as SegLST entries, times in seconds.

    Args:
        hypotheses: of one checkpoint.
        frame_rate_hz: of the codec.
        is_timed: whether the task predicts times. Entries have none where it does not; where it does and one is
            missing, as at the end of an answer that was cut, the turn starts or ends with its window.
    """
    windows = windows_of(hypotheses)
    entries = []
    for row in hypotheses.to_pylist():
        for turn in row["turns"]:
            times = {}
            if is_timed:
                window = row["windows"][turn["window"]]
                first, last = (
                    round((window["start_frame"] + frames) / frame_rate_hz, 6) for frames in (0, window["num_frames"])
                )
                start_s = first if turn["start_s"] is None else turn["start_s"]
                end_s = last if turn["end_s"] is None else turn["end_s"]
                times = {"start_time": start_s, "end_time": max(start_s, end_s)}
            entries.append(
                {
                    **_session(row["conversation_id"], windows, turn["window"]),
                    "speaker": turn["speaker"],
                    **times,
                    "words": normalize(turn["text"]),
                }
            )
    return entries
