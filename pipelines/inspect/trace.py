"""data trace: from any columns of any pack back to recordings, speakers, licences and offsets."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from models.sequence.documents import AUDIO
from models.speech_lm.generate import frames_in
from operators.errors import InputError
from operators.store.dataset import Dataset, Snapshot
from pipelines.plan.output import Output
from pipelines.recipes.files import recipe_of
from pipelines.reporting import console


def trace(folder: Path, pack_id: str, first: int = 0, end: int | None = None) -> list[dict[str, Any]]:
    """Return where the columns [first, end) of a pack come from: a row for each turn that is in them.

    Rows name document, kind (text or audio), the columns, conversation, turn's utterance, speaker, licence, recording,
    and for audio the samples of the recording that are in the span; of text, and of audio that is not the window's own
    (a sample of a voice, a stem), every turn of the window is named, with all of its samples.

    Raises:
        InputError: the folder is not the output of a run, there is no such pack, or it has fewer columns.
    """
    recipe, output = recipe_of(folder), Output(folder)
    pack = _row(output.dataset("packs"), "pack_id", pack_id)
    if pack is None:
        raise InputError(f"there is no pack {pack_id} in {output.dataset('packs').url()}; data listen shows some")
    end = pack["num_columns"] if end is None else end
    if not 0 <= first < end <= pack["num_columns"]:
        raise InputError(f"pack {pack_id} has columns 0 to {pack['num_columns']}, not {first} to {end}")
    layout = recipe.compose.layout_of(recipe.encode.spec)
    rows = []
    for number, document in enumerate(pack["documents"]):
        begin, stop = pack["cu_seqlens"][number : number + 2]
        if begin >= end or stop <= first:
            continue
        conversation = _row(output.dataset("conversations"), "conversation_id", document["conversation_id"])
        if conversation is None:
            raise InputError(f"conversation {document['conversation_id']} is missing; run again to rebuild it")
        segments = [one for one in pack["segments"] if begin <= one["start_column"] < stop]
        audio = [one for one in segments if one["kind"] == AUDIO]
        in_order = sum(one["length"] for one in audio) == document["num_frames"]
        at = document["start_frame"]
        for one in segments:
            columns = layout.num_columns(one["length"]) if one["kind"] == AUDIO else one["length"]
            low, high = max(first, one["start_column"]), min(end, one["start_column"] + columns)
            frames: tuple[int, int] | None = None
            if one["kind"] == AUDIO and in_order:
                # A column belongs to every frame that it holds a cell of.
                inside = low - one["start_column"], high - one["start_column"]
                frames = at + frames_in(layout, inside[0]), at + min(one["length"], frames_in(layout, inside[1]) + 1)
                at += one["length"]
            if low >= high:
                continue
            window = document["start_frame"], document["start_frame"] + document["num_frames"]
            place = {
                "document": document["document_id"],
                "kind": "audio" if one["kind"] == AUDIO else "text",
                "columns": [low, high],
                "conversation": document["conversation_id"],
            }
            hop = recipe.encode.spec.hop_samples
            rows += [{**place, **turn} for turn in _turns(conversation, window, frames, hop)]
    return rows


def _row(dataset: Dataset, column: str, value: str) -> dict[str, Any] | None:
    snapshot: Snapshot | None = dataset.latest()
    for receipt in snapshot.receipts if snapshot else ():
        for batch in dataset.batches(receipt):
            found = batch.filter(pc.field(column) == value)
            if found.num_rows:
                row: dict[str, Any] = found.to_pylist()[0]
                return row
    return None


def _turns(
    conversation: Mapping[str, Any], window: tuple[int, int], frames: tuple[int, int] | None, hop: int
) -> Iterator[dict[str, Any]]:
    """Yield the turns that sound in some frames, with the samples of their recordings that do."""
    low, high = (frame * hop for frame in (frames or window))
    for turn in conversation["turns"]:
        start = max(low, turn["start_sample"])
        stop = min(high, turn["start_sample"] + turn["num_samples"])
        if start >= stop:
            continue
        scale = turn["source_num_samples"] / turn["num_samples"]
        first, last = turn["source_start_sample"], turn["source_start_sample"] + turn["source_num_samples"]
        if frames is not None:
            last = min(last, first + round((stop - turn["start_sample"]) * scale))
            first += round((start - turn["start_sample"]) * scale)
        yield {
            "utterance": turn["utterance_id"],
            "speaker": turn["speaker"],
            "licence": turn["licence"],
            "recording": f"{turn['corpus']}:{turn['audio']}",
            "byte_offset": turn["byte_offset"],
            "source_samples": [first, last],
            "source_rate_hz": turn["source_rate_hz"],
            "text": turn["text"],
        }


def show(rows: list[dict[str, Any]]) -> None:
    """Print where columns come from."""
    console.table(
        "",
        ["columns", "kind", "conversation", "speaker", "licence", "recording", "samples", "text"],
        [
            [
                f"{row['columns'][0]}-{row['columns'][1]}",
                row["kind"],
                row["conversation"],
                row["speaker"],
                str(row["licence"]),
                row["recording"],
                f"{row['source_samples'][0]}-{row['source_samples'][1]}",
                str(row["text"] or "")[:40],
            ]
            for row in rows
        ],
    )
