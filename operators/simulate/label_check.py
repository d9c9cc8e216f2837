"""Checks labels against audio: speech must be where the exported labels say it is.

Labels are written as RTTM and read back, as a user's tools would; each speaker's own signal is measured. A simulator
that wrote whole seconds, moved turns or confused speakers fails this check, and the run stops.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from operators.corpus.annotations import names_in_fields, rttm
from operators.corpus.segments import Segment, read_rttm
from operators.corpus.sources import roots_of
from operators.errors import InputError
from operators.simulate.render import Render

FRAME_S = 0.01
LONGEST_S = 600.0
"""Length checked of a simulated conversation, in seconds."""
TOLERANCE_S = 0.05
"""How far a speaker's signal may extend beyond its label, in seconds."""
FLOOR_DB = -45.0
"""Level relative to a turn's up to which a frame counts as silence."""
LEAST_SHARE = 0.005
"""Least share of a turn's frames that must not be silent: recordings begin and end with silence."""
LEAST_CONTRAST_DB = 0.0
"""By how much a recorded conversation must be louder inside its labels than outside: far-field recordings are hardly
louder there, but the labels of another recording point at silence."""


@dataclass(frozen=True)
class Agreement:
    """How well labels and audio agree, over all speakers of a conversation."""

    outside_s: float
    """Speech farther than the tolerance from every label of its speaker, in seconds."""
    silent_turns: int
    """Number of labels during which their speaker is silent."""
    late_s: float
    """The most by which speech begins before or ends after its label, in seconds."""


def loudness_db(samples: NDArray[Any], rate_hz: int) -> NDArray[np.float64]:
    """Return the level (F,) in dBFS of each 10 ms frame of 16-bit samples (N,)."""
    size = round(FRAME_S * rate_hz)
    frames = samples[: len(samples) // size * size].reshape(-1, size).astype(np.float64) / 32768
    return np.asarray(10 * np.log10(np.mean(frames**2, axis=1) + 1e-12))


def agreement(
    stems: Mapping[str, NDArray[np.int16]], segments: Sequence[Segment], rate_hz: int, level_dbfs: float
) -> Agreement:
    """Measure how well each speaker's own signal, without a room, agrees with labels.

    Args:
        stems: 16-bit samples (N,) of each speaker.
        segments: labels, in seconds.
        rate_hz: sample rate of the stems.
        level_dbfs: level of the quietest turn.
    """
    outside = late = 0.0
    silent = 0
    for speaker, samples in stems.items():
        active = loudness_db(samples, rate_hz) > level_dbfs + FLOOR_DB
        middle = (np.arange(len(active)) + 0.5) * FRAME_S
        near = np.zeros(len(active), bool)
        for segment in segments:
            if segment.speaker != speaker:
                continue
            inside = (middle > segment.start_s - FRAME_S) & (middle < segment.end_s + FRAME_S)
            near |= (middle > segment.start_s - TOLERANCE_S) & (middle < segment.end_s + TOLERANCE_S)
            silent += not inside.any() or active[inside].mean() < LEAST_SHARE
        stray = active & ~near
        outside += float(stray.sum()) * FRAME_S
        if stray.any():
            borders = np.array([t for s in segments if s.speaker == speaker for t in (s.start_s, s.end_s)] or [0.0])
            late = max(late, float(np.abs(middle[stray][:, None] - borders).min(1).max()))
    return Agreement(outside, silent, late)


def check_labels(conversations: pa.Table, render: Render) -> list[Agreement]:
    """Check the labels of conversations against their audio; return the agreement of each simulated one.

    Args:
        conversations: rows of CONVERSATIONS, from `with_roots`.
        render: the operator that renders them.

    Raises:
        InputError: labels and audio disagree; names the conversation and by how much.
    """
    roots = roots_of(conversations)
    found = []
    for number, row in enumerate(conversations.to_pylist()):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "truth.rttm"
            labels = conversations.slice(number, 1)
            path.write_text(rttm(labels), encoding="utf-8")
            segments = _as_named(read_rttm([path]), *names_in_fields(labels), row["conversation_id"])
        if row["turns"] and not segments:
            raise InputError(
                f"labels of {row['conversation_id']} cannot be read back from RTTM; this is a defect of how they are "
                "written, and nothing was trained on them"
            )
        if row["origin"] == "recorded":
            _check_recorded(row, segments, render, roots)
            continue
        # Without room and noise: reverberation belongs to no label, and noise would mask silence. The first minutes
        # are enough: the stems of hours would not fit in memory.
        limit = min(row["num_samples"], round(LONGEST_S * row["sample_rate_hz"]))
        turns = [turn for turn in row["turns"] if turn["start_sample"] + turn["num_samples"] <= limit]
        plain = {**row, "room": None, "noise_id": None, "background": None, "turns": turns, "num_samples": limit}
        segments = [s for s in segments if s.end_s <= limit / row["sample_rate_hz"] + 1e-6]
        rendered = replace(render, stems="anechoic").render_conversation(plain, roots)
        level = render.level_dbfs + 20 * np.log10(rendered.scale)
        gains = {turn["speaker"]: turn["gain_db"] for turn in turns}
        quietest = level + min(gains.values(), default=0.0)
        if row["mixing"]:
            quietest = _level_of_turns(rendered.stems, turns)
        measured = agreement({s: x for s, _, x in rendered.stems}, segments, row["sample_rate_hz"], quietest)
        if measured.outside_s > 0 or measured.silent_turns:
            raise InputError(
                f"labels and audio of {row['conversation_id']} disagree: {measured.outside_s:.2f} s of speech are "
                f"outside their labels (by up to {measured.late_s:.2f} s), and {measured.silent_turns} of "
                f"{len(turns)} turns are silent; this is a defect of the simulation or of the corpus's word times, "
                "and nothing was trained on it"
            )
        found.append(measured)
    return found


def _as_named(
    read: Mapping[str, Sequence[Segment]], sessions: Mapping[str, str], speakers: Mapping[str, str], name: str
) -> list[Segment]:
    """Return a conversation's segments, its speakers called as they are called elsewhere."""
    called = {field: speaker for speaker, field in speakers.items()}
    return [replace(one, speaker=called.get(one.speaker, one.speaker)) for one in read.get(sessions[name], [])]


def _level_of_turns(stems: Sequence[tuple[str, str, NDArray[np.int16]]], turns: Sequence[Mapping[str, Any]]) -> float:
    """Return the median level in dBFS of the turns of a given mixture, whose speakers have levels of their own."""
    sound = {speaker: samples for speaker, _, samples in stems}
    levels = [
        10 * np.log10(np.mean((sound[t["speaker"]][t["start_sample"] :][: t["num_samples"]] / 32768.0) ** 2) + 1e-12)
        for t in turns
    ]
    return float(np.median(levels)) if levels else 0.0


def _check_recorded(
    row: Mapping[str, Any], segments: Sequence[Segment], render: Render, roots: Mapping[str, Path]
) -> None:
    """Raise InputError where a recorded conversation is not louder inside its labels than outside."""
    hz = row["sample_rate_hz"]
    loud = loudness_db(render.render_conversation(row, roots).channels[0], hz)
    middle = (np.arange(len(loud)) + 0.5) * FRAME_S
    spoken = np.zeros(len(loud), bool)
    for segment in segments:
        spoken |= (middle >= segment.start_s) & (middle < segment.end_s)
    if spoken.sum() < 100 or (~spoken).sum() < 100:
        return  # less than a second of either is too little to compare
    contrast = float(np.median(loud[spoken]) - np.median(loud[~spoken]))
    if contrast < LEAST_CONTRAST_DB:
        raise InputError(
            f"labels and audio of recording {row['conversation_id']} disagree: it is {contrast:+.1f} dB louder inside "
            "its labels than outside; check that they belong to this file and that their times count from its start"
        )
