"""Every stage's Arrow schema on one page, what the cells mean, and how operators are joined.

Times are integers, half-open, in the unit that the name says; only predicted times are seconds, as a model writes
them. `large_` types are used wherever a column can pass 2 GiB. What the integers mean (codec, layout, tokenizer) is
in the schema's metadata, so that a file can be read with plain `pyarrow.ipc`.

The token grid (built with a batch by `models.sequence.batch`, never stored)
-------------------------------------------------------------------
A document is a row of columns; a column is one step of the model. Every column has one text cell and
S audio cells (S = the layout's streams; K codebooks make S = K streams in the parallel and delay layouts).

    task asr:         <asr> [[sK] <enrol> A ...] [<carry> text] A A ... A <text> [s0] b y t e s [s1] ... <end>
                      (<audio> before the window's A where voice samples would touch it)
    asr_fifo, asr_timed, asr_token: the same with <change> between turns or words, or [start] [sK] text [end]
    task asr_context: <asr_context> <instruction> hotwords A A ... A <text> [s0] ... <end>
    asr_formatted:    <asr> <instruction> formatted A A ... A <text> [s0] ... <end>, text as in the corpus
    asr_gender, asr_order, asr_keyword, asr_language:
                      <asr_instructed> <instruction> b y t e s A A ... A <text> [sK] ... <end>
    task asr_target:  <asr_target> <instruction> b y t e s [<enrol> A ...] <audio> A A ... A <text> [sK] ... <end>
    task continue:    <continue> A A ... A <audio_end>
    task extract:     <extract> <enrol> A ... <text> A ... (mixture) <audio> A ... (one speaker's own) <audio_end>
    task speak:       <speak> [[sK] <enrol> A ...] ... <text> [s0] b y t e s [s1] ... <audio> A A ... A <audio_end>
    task duplex:      <duplex> A A ... A <audio_end>, two speakers side by side, text cells hold the first one's words
    task interleave:  <interleave> [s0] b y t e s [s1] <audio> A ... <audio_end> [s0] ... <end>

- In an audio column (A) the text cell is `<pad>` (id 0), except in duplex; in a text column every audio cell is pad,
  the id one past the last. Pad cells add nothing to the sum of embeddings. `models.layouts` defines what a cell holds.
- The delay layout makes T + K - 1 columns of T frames; its corners are audio pad, inside the document's border. The
  flat and coarse-first layouts make K T columns of one cell.
- A loss span [start, end) names columns whose cells are *predicted* (from the column before), in one kind of
  stream. Transcriptions: the text cells after `<text>` up to and with `<end>`. Audio that is made: its audio cells
  (audio pad never counts), and its text cells, `<pad>` meaning "continue", up to and including `<audio_end>`.
- A cell's weight in the loss is its span's weight (a text cell that is `<pad>`: times `train.pad_weight`, so that cells
  that say nothing do not outweigh words; `text_loss` is without them); the loss is the weighted sum over all ranks
  divided by the sum of the weights over all ranks. Audio spans carry weight 1/S, so that a column counts about as a
  token.
"""

from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import pyarrow as pa

SCHEMA_VERSION = "6"


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in columns.items()])


WORD = pa.struct({"word": pa.string(), "start_sample": pa.int64(), "num_samples": pa.int64()})
WORD_FRAMES = pa.struct({"word": pa.string(), "start_frame": pa.int32(), "num_frames": pa.int32()})

# Where the samples of one speaker's recording slice are. `audio` is a path below the corpus's root, an
# absolute path or a URL; byte_length > 0 means a member of a tar or a span of a file.
_SOURCE = {
    "corpus": pa.string(),
    "audio": pa.string(),
    "byte_offset": pa.int64(),
    "byte_length": pa.int64(),
    "channel": pa.int16(),
    "source_rate_hz": pa.int32(),
    "source_start_sample": pa.int64(),  # at source_rate_hz
    "source_num_samples": pa.int64(),  # at source_rate_hz
}

UTTERANCES = _schema(
    utterance_id=pa.string(),
    **_SOURCE,
    fingerprint=pa.string(),  # of size, first and last 64 KiB of the file: a changed recording is another row
    speaker=pa.string(),
    gender=pa.string(),  # as the manifest has it
    split=pa.string(),  # the manifest's own; null where it has none
    text=pa.string(),
    text_normalized=pa.string(),  # by the normalizer that the metadata names
    language=pa.string(),
    licence=pa.string(),
    consent=pa.string(),
    book=pa.string(),
    chapter=pa.string(),
    position=pa.int32(),  # order within the chapter
    words=pa.list_(WORD),  # at source_rate_hz, from source_start_sample; empty where unknown
    user_columns=pa.string(),  # JSON of whatever else the manifest says
)

# Another utterance of a speaker, which the conversation does not hold: the voice sample of tasks that need one.
ENROLMENT = pa.struct({"utterance_id": pa.string(), "speaker": pa.string(), **_SOURCE, "licence": pa.string()})

# In flight: the speakers of a conversation, and the utterances that each may use, in order.
CASTS = _schema(
    conversation_id=pa.string(),
    split=pa.string(),
    seed=pa.int64(),  # the recipe's: all draws for this conversation have their root here
    speakers=pa.list_(pa.string()),
    utterances=pa.list_(pa.struct(list(UTTERANCES))),
    enrolments=pa.list_(ENROLMENT),  # one a speaker; empty where no task needs voice samples
)

TURN = pa.struct(
    {
        "utterance_id": pa.string(),
        "speaker": pa.string(),
        "transition": pa.string(),  # start, hold, switch_gap, switch_overlap, backchannel (takes no floor)
        "offset_samples": pa.int64(),  # to the end of the turn that had the floor; negative is overlap
        "start_sample": pa.int64(),
        "num_samples": pa.int64(),
        "gain_db": pa.float32(),  # over the level that all speakers share
        "gain": pa.float64(),  # factor of the samples as recorded, instead; null where they are scaled to that level
        **_SOURCE,
        "text": pa.string(),
        "text_normalized": pa.string(),
        "gender": pa.string(),
        "language": pa.string(),
        "licence": pa.string(),
        "is_part": pa.bool_(),  # cut out of the utterance at word times
        "rir_id": pa.string(),
        "words": pa.list_(WORD),  # on the conversation's timeline
    }
)

# Seats of all speakers, in meters from a corner of the floor; null where a conversation has no room.
ROOM = pa.struct(
    {
        "room_id": pa.string(),
        "size_m": pa.list_(pa.float32()),
        "t60_s": pa.float32(),
        "microphones_m": pa.list_(pa.list_(pa.float32())),
        "plausibility": pa.float32(),  # log-density of operators.simulate.rooms.plausibility
        "seats": pa.list_(
            pa.struct(
                {
                    "speaker": pa.string(),
                    "position_m": pa.list_(pa.float32()),
                    "rir_id": pa.string(),
                    "rir_audio": pa.string(),  # below the folder of the user's responses; null where simulated
                }
            )
        ),
    }
)

CONVERSATIONS = _schema(
    conversation_id=pa.string(),
    origin=pa.string(),  # simulated or recorded
    split=pa.string(),
    seed=pa.int64(),
    sample_rate_hz=pa.int32(),
    num_samples=pa.int64(),
    speakers=pa.list_(pa.string()),  # by arrival
    turns=pa.list_(TURN),  # by start
    enrolments=pa.list_(ENROLMENT),
    recording=pa.struct(_SOURCE),  # of a recorded conversation, whole; null where the turns are mixed
    room=ROOM,
    noise_id=pa.string(),  # pink, or a recording's; null where there is none
    noise_audio=pa.string(),  # below the folder of the user's noises
    noise_start_sample=pa.int64(),  # at the conversation's rate
    snr_db=pa.float32(),
    mixing=pa.string(),  # of a given mixture: float32 or float64, the arithmetic of its sum; null elsewhere
    background=pa.struct({**_SOURCE, "gain": pa.float64()}),  # added to a given mixture as it is, times its gain
    user_columns=pa.string(),  # JSON of what else a given or recorded conversation's list says of it
    num_clipped_offsets=pa.int32(),  # drawn offsets that a constraint changed
    num_dropped_pieces=pa.int32(),  # utterances (or parts) too long for what was left of the conversation
)

# In flight: mixtures. Stored, as FLAC, only on request.
AUDIO = (
    CONVERSATIONS.append(pa.field("samples", pa.large_list(pa.int16())))  # at the first microphone
    .append(pa.field("far_samples", pa.large_list(pa.int16())))  # at all, interleaved, where there are several
    .append(
        pa.field(
            "stems",  # one speaker each: reverberant (as at the first microphone) or anechoic
            pa.list_(pa.struct({"speaker": pa.string(), "kind": pa.string(), "samples": pa.large_list(pa.int16())})),
        )
    )
    .append(pa.field("enrolment_samples", pa.list_(pa.large_list(pa.int16()))))  # dry, in the order of enrolments
    .append(pa.field("scale", pa.float32()))  # below 1 where the mixture would have clipped; stems are scaled too
)
AUDIO_FLAC = _schema(
    conversation_id=pa.string(),
    sample_rate_hz=pa.int32(),
    num_samples=pa.int64(),
    num_channels=pa.int16(),
    flac=pa.large_binary(),
    stems=pa.list_(pa.struct({"speaker": pa.string(), "kind": pa.string(), "flac": pa.large_binary()})),
)

TURN_FRAMES = pa.struct(
    {
        "utterance_id": pa.string(),
        "speaker": pa.string(),
        "start_frame": pa.int32(),
        "num_frames": pa.int32(),
        "text": pa.string(),
        "text_normalized": pa.string(),
        "gender": pa.string(),
        "language": pa.string(),
        "words": pa.list_(WORD_FRAMES),
    }
)

CODES = _schema(
    conversation_id=pa.string(),
    origin=pa.string(),
    split=pa.string(),
    user_columns=pa.string(),  # as in CONVERSATIONS
    num_samples=pa.int64(),
    num_frames=pa.int32(),
    codes=pa.large_binary(),  # frame by frame, K codes each, `bits` bits a code: models.codecs.codec.unpack_codes
    levels=pa.large_binary(),  # a byte a frame: its level in dB below full scale, at most 255
    speakers=pa.list_(pa.string()),
    turns=pa.list_(TURN_FRAMES),
    stems=pa.list_(pa.struct({"speaker": pa.string(), "kind": pa.string(), "codes": pa.large_binary()})),
    enrolments=pa.list_(pa.struct({"speaker": pa.string(), "utterance_id": pa.string(), "codes": pa.large_binary()})),
)

# In flight: a stretch of audio that documents hold without a gap, as `pcm` encodes it.
_STRETCH = {
    "conversation_id": pa.string(),
    "channel": pa.int32(),  # 0: the mixture; then its stems, then its enrolments, in the order of CODES
    "start_frame": pa.int32(),
    "num_frames": pa.int32(),  # of the codec, 80 ms each
}
STRETCHES = _schema(**_STRETCH, samples=pa.large_binary())

# What a frozen encoder makes of a stretch alone, as the training step would. The metadata says whose features they are:
# `hubbub.features` holds dtype, layers, width and how many of the encoder's frames a frame of the codec has.
FEATURES = _schema(
    **_STRETCH,
    values=pa.large_binary(),  # frame by frame, layers x width values each
    scales=pa.list_(pa.float32()),  # of each of these channels, by which int8 values are multiplied; else empty
)

# kind 0: text, length tokens in length columns. kind 1: audio, length frames in layout.num_columns(length).
SEGMENT = pa.struct({"kind": pa.int8(), "start_column": pa.int32(), "length": pa.int32()})
LOSS_SPAN = pa.struct({"kind": pa.int8(), "start_column": pa.int32(), "end_column": pa.int32(), "weight": pa.float32()})

# Who talks, by arrival in the document, in columns of a prompt's audio; stretches of several may overlap.
TALKER_SPAN = pa.struct({"talker": pa.int8(), "start_column": pa.int32(), "end_column": pa.int32()})

# In flight: one training example. Segments and spans count from the document's first column.
DOCUMENTS = _schema(
    document_id=pa.string(),
    conversation_id=pa.string(),
    task=pa.string(),
    speakers=pa.list_(pa.string()),
    start_frame=pa.int32(),
    num_frames=pa.int32(),
    num_columns=pa.int32(),
    segments=pa.list_(SEGMENT),
    text_tokens=pa.large_list(pa.int32()),
    codes=pa.large_binary(),
    loss_spans=pa.list_(LOSS_SPAN),
    talker_spans=pa.list_(TALKER_SPAN),
)

PACKED_DOCUMENT = pa.struct(
    {
        "document_id": pa.string(),
        "conversation_id": pa.string(),
        "task": pa.string(),
        "start_frame": pa.int32(),
        "num_frames": pa.int32(),
    }
)

# One training sequence. Segments and spans count from the pack's first column; streams are ragged, in order. Where the
# metadata holds `hubbub.features` (a list of partitions), codes are references (`models.sequence.documents.REFERENCE`):
# three int32 for each segment of audio, the partition's place in that list, the row, and the first of the row's frames.
PACKS = _schema(
    pack_id=pa.string(),
    num_columns=pa.int32(),
    sum_squares=pa.int64(),  # of the documents' columns: what attention costs
    cu_seqlens=pa.list_(pa.int32()),  # documents + 1, from 0 to num_columns
    documents=pa.list_(PACKED_DOCUMENT),
    segments=pa.list_(SEGMENT),
    text_tokens=pa.large_list(pa.int32()),
    codes=pa.large_binary(),
    loss_spans=pa.list_(LOSS_SPAN),
    talker_spans=pa.list_(TALKER_SPAN),
)

# What a checkpoint transcribed of a conversation.
HYPOTHESES = _schema(
    conversation_id=pa.string(),
    checkpoint=pa.string(),  # digest of its weights
    # Audio that was transcribed at once, and the part of it whose words count: windows may overlap, parts do not.
    windows=pa.list_(
        pa.struct(
            {
                "start_frame": pa.int32(),
                "num_frames": pa.int32(),
                "own_start_frame": pa.int32(),
                "own_num_frames": pa.int32(),
            }
        )
    ),
    turns=pa.list_(
        pa.struct(
            {
                "window": pa.int32(),  # index into windows
                "tag": pa.string(),  # s0, s1, ...: numbered anew in each window
                "speaker": pa.string(),  # the same name in all windows, as far as they were joined
                "text": pa.string(),
                "start_s": pa.float64(),  # predicted, of the conversation; null where none was predicted
                "end_s": pa.float64(),
            }
        )
    ),
    num_tokens=pa.int32(),
    num_cut=pa.int32(),  # windows whose answer reached the most tokens allowed
    nll=pa.float64(),  # negative log-likelihood of the targets in nats, where a task is judged by it, and their weight
    nll_weight=pa.float64(),
)


@runtime_checkable
class Operator(Protocol):
    """A frozen dataclass that is its own configuration: Arrow table in, Arrow table out."""

    reads: ClassVar[pa.Schema]
    writes: ClassVar[pa.Schema]
    version: ClassVar[str]
    """Raised when the meaning of the output changes: partitions made by another version are stale."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return one batch, made of one batch."""
        ...


def check_chain(source: pa.Schema, *operators: Operator) -> pa.Schema:
    """Check that each operator is given the columns it reads, before any work starts.

    Raises:
        TypeError: names the operator, the column and what it is given instead.
    """
    given = source
    for operator in operators:
        for field in operator.reads:
            index = given.get_field_index(field.name)
            if index < 0 or given.field(index).type != field.type:
                has = given.field(index).type if index >= 0 else f"only {given.names}"
                name = type(operator).__name__
                raise TypeError(f"{name} reads {field.name}: {field.type}, but is given {has}")
        given = operator.writes
    return given


def table(rows: Sequence[dict[str, object]], schema: pa.Schema) -> pa.Table:
    """Build a table of a declared schema from rows."""
    return pa.Table.from_pylist(list(rows), schema=schema)
