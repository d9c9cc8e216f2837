"""Labels against sound: what is heard must be where the truth files say that it is.

The truth is written as RTTM and read back, as a user's tools would; each speaker's own sound is measured. A simulator
that wrote whole seconds, moved turns or mixed up speakers fails here, and the run stops.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from operators.corpus.annotations import rttm
from operators.errors import InputError
from operators.simulate.render import Render, roots_of
from operators.simulate.turn_taking import Segment, read_rttm

FRAME_S = 0.01
LONGEST_S = 600.0
"""Of a simulated conversation that is looked at."""
TOLERANCE_S = 0.05
"""How far sound may reach beyond its label, and how late it may begin."""
FLOOR_DB = -45.0
"""Below a turn's level: what counts as silence of its speaker."""
LEAST_SHARE = 0.005
"""Of a turn's frames that must sound: recordings may begin and end with silence, but are not all silence."""
LEAST_CONTRAST_DB = 0.0
"""By how much a recorded conversation must be louder where its labels say that somebody speaks: far-field recordings
are hardly louder there, but labels that belong elsewhere point at silence."""


@dataclass(frozen=True)
class Agreement:
    """How well labels and sound agree, over all speakers of a conversation."""

    outside_s: float
    """Sound farther than the tolerance from every label of its speaker."""
    silent_turns: int
    """Labels under which their speaker makes no sound."""
    late_s: float
    """The most by which a turn's sound begins before or ends after its label."""


def loudness_db(samples: NDArray[Any], rate_hz: int) -> NDArray[np.float64]:
    """Return the level (F,) of each hundredth of a second, in dB of full scale."""
    size = round(FRAME_S * rate_hz)
    frames = samples[: len(samples) // size * size].reshape(-1, size).astype(np.float64) / 32768
    return np.asarray(10 * np.log10(np.mean(frames**2, axis=1) + 1e-12))


def agreement(
    stems: Mapping[str, NDArray[np.int16]], segments: Sequence[Segment], rate_hz: int, level_dbfs: float
) -> Agreement:
    """Measure how well each speaker's own sound, without a room, agrees with labels.

    Args:
        stems: samples (N,) by speaker.
        segments: labels, in seconds.
        rate_hz: of the stems.
        level_dbfs: of a turn.
    """
    outside = late = 0.0
    silent = 0
    for speaker, samples in stems.items():
        sounds = loudness_db(samples, rate_hz) > level_dbfs + FLOOR_DB
        middle = (np.arange(len(sounds)) + 0.5) * FRAME_S
        near = np.zeros(len(sounds), bool)
        for segment in segments:
            if segment.speaker != speaker:
                continue
            inside = (middle > segment.start_s - FRAME_S) & (middle < segment.end_s + FRAME_S)
            near |= (middle > segment.start_s - TOLERANCE_S) & (middle < segment.end_s + TOLERANCE_S)
            silent += not inside.any() or sounds[inside].mean() < LEAST_SHARE
        stray = sounds & ~near
        outside += float(stray.sum()) * FRAME_S
        if stray.any():
            borders = np.array([t for s in segments if s.speaker == speaker for t in (s.start_s, s.end_s)] or [0.0])
            late = max(late, float(np.abs(middle[stray][:, None] - borders).min(1).max()))
    return Agreement(outside, silent, late)


def check_labels(conversations: pa.Table, render: Render) -> list[Agreement]:
    """Measure simulated conversations (rows of CONVERSATIONS, `with_roots`) and recorded ones.

    Raises:
        InputError: labels and sound disagree; names the conversation and by how much.
    """
    roots = roots_of(conversations)
    found = []
    for number, row in enumerate(conversations.to_pylist()):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "truth.rttm"
            path.write_text(rttm(conversations.slice(number, 1)), encoding="utf-8")
            segments = read_rttm([path]).get(row["conversation_id"], [])
        if row["origin"] == "recorded":
            _check_recorded(row, segments, render, roots)
            continue
        # Without room and noise: a room's ringing belongs to no label, and noise would drown what is looked for. Of
        # hours the first minutes are enough: every speaker's sound by itself would not fit in memory.
        limit = min(row["num_samples"], round(LONGEST_S * row["sample_rate_hz"]))
        turns = [turn for turn in row["turns"] if turn["start_sample"] + turn["num_samples"] <= limit]
        plain = {**row, "room": None, "noise_id": None, "turns": turns, "num_samples": limit}
        segments = [s for s in segments if s.end_s <= limit / row["sample_rate_hz"] + 1e-6]
        heard = replace(render, stems="anechoic").hear(plain, roots)
        level = render.level_dbfs + 20 * np.log10(heard.scale)
        gains = {turn["speaker"]: turn["gain_db"] for turn in turns}
        quietest = level + min(gains.values(), default=0.0)
        measured = agreement({s: x for s, _, x in heard.stems}, segments, row["sample_rate_hz"], quietest)
        if measured.outside_s > 0 or measured.silent_turns:
            raise InputError(
                f"labels and sound of {row['conversation_id']} disagree: {measured.outside_s:.2f} s of speech stand "
                f"outside their labels (by up to {measured.late_s:.2f} s), {measured.silent_turns} of "
                f"{len(turns)} turns are silent under theirs; this is a defect of the simulation or of its "
                "corpus's word times, and nothing was trained on it"
            )
        found.append(measured)
    return found


def _check_recorded(
    row: Mapping[str, Any], segments: Sequence[Segment], render: Render, roots: Mapping[str, Path]
) -> None:
    hz = row["sample_rate_hz"]
    loud = loudness_db(render.hear(row, roots).channels[0], hz)
    middle = (np.arange(len(loud)) + 0.5) * FRAME_S
    spoken = np.zeros(len(loud), bool)
    for segment in segments:
        spoken |= (middle >= segment.start_s) & (middle < segment.end_s)
    if spoken.sum() < 100 or (~spoken).sum() < 100:
        return  # a second of either is too little to tell
    contrast = float(np.median(loud[spoken]) - np.median(loud[~spoken]))
    if contrast < LEAST_CONTRAST_DB:
        raise InputError(
            f"labels and sound of recording {row['conversation_id']} disagree: it is {contrast:+.1f} dB louder where "
            "its labels say that somebody speaks than elsewhere; do they belong to this file, and do their times "
            "count from its start?"
        )
