"""Scores generated recordings: what a recognizer hears of them, whose voice it is, how long they are, who speaks when.

A recording becomes a SegLST entry: the words that a recognizer heard, its length (`audio_s`) and its likeness to the
wanted voice (`similarity`). From there on it is a hypothesis as any other, and scored as those are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.errors import InputError
from operators.evaluate.generated.speakers import SpeakerEncoder, similarity
from operators.evaluate.generated.timing import timing_scores, timings_of
from operators.evaluate.recognize import words_of
from operators.evaluate.recognizers import Recognizer
from operators.scoring.measures import MEASURES
from operators.scoring.result import GeneratedConditions, GeneratedScores
from operators.scoring.score import Entries, measure, scores_of

GENERATED_MEASURES = ("wer", "cer", *(name for name, one in MEASURES.items() if one.needs_audio))
"""What is measured of generated recordings, besides the timing of dialogues."""


@dataclass(frozen=True)
class Judges:
    """What listens to recordings."""

    recognizer: Recognizer | None = None
    language: str | None = None
    """Of the recordings; the recognizer detects it, if it can, where None."""
    encoder: SpeakerEncoder | None = None


def heard(
    session_id: str,
    samples: NDArray[np.float32],
    rate_hz: int,
    length_s: float,
    judges: Judges,
    voice: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Return what is heard in a generated recording, as a SegLST entry.

    Args:
        session_id: of the recording.
        samples: (N,) in [-1, 1]; none for a recording without samples.
        rate_hz: of the samples, and of the voice's.
        length_s: of the recording in seconds, at its own rate.
        judges: recognizer and speaker encoder.
        voice: samples (M,) of the wanted voice.
    """
    entry: dict[str, Any] = {"session_id": session_id, "speaker": "generated", "audio_s": length_s}
    if judges.recognizer is None:
        entry |= {"start_time": 0.0, "end_time": length_s}  # an entry without words has times
    else:
        pcm = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
        entry["words"] = words_of(judges.recognizer, pcm, rate_hz, judges.language)
    if judges.encoder is not None and voice is not None:
        entry["similarity"] = similarity(judges.encoder, samples, voice, rate_hz) if len(samples) else 0.0
    return entry


def score_generated(
    reference: Entries,
    recordings: Entries,
    conditions: GeneratedConditions,
    *,
    turns: Entries = (),
    reasons: Mapping[str, str] | None = None,
    columns: Mapping[str, Mapping[str, Any]] | None = None,
    by: Sequence[str] = (),
    num_worst: int = 20,
) -> GeneratedScores:
    """Return all scores of generated recordings.

    Args:
        reference: SegLST entries of what was wanted: session_id, speaker and words; start_time and end_time in seconds,
            or audio_s, where a length was wanted.
        recordings: what `heard` returns of each recording.
        conditions: recognizer, speaker encoder, normalizer, seed and measures.
        turns: SegLST entries of who speaks when in the recordings; without, their timing is not scored.
        reasons: why a measure was not taken, by its name; others are found here.
        columns: more columns of sessions.
        by: columns to slice by.
        num_worst: how many of the sessions with the most word errors are aligned.

    Raises:
        InputError: an entry is malformed, sides have no session in common, or a measure or column is unknown.
    """
    names = conditions.measures or GENERATED_MEASURES
    if unknown := [name for name in names if name not in GENERATED_MEASURES]:
        raise InputError(
            f"measure {unknown[0]} is none of generated recordings; choose from {', '.join(GENERATED_MEASURES)}"
        )
    measured = measure(reference, recordings, replace(conditions, measures=tuple(names)), columns=columns)
    known = {**measured.left_out, **{name: why for name, why in (reasons or {}).items() if name in names}}
    sounds = [session.sound for session in measured.sessions if session.sound is not None]
    lengths = [name for name in names if name.startswith("duration")]
    if not any(sound.wanted_s for sound in sounds):
        known |= dict.fromkeys(lengths, "the reference has neither times nor audio_s in any session")
    if "speaker_similarity" in names and not any(sound.similarity is not None for sound in sounds):
        known.setdefault("speaker_similarity", "no recording was compared with a voice")
    counts = {name: found for name, found in measured.counts.items() if name not in known}
    found = scores_of(replace(measured, counts=counts, left_out=known), by, num_worst)
    made, wanted = timings_of(turns), timings_of(reference)
    made = {name: segments for name, segments in made.items() if name in wanted}
    values = {name: getattr(found, name) for name in found.__dataclass_fields__}
    if not made:
        if wanted and max(len({segment.speaker for segment in own}) for own in wanted.values()) > 1:
            why = "no session of the reference's has times there" if turns else "--turns says who speaks when in them"
            values["left_out"] = {**known, "timing": f"the generated recordings have no times: {why}"}
        return GeneratedScores(**values)
    figures, left_out, card = timing_scores(made, wanted, measured.sessions, measured.conditions)
    values |= {"figures": (*found.figures, *figures), "left_out": {**known, **left_out}}
    return GeneratedScores(**values, timing=card)
