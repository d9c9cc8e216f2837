"""Conversations and hypotheses as SegLST entries: what is scored against what.

A conversation is one session, and its speakers are followed through all of its windows; where windows were not joined,
each is a session of its own, with the part of every turn that lies in it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from operators.documents.split_turns import Turn, part_between

Windows = Mapping[str, Sequence[Mapping[str, int]]]
"""Windows of each conversation (`windows` of HYPOTHESES), by start."""


def windows_of(hypotheses: pa.Table) -> dict[str, list[dict[str, int]]]:
    """Return the windows in which conversations were transcribed (rows of HYPOTHESES)."""
    return {
        row["conversation_id"]: row["windows"] for row in hypotheses.select(["conversation_id", "windows"]).to_pylist()
    }


def _session(conversation_id: str, window: int | None) -> dict[str, Any]:
    if window is None:
        return {"session_id": conversation_id, "recording_id": conversation_id}
    return {"session_id": f"{conversation_id}/{window}", "recording_id": conversation_id, "window": window}


def reference_segments(codes: pa.Table, frame_rate_hz: float, apart: Windows | None = None) -> list[dict[str, Any]]:
    """Return the reference transcripts of conversations (rows of CODES) as SegLST entries, times in seconds.

    Text is as in the corpus: it is normalized when it is scored.

    Args:
        codes: the conversations.
        frame_rate_hz: of the codec.
        apart: windows that are sessions of their own, named `conversation/number`. A word belongs to the window whose
            own part holds its middle; words without times are where their letters would be.
    """
    entries = []
    for row in codes.select(["conversation_id", "turns"]).to_pylist():
        name = row["conversation_id"]
        for number, turns in _parts(row["turns"], (apart or {}).get(name, ())):
            for turn in turns:
                start_s, end_s = (
                    round((turn["start_frame"] + frames) / frame_rate_hz, 6) for frames in (0, turn["num_frames"])
                )
                entries.append(
                    {
                        **_session(name, number),
                        "speaker": turn["speaker"],
                        "start_time": start_s,
                        "end_time": end_s,
                        "words": turn["text"] or turn["text_normalized"],
                    }
                )
    return entries


def _parts(
    turns: Sequence[Turn], windows: Sequence[Mapping[str, int]]
) -> list[tuple[int | None, Sequence[Turn | Mapping[str, Any]]]]:
    if len(windows) <= 1:
        return [(None, turns)]
    found: list[tuple[int | None, Sequence[Turn]]] = []
    for number, window in enumerate(windows):
        start = window["own_start_frame"]
        parts = (part_between(turn, start, start + window["own_num_frames"]) for turn in turns)
        found.append((number, [part for part in parts if part is not None]))
    return found


def hypothesis_segments(
    hypotheses: pa.Table, frame_rate_hz: float, *, is_timed: bool, apart: bool = False
) -> list[dict[str, Any]]:
    """Return hypotheses (rows of HYPOTHESES) as SegLST entries, times in seconds.

    Args:
        hypotheses: of one checkpoint.
        frame_rate_hz: of the codec.
        is_timed: whether the task predicts times. Entries have none where it does not; where it does and one is
            missing, as at the end of an answer that was cut, the turn starts or ends with its window.
        apart: whether each window is a session of its own.
    """
    entries = []
    for row in hypotheses.to_pylist():
        is_apart = apart and len(row["windows"]) > 1
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
                    **_session(row["conversation_id"], turn["window"] if is_apart else None),
                    "speaker": turn["tag"] if is_apart else turn["speaker"],
                    **times,
                    "words": turn["text"],
                }
            )
    return entries
