"""Codes to documents: windows of a conversation, and the tasks that are made of each, on the token grid."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pyarrow as pa

from models.codecs.codec import CodecSpec
from models.config.settings import BY_CONTENT
from models.layouts import LAYOUTS, LayoutName, make_layout
from models.layouts.layout import Layout
from models.sequence.tokenizer import ByteTokenizer, load_tokenizer
from operators.documents.document import Document, Scene, Turn, Window
from operators.documents.tasks import TASKS, asr_prompt
from operators.errors import InputError, UnusableRowError
from operators.schema import CODES, DOCUMENTS, table

TaskName = Literal[
    "asr", "asr_fifo", "asr_timed", "asr_token", "asr_target", "asr_context", "continue", "extract", "speak", "duplex",
    "interleave",
]  # fmt: skip


def windows(turns: Sequence[Turn], num_frames: int, length: int, overlap: int) -> list[Window]:
    """Cut a conversation into windows, only where nobody speaks.

    Args:
        turns: by start, with start_frame and num_frames.
        num_frames: of the whole conversation.
        length: frames of a window at most.
        overlap: frames that a window may reach back before what is new in it; the whole turns in there are heard
            again, and their text is given in the prompt, so that tags go on as they were.

    Raises:
        UnusableRowError: turns that overlap each other without a pause are longer than a window.

    >>> talk = [{"start_frame": s, "num_frames": 40} for s in (0, 50, 100)]
    >>> [(w.start_frame, w.end_frame, len(w.carried), len(w.turns)) for w in windows(talk, 150, 100, 60)]
    [(0, 95, 0, 2), (45, 145, 1, 1)]
    """
    if num_frames <= length:
        return [Window(0, num_frames, (), tuple(turns))]
    # Islands: stretches in which somebody always speaks.
    islands: list[tuple[int, int, list[Turn]]] = []
    for turn in turns:
        start, end = turn["start_frame"], turn["start_frame"] + turn["num_frames"]
        if islands and start < islands[-1][1]:
            islands[-1] = (islands[-1][0], max(end, islands[-1][1]), [*islands[-1][2], turn])
        else:
            islands.append((start, end, [turn]))
    # A cut stands in the middle of the silence between two islands.
    cuts = [0, *((a[1] + b[0]) // 2 for a, b in itertools.pairwise(islands)), num_frames]
    found: list[Window] = []
    first = 0
    while first < len(islands):
        back = first
        while back > 0 and cuts[first] - cuts[back - 1] <= overlap:
            back -= 1
        while back < first and islands[first][1] - cuts[back] > length:
            back += 1  # carry less where what is new would not fit
        start = cuts[back]
        if islands[first][1] - start > length:
            start = islands[first][1] - length  # give up silence before it gives up speech
            if start > islands[first][0]:
                frames = islands[first][1] - islands[first][0]
                raise UnusableRowError(
                    f"{frames} frames of speech without a pause do not fit into a window of {length}"
                )
        last = first
        while last + 1 < len(islands) and islands[last + 1][1] - start <= length:
            last += 1
        end = min(cuts[last + 1], start + length)
        carried = tuple(turn for island in islands[back:first] for turn in island[2])
        found.append(Window(start, end, carried, tuple(t for island in islands[first : last + 1] for t in island[2])))
        first = last + 1
    return found


@dataclass(frozen=True, kw_only=True)
class Compose:
    """Makes documents of conversations' codes: tasks, layout and windows are chosen here, never at `encode`."""

    tasks: tuple[TaskName, ...] = field(default=("asr",), metadata=BY_CONTENT)
    """Tasks each window is made into: see docs/documents.md."""
    layout: LayoutName = "parallel"
    """How codes stand on columns."""
    group: int = 1
    """Frames side by side in a column, in layouts that have groups (parallel, depth)."""
    window_s: float = 30.0
    """Longest stretch of a conversation in one document; cut only where nobody speaks."""
    overlap_s: float = 0.0
    """How far a window reaches back; turns heard again stand in the prompt with their tags and text."""
    carry_voices: bool = False
    """Whether later windows' prompts hold a sample of each voice that was heard before."""
    prompt_s: float = 2.0
    """Audio given before a continuation."""
    enrol_s: float = 3.0
    """Longest sample of a voice."""
    text: Literal["normalized", "raw"] = "normalized"
    """Which text is written: as scored, or as the corpus has it."""
    tokenizer: str = field(default="bytes", metadata=BY_CONTENT)
    """How text becomes integers: bytes, or a tokenizer.json (or its folder)."""
    deduplicate: bool = False
    """Whether repeated frames of audio that is heard (not made) are left out."""
    seed: int | None = None
    """Seed of the tasks' random choices; the recipe's seed where none is given."""

    reads: ClassVar[pa.Schema] = CODES
    writes: ClassVar[pa.Schema] = DOCUMENTS
    version: ClassVar[str] = "5"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.tasks:
            raise InputError(f"compose.tasks is empty; there are {', '.join(TASKS)}")
        if self.group < 1 or self.window_s <= 0 or not 0 <= self.overlap_s < self.window_s or self.prompt_s <= 0:
            raise InputError("compose: group >= 1, window_s > overlap_s >= 0 and prompt_s > 0 must hold")
        if self.enrol_s <= 0:
            raise InputError("compose.enrol_s must be positive")
        if not LAYOUTS[self.layout].has_groups and self.group != 1:
            raise InputError(
                f"compose: the {self.layout} layout has no groups; use --compose.group 1 or --compose.layout parallel"
            )
        if "duplex" in self.tasks and self.group % 2:
            raise InputError(
                "compose: task duplex needs two frames side by side: --compose.group 2 (or another even one)"
            )

    def layout_of(self, codec: CodecSpec) -> Layout:
        """Return the layout for a codec."""
        return make_layout(self.layout, codec.num_codebooks, codec.codebook_size, self.group)

    @property
    def loaded_tokenizer(self) -> ByteTokenizer:
        """The tokenizer.

        Raises:
            InputError: there is no such file.
        """
        try:
            return load_tokenizer(self.tokenizer)
        except ValueError as error:
            raise InputError(f"compose.tokenizer: {error}") from error

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the documents of each conversation.

        Raises:
            UnusableRowError: a conversation cannot be cut, has more speakers than there are tags, or lacks what a task
                needs.
        """
        codec = codec_of(batch.schema)
        return table([document for row in batch.to_pylist() for document in self.documents(row, codec)], DOCUMENTS)

    def windows(self, row: Mapping[str, Any], codec: CodecSpec) -> list[Window]:
        """Return the windows of a conversation (a row of CODES)."""
        length, overlap = (int(seconds * codec.frame_rate_hz) for seconds in (self.window_s, self.overlap_s))
        return windows(row["turns"], row["num_frames"], length, overlap)

    def documents(self, row: Mapping[str, Any], codec: CodecSpec) -> Iterator[dict[str, Any]]:
        """Yield the documents (rows of DOCUMENTS) of one conversation (a row of CODES)."""
        for number, window in enumerate(self.windows(row, codec)):
            for task in self.tasks:
                scene = self.scene(row, window, codec, f"{row['conversation_id']}/{number}/{task}")
                for document in TASKS[task](scene):
                    yield document.row(scene, task)

    def scene(self, row: Mapping[str, Any], window: Window, codec: CodecSpec, document_id: str) -> Scene:
        """Return what a task draws on."""
        prompt = max(1, round(self.prompt_s * codec.frame_rate_hz))
        return Scene(
            row=row,
            window=window,
            codec=codec,
            layout=self.layout_of(codec),
            tokenizer=self.loaded_tokenizer,
            document_id=document_id,
            raw_text=self.text == "raw",
            enrol_frames=max(1, round(self.enrol_s * codec.frame_rate_hz)),
            prompt_frames=-(-prompt // self.group) * self.group,
            carry_voices=self.carry_voices,
            deduplicate=self.deduplicate,
            seed=self.seed or 0,
        )

    def asr_question(self, row: Mapping[str, Any], window: Window, codec: CodecSpec, task: str = "asr") -> Document:
        """Return the prompt of a transcription that is still to be written."""
        scene = self.scene(row, window, codec, "question")
        tokenizer = scene.tokenizer
        first = {"asr": tokenizer.ASR, "asr_fifo": tokenizer.ASR_FIFO, "asr_timed": tokenizer.ASR_TIMED,
                 "asr_token": tokenizer.ASR_TOKEN}[task]  # fmt: skip
        document = asr_prompt(scene, [first])
        document.text([tokenizer.TEXT])
        return document


def codec_of(schema: pa.Schema) -> CodecSpec:
    """Return the codec that a data set's metadata names."""
    return CodecSpec(**json.loads(schema.metadata[b"hubbub.codec"]))
