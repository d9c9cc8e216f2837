"""Codes to documents: a task's prompt and target on the token grid that `operators.schema` spells out."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa

from models.batch import AUDIO, TEXT
from models.codec import CodecSpec
from models.layouts import Layout, make_layout
from models.tokenizer import ByteTokenizer
from operators.errors import InputError, UnusableRowError
from operators.schema import CODES, DOCUMENTS, table

TOKENIZER = ByteTokenizer()
Turn = Mapping[str, Any]


@dataclass(frozen=True)
class Window:
    """A piece of a conversation: frames [start, end), turns heard again, and turns to be written down."""

    start_frame: int
    end_frame: int
    carried: tuple[Turn, ...]
    turns: tuple[Turn, ...]


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

    tasks: tuple[Literal["asr", "continue"], ...] = ("asr",)
    """Tasks each window is made into: serialized multi-talker transcription, continuation of the codes."""
    layout: Literal["parallel", "delay"] = "parallel"
    """How codes stand on columns."""
    group: int = 1
    """Frames side by side in a column of the parallel layout."""
    window_s: float = 30.0
    """Longest stretch of a conversation in one document; cut only where nobody speaks."""
    overlap_s: float = 0.0
    """How far a window reaches back; turns heard again stand in the prompt with their tags and text."""
    prompt_s: float = 2.0
    """Audio given before a continuation."""

    reads: ClassVar[pa.Schema] = CODES
    writes: ClassVar[pa.Schema] = DOCUMENTS
    version: ClassVar[str] = "2"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.tasks:
            raise InputError("compose.tasks is empty; there are asr and continue")
        if self.group < 1 or self.window_s <= 0 or not 0 <= self.overlap_s < self.window_s or self.prompt_s <= 0:
            raise InputError("compose: group >= 1, window_s > overlap_s >= 0 and prompt_s > 0 must hold")
        if self.layout == "delay" and self.group != 1:
            raise InputError(
                "compose: the delay layout knows no group; use --compose.group 1 or --compose.layout parallel"
            )

    def layout_of(self, codec: CodecSpec) -> Layout:
        """Return the layout for a codec."""
        return make_layout(self.layout, codec.num_codebooks, codec.codebook_size, self.group)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the documents of each conversation.

        Raises:
            UnusableRowError: a conversation cannot be cut, or has more speakers than there are tags.
        """
        codec = codec_of(batch.schema)
        return table([document for row in batch.to_pylist() for document in self.documents(row, codec)], DOCUMENTS)

    def windows(self, row: Mapping[str, Any], codec: CodecSpec) -> list[Window]:
        """Return the windows of a conversation (a row of CODES)."""
        length, overlap = (int(seconds * codec.frame_rate_hz) for seconds in (self.window_s, self.overlap_s))
        return windows(row["turns"], row["num_frames"], length, overlap)

    def documents(self, row: Mapping[str, Any], codec: CodecSpec) -> Iterator[dict[str, Any]]:
        """Yield the documents (rows of DOCUMENTS) of one conversation (a row of CODES)."""
        layout = self.layout_of(codec)
        for number, window in enumerate(self.windows(row, codec)):
            for task in self.tasks:
                base = {
                    "document_id": f"{row['conversation_id']}/{number}/{task}",
                    "conversation_id": row["conversation_id"],
                    "task": task,
                    "speakers": row["speakers"],
                    "start_frame": window.start_frame,
                    "num_frames": window.end_frame - window.start_frame,
                    "codes": frames_of(row["codes"], window.start_frame, window.end_frame, codec),
                }
                if task == "asr":
                    prompt = self.asr_prompt(window, row["speakers"])
                    target = [*serialize(window.turns, row["speakers"]), TOKENIZER.END]
                    yield {**base, **self._asr(prompt, target, layout, base["num_frames"])}
                elif base["num_frames"] > self._prompt_frames(codec):
                    yield {**base, **self._continue(layout, base["num_frames"], self._prompt_frames(codec))}

    @staticmethod
    def asr_prompt(window: Window, speakers: Sequence[str]) -> list[int]:
        """Return the text that stands before a window's audio."""
        carry = [TOKENIZER.CARRY, *serialize(window.carried, speakers)] if window.carried else []
        return [TOKENIZER.ASR, *carry]

    @staticmethod
    def _asr(prompt: list[int], target: list[int], layout: Layout, num_frames: int) -> dict[str, Any]:
        audio_at = len(prompt)
        text_at = audio_at + layout.num_columns(num_frames)
        end = text_at + 1 + len(target)
        return {
            "num_columns": end,
            "segments": [
                {"kind": TEXT, "start_column": 0, "length": len(prompt)},
                {"kind": AUDIO, "start_column": audio_at, "length": num_frames},
                {"kind": TEXT, "start_column": text_at, "length": 1 + len(target)},
            ],
            "text_tokens": [*prompt, TOKENIZER.TEXT, *target],
            "loss_spans": [{"kind": TEXT, "start_column": text_at + 1, "end_column": end, "weight": 1.0}]
            if target
            else [],
        }

    @staticmethod
    def prompt_only(prompt: list[int], layout: Layout, num_frames: int) -> dict[str, Any]:
        """Return segments and text of a transcription that is still to be written."""
        made = Compose._asr(prompt, [], layout, num_frames)
        return {**made, "loss_spans": []}

    def _prompt_frames(self, codec: CodecSpec) -> int:
        frames = max(1, round(self.prompt_s * codec.frame_rate_hz))
        return -(-frames // self.group) * self.group

    @staticmethod
    def _continue(layout: Layout, num_frames: int, prompt_frames: int) -> dict[str, Any]:
        end = 1 + layout.num_columns(num_frames)
        # In the delay layout this column's later codebooks still belong to frames of the prompt.
        target_at = 1 + layout.first_column(prompt_frames)
        weight = 1.0 / layout.num_streams
        return {
            "num_columns": end + 1,
            "segments": [
                {"kind": TEXT, "start_column": 0, "length": 1},
                {"kind": AUDIO, "start_column": 1, "length": num_frames},
                {"kind": TEXT, "start_column": end, "length": 1},
            ],
            "text_tokens": [TOKENIZER.CONTINUE, TOKENIZER.AUDIO_END],
            "loss_spans": [
                {"kind": AUDIO, "start_column": target_at, "end_column": end, "weight": weight},
                {"kind": TEXT, "start_column": target_at, "end_column": end + 1, "weight": 1.0},
            ],
        }


def serialize(turns: Sequence[Turn], speakers: Sequence[str]) -> list[int]:
    """Return turns by start time, each behind its speaker's arrival-order tag.

    Source: serialized output training, Kanda et al. 2020, arXiv:2003.12687; tags by arrival as Sortformer orders
    speakers, Park et al. 2024, arXiv:2409.06656.

    Raises:
        UnusableRowError: there are more speakers than tags.
    """
    arrival = {speaker: place for place, speaker in enumerate(speakers)}
    tokens: list[int] = []
    for turn in sorted(turns, key=lambda turn: (turn["start_frame"], arrival[turn["speaker"]])):
        try:
            tokens.append(TOKENIZER.speaker(arrival[turn["speaker"]]))
        except ValueError as error:
            raise UnusableRowError(str(error)) from error
        tokens += TOKENIZER.encode(turn["text_normalized"])
    return tokens


def frames_of(codes: bytes, start_frame: int, end_frame: int, codec: CodecSpec) -> bytes:
    """Return the bytes of frames [start, end) of packed codes."""
    frame_bytes = codec.num_codebooks * codec.bits // 8
    return codes[start_frame * frame_bytes : end_frame * frame_bytes]


def codec_of(schema: pa.Schema) -> CodecSpec:
    """Return the codec that a data set's metadata names."""
    return CodecSpec(**json.loads(schema.metadata[b"hubbub.codec"]))
