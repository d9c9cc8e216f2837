"""Backchannels: short turns of listeners inside the turns of others, in words of their own utterances."""

from dataclasses import replace

import numpy as np

from operators.simulate import backchannel_kernels as kernels
from operators.simulate.pieces import Floats, Ints, Pieces, PlannedConversation, Utterances
from operators.simulate.priors.liveliness import host_dispersion
from operators.simulate.priors.prior import Prior
from operators.simulate.timing.timing import BACKCHANNEL

LONGEST_S = 1.9
"""Longest utterance without word times that can be a backchannel, in seconds."""
_DRAWS = 12
"""Uniform draws per backchannel: see `backchannel_kernels.backchannels`."""


def add_backchannels(
    planned: PlannedConversation,
    utterances: Utterances,
    rows: Ints,
    speaker_of: Ints,
    prior: Prior,
    chattiness: float,
    min_own_pause_s: float,
    draw: np.random.Generator,
) -> PlannedConversation:
    """Return a conversation with the backchannels of its listeners.

    Args:
        planned: the conversation's turns.
        utterances: of the batch.
        rows: (N,) the conversation's utterances, sorted by speaker.
        speaker_of: (N,) their speakers.
        prior: rates and lengths of backchannels.
        chattiness: the conversation's factor on the rates.
        min_own_pause_s: least silence between two turns of one speaker.
        draw: the conversation's generator.
    """
    rate_hz, num_speakers = utterances.rate_hz, len(planned.gains_db)
    words, owner = utterances.word_spans(rows, speaker_of)
    timed = utterances.word_begins[rows + 1] > utterances.word_begins[rows]
    brief = np.flatnonzero(~timed & (utterances.num_samples[rows] <= LONGEST_S * rate_hz))
    whole = np.stack([rows[brief], utterances.num_samples[rows[brief]] / rate_hz], axis=1)
    speakers = np.arange(num_speakers + 1)
    limit = 4 * len(planned.start) + 8
    first, end, speaker, _, begin_s, _, missed = kernels.backchannels(
        planned.who,
        planned.kind,
        planned.start / rate_hz,
        planned.pieces.num_samples / rate_hz,
        num_speakers,
        draw.random((limit, _DRAWS)),
        np.array(prior.backchannels_per_host) * chattiness,
        np.array(prior.backchannels_after),
        host_dispersion(prior),
        np.array(prior.backchannel_s),
        np.array(prior.backchannel_onset),
        words,
        np.searchsorted(owner, speakers),
        whole,
        np.searchsorted(speaker_of[brief], speakers),
        min_own_pause_s,
        limit,
    )
    return replace(
        planned,
        pieces=planned.pieces.append(_pieces(first, end, words, whole, utterances, rows)),
        start=np.concatenate([planned.start, np.rint(begin_s * rate_hz).astype(np.int64)]),
        who=np.concatenate([planned.who, speaker]),
        kind=np.concatenate([planned.kind, np.full(len(first), BACKCHANNEL, np.int8)]),
        num_dropped=planned.num_dropped + int(missed),
    )


def _pieces(first: Ints, end: Ints, words: Floats, whole: Floats, utterances: Utterances, rows: Ints) -> Pieces:
    """Return the pieces (B,) that backchannels are made of.

    Args:
        first: (B,) first word in `words`; -1 for a whole utterance.
        end: (B,) word after the last one in `words`, or the row of `whole`.
        words: (W, 3) utterance, start and end in seconds of every word.
        whole: (N, 2) utterance and length in seconds of those without word times.
        utterances: of the batch.
        rows: the conversation's utterances, in the order of `words`.
    """
    parts = first >= 0
    utterance = np.where(parts, words[np.maximum(first, 0) % max(1, len(words)), 0] if len(words) else -1, -1)
    utterance[~parts] = whole[end[~parts], 0]
    utterance = utterance.astype(np.int64)
    # Words are numbered from the beginning of their utterance.
    begins = utterances.word_begins
    order = np.concatenate([np.arange(begins[row], begins[row + 1]) for row in rows.tolist()])
    inside = order - begins[words[:, 0].astype(np.int64)] if len(words) else order
    first_word = np.where(parts, inside[np.maximum(first, 0) % max(1, len(inside))] if len(inside) else -1, -1)
    end_word = np.where(parts, first_word + end - first, -1)
    lengths = [
        utterances.length(row, begin, stop) if begin >= 0 else int(utterances.num_samples[row])
        for row, begin, stop in zip(utterance.tolist(), first_word.tolist(), end_word.tolist(), strict=True)
    ]
    return Pieces(utterance, first_word, end_word, np.array(lengths, np.int64))
