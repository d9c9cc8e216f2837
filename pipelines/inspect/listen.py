"""data listen: documents, packs and conversations decoded back to sound and text, on one static page."""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from models.codecs.codec import Codec, unpack_codes
from models.sequence.documents import TEXT
from models.sequence.tokenizer import ByteTokenizer
from operators.documents.tasks import token_names
from operators.errors import InputError
from operators.store.dataset import Snapshot
from pipelines.plan.output import Output
from pipelines.recipes.files import recipe_of
from pipelines.reporting import console

STYLE = """body{font:15px system-ui;max-width:72em;margin:2em auto;padding:0 1em;color:#222}h2{margin-top:1.6em}
audio{width:100%;height:2.2em}code{background:#f3f3f3;padding:.1em .3em;word-break:break-word}
.lane{display:grid;grid-template-columns:7em 1fr;margin:2px 0}.lane b{font-weight:500;font-size:12px;overflow:hidden}
.lane div{position:relative;height:1.5em;background:#f6f6f6}
.turn{position:absolute;top:0;bottom:0;border-radius:3px;opacity:.75;overflow:hidden;font-size:11px;
white-space:nowrap;color:#fff;padding-left:2px}.segment{border-left:4px solid #999;padding-left:.7em;margin:.5em 0}
small{color:#666}"""
_COLORS = ("#4269d0", "#d9622b", "#3c8c4a", "#a463f2", "#9c6b4e", "#c2374f", "#2a8a9c", "#777")


def listen(output_folder: Path, folder: Path, chosen: Sequence[str], number: int, dataset: str) -> Path:
    """Write index.html with players, timelines and tokens.

    Args:
        output_folder: of a run.
        folder: where the page goes.
        chosen: ids of conversations, documents or packs; the first few where none is named.
        number: how many are shown.
        dataset: packs (what training reads), codes (conversations as they were encoded).

    Raises:
        InputError: the data set is not there, nothing in it has such an id, or the codec cannot decode.
    """
    recipe, output = recipe_of(output_folder), Output(output_folder)
    codec, tokenizer = recipe.encode.loaded, recipe.compose.loaded_tokenizer
    makers = {"packs": _packs, "codes": _conversations}
    parts = []
    for identifier, part in makers[dataset](output, codec, tokenizer, tuple(chosen)):
        parts.append(part)
        console.line("decoded", identifier)
        if len(parts) == number:
            break
    if not parts:
        raise InputError(f"there is none of {', '.join(chosen) or dataset} in {output.dataset(dataset).url()}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    head = (
        f"<!doctype html><meta charset='utf-8'><title>{html.escape(recipe.name)}</title><style>{STYLE}</style>"
        f"<h1>{html.escape(recipe.name)}: {dataset}</h1><p>Decoded from <b>{html.escape(codec.spec.name)}</b> codes "
        f"({codec.spec.frame_rate_hz:g} frames/s, {codec.spec.num_codebooks} x {codec.spec.codebook_size}), layout "
        f"{html.escape(recipe.compose.layout)}.</p>"
    )
    path.write_text(head + "".join(parts), encoding="utf-8")
    console.line("written", str(path))
    return path


def _player(wav: NDArray[np.float32] | NDArray[np.int16], rate_hz: int, title: str) -> str:
    buffer = io.BytesIO()
    soundfile.write(buffer, wav, rate_hz, format="WAV", subtype="PCM_16")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<div><small>{html.escape(title)}</small><audio controls src='data:audio/wav;base64,{data}'></audio></div>"


def sound(codes: bytes, codec: Codec, title: str) -> str:
    """Return a player of codes, or why they cannot be made sound."""
    spec = codec.spec
    frames = unpack_codes(codes, spec.num_codebooks, spec.bits)
    try:
        wav = codec.decode(frames, frames.shape[1] * spec.hop_samples)
    except ValueError as error:
        return f"<p><small>{html.escape(title)}: {html.escape(str(error))}</small></p>"
    return _player(wav, spec.sample_rate_hz, title)


def timeline(turns: Sequence[dict[str, Any]], speakers: Sequence[str], num_frames: int) -> str:
    """Return a lane a speaker with their turns, of turns in frames."""
    lanes = []
    for number, speaker in enumerate(speakers):
        bars = "".join(
            f"<span class='turn' title='{html.escape(t['text_normalized'] or '')}' style='left:"
            f"{100 * t['start_frame'] / num_frames:.2f}%;width:{100 * t['num_frames'] / num_frames:.2f}%;background:"
            f"{_COLORS[number % len(_COLORS)]}'>{html.escape(t['text_normalized'] or '')}</span>"
            for t in turns
            if t["speaker"] == speaker
        )
        lanes.append(f"<div class='lane'><b>{html.escape(speaker)}</b><div>{bars}</div></div>")
    return "".join(lanes)


def _conversations(
    output: Output, codec: Codec, tokenizer: ByteTokenizer, chosen: Sequence[str]
) -> Iterator[tuple[str, str]]:
    del tokenizer
    rooms = {}
    made = output.dataset("conversations").latest()
    if made is not None:
        for row in output.dataset("conversations").read(made).select(["conversation_id", "room", "snr_db"]).to_pylist():
            rooms[row["conversation_id"]] = row
    for row in _rows(output, "codes"):
        name = row["conversation_id"]
        if chosen and name not in chosen:
            continue
        facts = [row["origin"], row["split"], f"{row['num_samples'] / codec.spec.sample_rate_hz:.1f} s"]
        where = rooms.get(name, {})
        if where.get("room") and where["room"]["size_m"]:
            size = " x ".join(f"{x:.1f}" for x in where["room"]["size_m"])
            facts.append(f"room {size} m, T60 {where['room']['t60_s']:.2f} s")
        if where.get("snr_db") is not None:
            facts.append(f"noise at {where['snr_db']:.0f} dB")
        stems = "".join(sound(s["codes"], codec, f"{s['speaker']}, {s['kind']}") for s in row["stems"])
        yield (
            name,
            (
                f"<h2>{html.escape(name)}</h2><p><small>{html.escape(', '.join(facts))}</small></p>"
                + timeline(row["turns"], row["speakers"], max(1, row["num_frames"]))
                + sound(row["codes"], codec, "mixture")
                + stems
            ),
        )


def _snapshot(output: Output, name: str) -> Snapshot:
    dataset = output.dataset(name)
    snapshot = dataset.latest()
    if snapshot is None:
        raise InputError(f"there is no data set at {dataset.url()}; make it with hubbub run")
    return snapshot


def _rows(output: Output, name: str) -> Iterator[dict[str, Any]]:
    dataset = output.dataset(name)
    for receipt in _snapshot(output, name).receipts:
        for batch in dataset.batches(receipt):
            for number in range(batch.num_rows):
                yield batch.slice(number, 1).to_pylist()[0]


def _packs(output: Output, codec: Codec, tokenizer: ByteTokenizer, chosen: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield documents: those of chosen packs, those chosen themselves, or all; each under its window's timeline."""
    dataset, snapshot = output.dataset("packs"), _snapshot(output, "packs")
    if any("hubbub.features" in dataset.metadata(receipt) for receipt in snapshot.receipts[:1]):
        raise InputError(
            "these packs refer to an encoder's features, which are no sound; hear the codes: --dataset codes"
        )
    columns = ["conversation_id", "speakers", "turns"]
    told = {
        row["conversation_id"]: row
        for receipt in _snapshot(output, "codes").receipts
        for batch in output.dataset("codes").batches(receipt)
        for row in batch.select(columns).to_pylist()
    }
    for pack in _rows(output, "packs"):
        for number, (document, part) in enumerate(documents_of(pack, codec, tokenizer)):
            names = {pack["pack_id"], document["document_id"], document["conversation_id"]}
            if not chosen or names & set(chosen):
                place = f"pack {pack['pack_id']}, document {number} of {len(pack['documents'])}"
                title = f"<h2>{html.escape(document['document_id'])}</h2><p><small>{html.escape(place)}</small></p>"
                lanes = _window(told.get(document["conversation_id"]), document)
                yield document["document_id"], title + lanes + part


def _window(conversation: dict[str, Any] | None, document: dict[str, Any]) -> str:
    """Return the lanes of a document's window."""
    if conversation is None:
        return ""
    first, number = document["start_frame"], max(1, document["num_frames"])
    inside = [
        {**turn, "start_frame": max(0, turn["start_frame"] - first), "num_frames": min(turn["num_frames"], number)}
        for turn in conversation["turns"]
        if turn["start_frame"] < first + number and turn["start_frame"] + turn["num_frames"] > first
    ]
    present = [speaker for speaker in conversation["speakers"] if any(t["speaker"] == speaker for t in inside)]
    return timeline(inside, present, number)


def documents_of(pack: dict[str, Any], codec: Codec, tokenizer: ByteTokenizer) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each document of a pack (a row of PACKS), and its segments as sound and text."""
    spec, token, frame = codec.spec, 0, 0
    frame_bytes = spec.num_codebooks * spec.bits // 8
    shown: dict[int, list[tuple[int, str]]] = {}
    borders = pack["cu_seqlens"]
    targets = [(s["kind"], s["start_column"], s["end_column"]) for s in pack["loss_spans"]]
    for segment in pack["segments"]:
        kind, start, length = segment["kind"], segment["start_column"], segment["length"]
        owner = int(np.searchsorted(borders, start, side="right")) - 1
        aim = " (target)" if any(k == kind and a <= start < b for k, a, b in targets) else ""
        if kind == TEXT:
            text = tokenizer.show(pack["text_tokens"][token : token + length], token_names())
            token += length
            head = f"<small>text from column {start}{aim}</small>"
            part = f"<div class='segment'>{head}<br><code>{html.escape(text)}</code></div>"
        else:
            codes = pack["codes"][frame * frame_bytes : (frame + length) * frame_bytes]
            frame += length
            seconds = length / spec.frame_rate_hz
            title = f"audio from column {start}: {length} frames, {seconds:.2f} s{aim}"
            part = f"<div class='segment'>{sound(codes, codec, title)}</div>"
        shown.setdefault(owner, []).append((start, part))
    for number, document in enumerate(pack["documents"]):
        yield document, "".join(part for _, part in sorted(shown.get(number, []), key=lambda one: one[0]))
