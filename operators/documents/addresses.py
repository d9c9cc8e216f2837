"""Documents that refer to features: composed of addresses in place of codes, which are then looked up.

Composing only cuts and joins codes by frames, so it can be given anything that has one entry a frame. An address is
(channel, frame), and a document made of addresses tells which stretch of which channel each of its audio segments is.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.codecs.codec import CodecSpec
from models.config.settings import key_settings
from models.sequence.documents import AUDIO, REFERENCE
from operators.digest import canonical_json
from operators.documents.compose import Compose, codec_of
from operators.documents.tasks import TASKS
from operators.documents.tasks.instructed.instructed import Instructed
from operators.documents.transcription import Transcription
from operators.errors import UnusableRowError
from operators.schema import CODES, STRETCHES, table

ADDRESS = np.dtype([("channel", "<u4"), ("frame", "<u4")])


@dataclass(frozen=True, order=True)
class Stretch:
    """Frames of one channel of a conversation that a document holds without a gap."""

    channel: int
    """0 is the mixture; then come stems, then enrolments, in the order of CODES."""
    start_frame: int
    num_frames: int


def addressed(batch: pa.Table) -> pa.Table:
    """Return conversations (rows of CODES) with the address of each frame in place of its codes; levels are left out.

    The codec in the metadata is then one whose packed frames are addresses; its rate is the real one's.
    """
    codec = codec_of(batch.schema)
    frame_bytes = codec.num_codebooks * codec.bits // 8
    plain = batch.drop_columns(["codes", "levels", "stems", "enrolments"])
    rows = plain.to_pylist()
    first = [1] * len(rows)
    for row in rows:
        row |= {"codes": _addresses(0, row["num_frames"]), "levels": b""}
    for name in ("stems", "enrolments"):
        column = batch[name].combine_chunks()
        entries = column.flatten()
        frames = [size // frame_bytes for size in pc.binary_length(entries.field("codes")).to_pylist()]
        others = [field.name for field in entries.type if field.name != "codes"]
        told = list(zip(*(entries.field(other).to_pylist() for other in others), frames, strict=True))
        taken = 0
        for number, row in enumerate(rows):
            size = pc.list_value_length(column)[number].as_py() or 0
            row[name] = [
                {**dict(zip(others, values, strict=True)), "codes": _addresses(first[number] + place, length)}
                for place, (*values, length) in enumerate(told[taken : taken + size])
            ]
            first[number] += size
            taken += size
    spec = replace(codec, num_codebooks=ADDRESS.itemsize // 2, codebook_size=1 << 16, bits=16)
    return table(rows, CODES).replace_schema_metadata({"hubbub.codec": canonical_json(asdict(spec))})


def _addresses(channel: int, num_frames: int) -> bytes:
    made = np.empty(num_frames, ADDRESS)
    made["channel"], made["frame"] = channel, np.arange(num_frames)
    return made.tobytes()


def stretches_of(document: Mapping[str, Any]) -> list[Stretch]:
    """Return the stretch of each audio segment of a document (a row of DOCUMENTS) that is made of addresses."""
    found, taken = [], 0
    every: NDArray[Any] = np.frombuffer(document["codes"], ADDRESS)
    for segment in document["segments"]:
        if segment["kind"] != AUDIO:
            continue
        mine = every[taken : taken + segment["length"]]
        taken += segment["length"]
        one = Stretch(int(mine[0]["channel"]), int(mine[0]["frame"]), len(mine))
        assert mine.tobytes() == _addresses(one.channel, one.start_frame + len(mine))[-mine.nbytes :], (
            f"{document['document_id']}: an audio segment is no stretch of one channel"
        )
        found.append(one)
    return found


def windowing(compose: Compose) -> Compose:
    """Return the options that decide which stretches documents hold, all others at their defaults.

    Transcription tasks hold the same ones, whatever they write of them and whoever is asked for.
    """
    heard = ["asr" if isinstance(TASKS[task], Transcription | Instructed) else task for task in compose.tasks]
    kept = ("window_s", "overlap_s", "carry_voices", "enrol_s", "silence_share", "seed")
    options: dict[str, Any] = {name: getattr(compose, name) for name in kept}
    return Compose(tasks=tuple(sorted(set(heard))), **options)


def windowing_key(compose: Compose) -> dict[str, Any]:
    """Return what enters the keys of features of a recipe's `compose`."""
    decides = windowing(compose)
    return key_settings(decides, {"tasks": list(decides.tasks)})


def stretches(batch: pa.Table, compose: Compose) -> Iterator[pa.Table]:
    """Yield the stretches (rows of STRETCHES) that documents of conversations (rows of CODES) hold, each once.

    One table a conversation; it is empty where no task can use the conversation.
    """
    decides, codec = windowing(compose), codec_of(batch.schema)
    of_tasks = [replace(decides, tasks=(task,)) for task in decides.tasks]
    addresses = addressed(batch)
    codec_of_addresses = codec_of(addresses.schema)
    for number, row in enumerate(addresses.to_pylist()):
        found: set[Stretch] = set()
        for one in of_tasks:
            with suppress(UnusableRowError):  # packing says of which conversation, and why
                for document in one.documents(row, codec_of_addresses):
                    found.update(stretches_of(document))
        sounds = _channels(batch.slice(number, 1))
        yield table(
            [
                {
                    "conversation_id": row["conversation_id"],
                    "channel": piece.channel,
                    "start_frame": piece.start_frame,
                    "num_frames": piece.num_frames,
                    "samples": _frames(sounds[piece.channel], piece, codec),
                }
                for piece in sorted(found)
            ],
            STRETCHES,
        )


def _channels(row: pa.Table) -> list[memoryview]:
    """Return the packed codes of each channel of a conversation, views into its table (one row of CODES)."""
    listed = [row["codes"].combine_chunks()]
    listed += [row[name].combine_chunks().flatten().field("codes") for name in ("stems", "enrolments")]
    return [memoryview(one.as_buffer()) for column in listed for one in column]


def _frames(codes: memoryview, one: Stretch, codec: CodecSpec) -> bytes:
    size = codec.num_codebooks * codec.bits // 8
    return bytes(codes[one.start_frame * size : (one.start_frame + one.num_frames) * size])


Index = Mapping[tuple[str, Stretch], tuple[int, int]]
"""Partition (a place in the shard's list) and row of the features of a conversation's stretch."""


def index_of(partitions: Iterable[pa.Table]) -> dict[tuple[str, Stretch], tuple[int, int]]:
    """Return where the features (rows of FEATURES, without values) of each stretch are, partition by partition."""
    names = ("conversation_id", "channel", "start_frame", "num_frames")
    return {
        (conversation, Stretch(*stretch)): (number, row)
        for number, partition in enumerate(partitions)
        for row, (conversation, *stretch) in enumerate(
            zip(*(partition[name].to_pylist() for name in names), strict=True)
        )
    }


def referring(documents: pa.Table, index: Index) -> pa.Table:
    """Return documents (rows of DOCUMENTS) of addresses with a reference to each audio segment's features instead.

    Raises:
        KeyError: a stretch has no features.
    """
    references = []
    for document in documents.select(["document_id", "conversation_id", "segments", "codes"]).to_pylist():
        found = np.zeros(0, REFERENCE)
        rows = [(*index[document["conversation_id"], one], 0) for one in stretches_of(document)]
        if rows:
            found = np.array(rows, REFERENCE)
        references.append(found.tobytes())
    place = documents.schema.get_field_index("codes")
    return documents.set_column(place, "codes", pa.array(references, pa.large_binary()))
