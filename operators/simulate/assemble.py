"""Planned conversations to a table of CONVERSATIONS: the columns of all turns of a batch at once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from operators.corpus.normalizers import normalize
from operators.schema import CONVERSATIONS, TURN
from operators.simulate.pieces import Ints, PlannedConversation, Utterances
from operators.simulate.timing.timing import BACKCHANNEL, GAP, OVERLAP, TRANSITIONS

_FROM_UTTERANCE = (
    "utterance_id",
    "speaker",
    "corpus",
    "audio",
    "byte_offset",
    "byte_length",
    "channel",
    "source_rate_hz",
    "gender",
    "language",
    "licence",
)


@dataclass(frozen=True)
class _Turns:
    """The turns (T,) of all conversations of a batch, by conversation and start; times in samples of the timeline."""

    conversation: Ints
    borders: Ints
    """(C + 1,) first turn of each conversation."""
    row: Ints
    """The utterance."""
    first: Ints
    """First word of a part of an utterance; -1 for a whole one."""
    end: Ints
    start: Ints
    length: Ints
    kind: NDArray[np.int8]
    gain_db: NDArray[np.float64]

    @property
    def parts(self) -> NDArray[np.bool_]:
        """Whether each turn is a part of an utterance."""
        return self.first >= 0

    @staticmethod
    def of(planned: list[PlannedConversation]) -> "_Turns":
        """Return the turns of some conversations."""
        sizes = [len(p.start) for p in planned]
        conversation = np.repeat(np.arange(len(planned)), sizes)
        start = _concatenated([p.start for p in planned])
        order = np.lexsort((start, conversation))
        row, first, end, length = (
            _concatenated([getattr(p.pieces, name) for p in planned])[order]
            for name in ("utterance", "first_word", "end_word", "num_samples")
        )
        kind = np.concatenate([np.zeros(0, np.int8), *(p.kind for p in planned)])[order]
        gain_db = np.concatenate([np.zeros(0), *(p.gains_db[p.who] for p in planned)])[order]
        borders = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
        return _Turns(conversation, borders, row, first, end, start[order], length, kind, gain_db)


def conversations_table(
    casts: list[dict[str, Any]], planned: list[PlannedConversation], utterances: Utterances
) -> pa.Table:
    """Return a table of CONVERSATIONS.

    Args:
        casts: rows of CASTS, without their utterances.
        planned: the turns of each.
        utterances: of the batch.
    """
    turns = _Turns.of(planned)
    ends = np.zeros(len(planned), np.int64)
    np.maximum.at(ends, turns.conversation, turns.start + turns.length)
    # Speakers by arrival: in the order of their first turns.
    arrivals = [
        list(dict.fromkeys(cast["speakers"][who] for who in p.who[np.argsort(p.start, kind="stable")]))
        for cast, p in zip(casts, planned, strict=True)
    ]
    number, rate_hz = len(planned), utterances.rate_hz
    unknown: tuple[str, ...] = ("recording", "room", "noise_id", "noise_audio", "noise_start_sample", "snr_db")
    unknown += ("mixing", "background", "user_columns")
    values: dict[str, Any] = {
        "conversation_id": [cast["conversation_id"] for cast in casts],
        "origin": ["simulated"] * number,
        "split": [cast["split"] for cast in casts],
        "seed": [cast["seed"] for cast in casts],
        "sample_rate_hz": [rate_hz] * number,
        "num_samples": ends + rate_hz // 5,  # 0.2 s after the last word
        "speakers": arrivals,
        "enrolments": [cast["enrolments"] for cast in casts],
        **{name: [None] * number for name in unknown},
        "num_clipped_offsets": [p.num_clipped for p in planned],
        "num_dropped_pieces": [p.num_dropped for p in planned],
    }
    arrays = {name: pa.array(value, CONVERSATIONS.field(name).type) for name, value in values.items()}
    arrays["turns"] = pa.ListArray.from_arrays(pa.array(turns.borders.astype(np.int32)), _turn_array(turns, utterances))
    return pa.table([arrays[name] for name in CONVERSATIONS.names], schema=CONVERSATIONS)


def _turn_array(turns: _Turns, utterances: Utterances) -> pa.StructArray:
    """Return the turns (T,) as a struct array of TURN."""
    taken = utterances.rows.take(pa.array(turns.row))
    offset, kind = _offsets(turns)
    source_start = taken.field("source_start_sample").to_numpy(zero_copy_only=False).astype(np.int64).copy()
    source_length = utterances.source_length[turns.row].copy()
    shift = np.zeros(len(turns.row), np.int64)
    texts, normalized = taken.field("text"), taken.field("text_normalized")
    if turns.parts.any():
        words = utterances.words.field("word").to_pylist()
        text_list, normalized_list = texts.to_pylist(), normalized.to_pylist()
        for turn in np.flatnonzero(turns.parts).tolist():
            row, first, end = int(turns.row[turn]), int(turns.first[turn]), int(turns.end[turn])
            low = int(utterances.word_begins[row])
            shift[turn], source_length[turn] = utterances.span(row, first, end)
            source_start[turn] += shift[turn]
            text_list[turn] = " ".join(words[low + first : low + end])
            normalized_list[turn] = normalize(text_list[turn])
        texts, normalized = pa.array(text_list, pa.string()), pa.array(normalized_list, pa.string())
    columns = {
        **{name: taken.field(name) for name in _FROM_UTTERANCE},
        "transition": pa.array(np.array(TRANSITIONS)[kind]).cast(pa.string()),
        "offset_samples": pa.array(offset),
        "start_sample": pa.array(turns.start),
        "num_samples": pa.array(turns.length),
        "gain_db": pa.array(turns.gain_db.astype(np.float32)),
        "gain": pa.nulls(len(turns.row), pa.float64()),
        "source_start_sample": pa.array(source_start),
        "source_num_samples": pa.array(source_length),
        "text": texts,
        "text_normalized": normalized,
        "is_part": pa.array(turns.parts),
        "rir_id": pa.nulls(len(turns.row), pa.string()),
        "words": _word_lists(turns, shift, utterances),
    }
    return pa.StructArray.from_arrays([columns[field.name] for field in TURN], fields=list(TURN))


def _offsets(turns: _Turns) -> tuple[Ints, NDArray[np.int8]]:
    """Return each turn's offset (T,) in samples to the end of the floor, and its transition (T,).

    A backchannel's offset is to the end of its host, which keeps the floor.
    """
    start, conversation, kind = turns.start, turns.conversation, turns.kind
    offset = start.copy()
    last = np.where(kind != BACKCHANNEL, np.arange(len(start)), -1)
    before = np.concatenate([[-1], np.maximum.accumulate(last)[:-1]]) if len(last) else last
    has_floor = (before >= 0) & (conversation[np.maximum(before, 0)] == conversation)
    offset[has_floor] -= (start + turns.length)[before[has_floor]]
    # Rounding to samples can move an offset across 0.
    kind = np.where((kind == GAP) & (offset < 0), OVERLAP, kind)
    return offset, np.where((kind == OVERLAP) & (offset >= 0), GAP, kind)


def _word_lists(turns: _Turns, shift: Ints, utterances: Utterances) -> pa.ListArray:
    """Return the words of each turn (T,) with their times on the conversation's timeline.

    Args:
        turns: the turns.
        shift: (T,) begin of each turn in its utterance, in source samples.
        utterances: of the batch.
    """
    low = utterances.word_begins[turns.row] + np.where(turns.parts, turns.first, 0)
    high = np.where(turns.parts, utterances.word_begins[turns.row] + turns.end, utterances.word_begins[turns.row + 1])
    counts = high - low
    borders = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    picked = np.arange(borders[-1]) + np.repeat(low - borders[:-1], counts)
    turn = np.repeat(np.arange(len(turns.row)), counts)
    hz, rate_hz = utterances.source_hz[turns.row][turn], utterances.rate_hz
    starts = turns.start[turn] + ((utterances.word_start[picked] - shift[turn]) * rate_hz + hz // 2) // hz
    words = pa.StructArray.from_arrays(
        [
            utterances.words.field("word").take(pa.array(picked)),
            pa.array(starts, pa.int64()),
            pa.array((utterances.word_length[picked] * rate_hz + hz // 2) // hz, pa.int64()),
        ],
        fields=list(TURN.field("words").type.value_type),
    )
    return pa.ListArray.from_arrays(pa.array(borders.astype(np.int32)), words)


def _concatenated(arrays: list[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *arrays])
