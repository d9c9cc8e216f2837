"""Scores hypotheses against references: cpWER by meeteval, with a bootstrap interval over conversations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from operators.corpus.normalizers import normalize
from operators.rng import rng


@dataclass(frozen=True, kw_only=True)
class WordErrors:
    """A word error rate and its components."""

    rate: float
    """Errors divided by reference words, both summed over conversations; never a mean of rates."""
    low: float
    """2.5th percentile of the rate over resampled conversations."""
    high: float
    """97.5th percentile of that rate."""
    errors: int
    reference_words: int
    insertions: int
    deletions: int
    substitutions: int
    num_conversations: int


def reference_segments(codes: pa.Table, frame_rate_hz: float) -> list[dict[str, Any]]:
    """Return the reference transcripts of conversations (rows of CODES) as SegLST entries, times in seconds."""
    return [
        {
            "session_id": row["conversation_id"],
            "speaker": turn["speaker"],
            "start_time": round(turn["start_frame"] / frame_rate_hz, 6),
            "end_time": round((turn["start_frame"] + turn["num_frames"]) / frame_rate_hz, 6),
            "words": turn["text_normalized"],
        }
        for row in codes.select(["conversation_id", "turns"]).to_pylist()
        for turn in row["turns"]
    ]


def hypothesis_segments(hypotheses: pa.Table) -> list[dict[str, Any]]:
    """Return hypotheses (rows of HYPOTHESES) as SegLST entries; a turn's index is used as its time."""
    return [
        {
            "session_id": row["conversation_id"],
            "speaker": turn["speaker"],
            "start_time": float(index),
            "end_time": float(index + 1),
            "words": normalize(turn["text"]),
        }
        for row in hypotheses.to_pylist()
        for index, turn in enumerate(row["turns"])
    ]


def cpwer(reference: Sequence[Mapping[str, Any]], hypothesis: Sequence[Mapping[str, Any]], seed: int = 0) -> WordErrors:
    """Return the concatenated minimum-permutation word error rate of SegLST entries.

    The words of a conversation that the hypothesis lacks count as deleted.

    Source: Watanabe et al. 2020, "CHiME-6 Challenge", section 3.1; by meeteval.

    >>> def entries(*turns): return [{"session_id": "a", "speaker": who, "words": words} for who, words in turns]
    >>> cpwer(entries(("x", "good day"), ("y", "hi")), entries(("s0", "hi"), ("s1", "good"))).errors
    1
    """
    import meeteval

    sessions = sorted({entry["session_id"] for entry in reference})
    present = {entry["session_id"] for entry in hypothesis}
    empty = [{"session_id": s, "speaker": "s0", "words": ""} for s in sessions if s not in present]
    keep = ("session_id", "speaker", "words")
    sides = [
        meeteval.io.SegLST([{name: entry[name] for name in keep} for entry in entries])
        for entries in (reference, [*hypothesis, *empty])
    ]
    # Entries are in order of time already.
    scores = meeteval.wer.cpwer(sides[0], sides[1], reference_sort=False, hypothesis_sort=False)
    parts = np.array(
        [
            [s.errors, s.length, s.insertions, s.deletions, s.substitutions]
            for s in (scores[session] for session in sessions)
        ],
        dtype=np.int64,
    ).reshape(-1, 5)
    errors, words, insertions, deletions, substitutions = (int(value) for value in parts.sum(axis=0))
    draws = rng(seed, "bootstrap", "cpwer").integers(0, len(parts), size=(1000, len(parts)))
    sums = parts[draws, :2].sum(axis=1)
    rates = sums[:, 0] / np.maximum(sums[:, 1], 1)
    return WordErrors(
        rate=errors / max(words, 1),
        low=float(np.percentile(rates, 2.5)),
        high=float(np.percentile(rates, 97.5)),
        errors=errors,
        reference_words=words,
        insertions=insertions,
        deletions=deletions,
        substitutions=substitutions,
        num_conversations=len(sessions),
    )
