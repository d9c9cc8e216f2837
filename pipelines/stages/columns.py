"""What conversations of an evaluation can be sliced by, beyond what their reference says."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.corpus.normalizers.sentences import sentences_of
from pipelines.plan.stage import Plan

Columns = dict[str, dict[str, Any]]
"""Values by column, by conversation."""


def conversation_columns(plan: Plan, codes: pa.Table) -> Columns:
    """Return what is known of each conversation (rows of CODES) but its words and times.

    Columns are origin, gender and language of its turns, room (yes or no), t60_s, distance_m from its speakers to the
    first microphone, snr_db, text (`seen` where a sentence of it is also said in the train split), what a list of
    given or recorded conversations says of it, and what manifests say of its utterances, as far as slices ask for it.
    """
    names = ["conversation_id", "origin", "turns", "user_columns"]
    found: Columns = {}
    for row in codes.select(names).to_pylist():
        turns = row["turns"]
        found[row["conversation_id"]] = {
            **_scalars(json.loads(row["user_columns"] or "{}")),
            "origin": row["origin"],
            "gender": _joined(turn["gender"] for turn in turns),
            "language": _joined(turn["language"] for turn in turns),
        }
    conversations = _conversations(plan, found)
    for row in conversations.select(["conversation_id", "room", "noise_id", "snr_db"]).to_pylist():
        found[row["conversation_id"]] |= _acoustics(row)
    for identifier, heard in _heard_before(plan, conversations).items():
        found[identifier]["text"] = heard
    for identifier, values in _of_utterances(plan, codes, found).items():
        found[identifier] |= values
    return found


def _joined(values: Any) -> str | None:
    """Return the values that there are, once each."""
    return "+".join(sorted({str(value) for value in values if value})) or None


def _scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if isinstance(value, str | int | float) and value != ""}


def _acoustics(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a conversation's room, reverberation time, mean distance and signal-to-noise ratio."""
    room = row["room"]
    found: dict[str, Any] = {"room": "no" if room is None else "yes"}
    if row["noise_id"] is not None and row["snr_db"] is not None:
        found["snr_db"] = round(float(row["snr_db"]), 2)
    if room is not None:
        if room["t60_s"] is not None:
            found["t60_s"] = round(float(room["t60_s"]), 3)
        seats = [seat["position_m"] for seat in room["seats"] if seat["position_m"]]
        if seats and room["microphones_m"]:
            to = room["microphones_m"][0]
            found["distance_m"] = round(float(np.mean([math.dist(seat, to) for seat in seats])), 3)
    return found


def _conversations(plan: Plan, wanted: Mapping[str, Any]) -> pa.Table:
    """Return the rows of CONVERSATIONS of some conversations."""
    parts = _parts(plan, "test-", ["conversation_id", "room", "noise_id", "snr_db", "turns"])
    table = pa.concat_tables(parts)
    return table.filter(pc.is_in(table["conversation_id"], value_set=pa.array(sorted(wanted))))


def _parts(plan: Plan, start: str, columns: Sequence[str]) -> list[pa.Table]:
    """Return columns of the committed partitions of conversations whose id starts so."""
    dataset = plan.output.dataset("conversations")
    receipts = (
        dataset.committed_by_key(one.partition_id, one.key)
        for one in plan.stage("conversations").partitions
        if one.partition_id.startswith(start)
    )
    return [dataset.open(receipt).read_all().select(columns) for receipt in receipts if receipt is not None]


def _heard_before(plan: Plan, conversations: pa.Table) -> dict[str, str]:
    """Return `seen` or `unseen` of each conversation that has a sentence, where there is a train split."""
    own = {
        row["conversation_id"]: {
            s for turn in row["turns"] for s in sentences_of(turn["text"], turn["text_normalized"])
        }
        for row in conversations.select(["conversation_id", "turns"]).to_pylist()
    }
    parts = _parts(plan, "train-", ["turns"])
    if not parts:
        return {}
    trained: set[str] = set()
    for part in parts:
        turns = pa.chunked_array([chunk.flatten() for chunk in part["turns"].chunks])
        both = pa.table({name: pc.struct_field(turns, name) for name in ("text", "text_normalized")})
        said = both.group_by(["text", "text_normalized"]).aggregate([]).to_pylist()
        trained.update(s for one in said for s in sentences_of(one["text"], one["text_normalized"] or ""))
    return {name: "seen" if said & trained else "unseen" for name, said in own.items() if said}


def _of_utterances(plan: Plan, codes: pa.Table, known: Columns) -> Columns:
    """Return what manifests say of the utterances of each conversation in columns that slices ask for, joined by +."""
    have = {name for values in known.values() for name in values}
    wanted = [name for name in plan.recipe.evaluate.slices if name not in have]
    indexed = [stage for stage in plan.stages if stage.dataset == "utterances"]
    if not wanted or not indexed:
        return {}
    dataset = plan.output.dataset("utterances")
    of_utterance: dict[str, dict[str, Any]] = {}
    for partition in indexed[0].partitions:
        receipt = dataset.committed(partition)
        if receipt is not None:
            table = dataset.open(receipt).read_all().select(["utterance_id", "user_columns"])
            pairs = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
            of_utterance |= {name: json.loads(text or "{}") for name, text in pairs}
    found: Columns = {}
    for row in codes.select(["conversation_id", "turns"]).to_pylist():
        said = [of_utterance.get(turn["utterance_id"], {}) for turn in row["turns"]]
        values = {name: _joined(_scalars(one).get(name) for one in said) for name in wanted}
        found[row["conversation_id"]] = {name: value for name, value in values.items() if value is not None}
    return found
