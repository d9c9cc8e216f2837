"""A document as it grows, and all that a task may draw on to make it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.codecs.codec import CodecSpec
from models.layouts.layout import Layout
from models.sequence.documents import AUDIO, TEXT, PackedDocuments
from models.sequence.tokenizer import ByteTokenizer
from operators.errors import UnusableRowError
from operators.rng import rng

Turn = Mapping[str, Any]


@dataclass(frozen=True)
class Window:
    """A piece of a conversation: frames [start, end), turns heard again, and turns to be written down."""

    start_frame: int
    end_frame: int
    carried: tuple[Turn, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Scene:
    """All that a task may draw on: a conversation's codes and truth, one window of it, and the recipe's choices."""

    row: Mapping[str, Any]  # of CODES
    window: Window
    codec: CodecSpec
    layout: Layout
    tokenizer: ByteTokenizer
    document_id: str
    raw_text: bool
    enrol_frames: int
    prompt_frames: int
    carry_voices: bool
    deduplicate: bool
    seed: int

    @property
    def speakers(self) -> Sequence[str]:
        """By arrival."""
        speakers: Sequence[str] = self.row["speakers"]
        return speakers

    def draw(self, purpose: str) -> np.random.Generator:
        """Return the generator of one random choice of this document, for instance "instruction"."""
        return rng(self.seed, f"task-{purpose}", self.document_id)

    def words_of(self, turn: Turn) -> list[int]:
        """Return a turn's text as tokens.

        Raises:
            UnusableRowError: the tokenizer cannot write it.
        """
        return self.encoded(turn["text"] if self.raw_text else turn["text_normalized"])

    def encoded(self, text: str) -> list[int]:
        """Return a text as tokens.

        Raises:
            UnusableRowError: the tokenizer cannot write it.
        """
        try:
            return self.tokenizer.encode(text)
        except ValueError as error:
            raise UnusableRowError(str(error)) from error

    def tag(self, speaker: str) -> int:
        """Return a speaker's tag, by arrival.

        Raises:
            UnusableRowError: there are more speakers than tags.
        """
        try:
            return self.tokenizer.speaker(list(self.speakers).index(speaker))
        except ValueError as error:
            raise UnusableRowError(str(error)) from error

    def mixture(self, start_frame: int, end_frame: int) -> bytes:
        """Return the codes of frames of the mixture."""
        return frames_of(self.row["codes"], start_frame, end_frame, self.codec)

    def stem(self, speaker: str, start_frame: int, end_frame: int) -> bytes:
        """Return the codes of frames of a speaker's own sound, without the room where there are both.

        Raises:
            UnusableRowError: there are none.
        """
        mine = sorted((s for s in self.row["stems"] if s["speaker"] == speaker), key=lambda s: str(s["kind"]))
        if not mine:
            raise UnusableRowError(
                f"{self.row['conversation_id']} has no codes of {speaker}'s own sound; simulated conversations have "
                "them with --render.stems anechoic --encode.stems"
            )
        return frames_of(mine[0]["codes"], start_frame, end_frame, self.codec)

    def solo(self, speaker: str, before: int | None = None) -> tuple[int, int] | None:
        """Return frames in which a speaker alone speaks: of a turn outside the window where there is one.

        A turn inside counts only where the speaker has another one there. The longest is taken, up to `enrol_frames`.

        Args:
            speaker: whose voice.
            before: only turns that end by this frame.
        """
        turns: Sequence[Turn] = self.row["turns"]
        inside = [t for t in self.window.turns if t["speaker"] == speaker]
        found: list[tuple[bool, int, int]] = []
        for turn in turns:
            start, end = turn["start_frame"], turn["start_frame"] + turn["num_frames"]
            if turn["speaker"] != speaker or (before is not None and end > before):
                continue
            alone = all(
                t["speaker"] == speaker or t["start_frame"] >= end or t["start_frame"] + t["num_frames"] <= start
                for t in turns
            )
            outside = end <= self.window.start_frame or start >= self.window.end_frame
            if alone and (outside or len(inside) > 1):
                found.append((outside, min(end - start, self.enrol_frames), start))
        if not found:
            return None
        _, length, start = max(found, key=lambda one: (one[0], one[1], -one[2]))
        return start, start + length


def frames_of(codes: bytes, start_frame: int, end_frame: int, codec: CodecSpec) -> bytes:
    """Return the bytes of frames [start, end) of packed codes."""
    frame_bytes = codec.num_codebooks * codec.bits // 8
    return codes[start_frame * frame_bytes : end_frame * frame_bytes]


def distinct(codes: bytes, codec: CodecSpec) -> bytes:
    """Return packed codes with frames left out that equal the one before; how long each lasted is lost.

    Source: Lakhotia et al. 2021, "Generative Spoken Language Modeling", arXiv:2102.01192, section 3.1.
    """
    size = codec.num_codebooks * codec.bits // 8
    frames = np.frombuffer(codes, np.uint8).reshape(-1, size)
    keep = np.ones(len(frames), bool)
    keep[1:] = (frames[1:] != frames[:-1]).any(axis=1)
    return frames[keep].tobytes()


@dataclass
class Document:
    """A document as it grows, column by column."""

    layout: Layout
    codec: CodecSpec
    columns: int = 0
    segments: list[dict[str, int]] = field(default_factory=list)
    text_tokens: list[int] = field(default_factory=list)
    codes: list[bytes] = field(default_factory=list)
    loss_spans: list[dict[str, float]] = field(default_factory=list)
    talker_spans: list[dict[str, int]] = field(default_factory=list)

    def text(self, tokens: Sequence[int], weight: float = 0.0) -> None:
        """Append text columns; a weight makes them targets."""
        if not tokens:
            return
        self.segments.append({"kind": TEXT, "start_column": self.columns, "length": len(tokens)})
        self.text_tokens += tokens
        self.columns += len(tokens)
        if weight:
            self.span(TEXT, self.columns - len(tokens), self.columns, weight)

    def audio(self, codes: bytes, targets_from: int | None = None) -> int:
        """Append audio columns; frames from `targets_from` on are targets, and that the audio goes on.

        Returns:
            The first column.
        """
        frames = len(codes) * 8 // (self.codec.bits * self.codec.num_codebooks)
        first = self.columns
        if not frames:
            return first
        self.segments.append({"kind": AUDIO, "start_column": first, "length": frames})
        self.codes.append(codes)
        self.columns += self.layout.num_columns(frames)
        if targets_from is not None:
            # A column counts about as a token, however many streams it has.
            for start, end in self.layout.target_columns(targets_from, frames):
                self.span(AUDIO, first + start, first + end, 1.0 / self.layout.num_streams)
                self.span(TEXT, first + start, first + end, 1.0)
        return first

    def span(self, kind: int, start: int, end: int, weight: float) -> None:
        """Make cells of columns targets; what goes on where the span before ended lengthens it."""
        last = self.loss_spans[-1] if self.loss_spans else {}
        if (last.get("kind"), last.get("end_column"), last.get("weight")) == (kind, start, weight):
            last["end_column"] = end
        elif start < end:
            self.loss_spans.append({"kind": kind, "start_column": start, "end_column": end, "weight": weight})

    def talkers(self, first: int, scene: Scene) -> None:
        """Say who talks where in the window's audio, of which `first` is the first column."""
        start, frames = scene.window.start_frame, scene.window.end_frame - scene.window.start_frame
        arrived = list(scene.speakers)
        for turn in (*scene.window.carried, *scene.window.turns):
            begin = max(0, turn["start_frame"] - start)
            end = min(frames, turn["start_frame"] + turn["num_frames"] - start)
            if begin >= end:
                continue
            behind = self.layout.target_columns(end, frames) if end < frames else []
            for number, (a, last) in enumerate(self.layout.target_columns(begin, frames)):
                b = behind[number][0] if number < len(behind) else last
                span = {"talker": arrived.index(turn["speaker"]), "start_column": first + a, "end_column": first + b}
                self.talker_spans += [span] * (a < b)

    def prompt(self) -> PackedDocuments:
        """Return the document as a pack of its own, of which nothing is predicted: what generation goes on from."""
        segments = [[s["kind"], s["start_column"], s["length"]] for s in self.segments]
        return PackedDocuments(
            pack_id="prompt",
            num_columns=self.columns,
            cu_seqlens=np.array([0, self.columns], dtype=np.int32),
            segments=np.array(segments, dtype=np.int32),
            text_tokens=np.array(self.text_tokens, dtype=np.int32),
            codes=b"".join(self.codes),
            loss_spans=np.zeros((0, 3), dtype=np.int32),
            loss_weights=np.zeros(0, dtype=np.float32),
        )

    def row(self, scene: Scene, task: str) -> dict[str, Any]:
        """Return the row of DOCUMENTS."""
        return {
            "document_id": scene.document_id,
            "conversation_id": scene.row["conversation_id"],
            "task": task,
            "speakers": scene.speakers,
            "start_frame": scene.window.start_frame,
            "num_frames": scene.window.end_frame - scene.window.start_frame,
            "num_columns": self.columns,
            "segments": self.segments,
            "text_tokens": self.text_tokens,
            "codes": b"".join(self.codes),
            "loss_spans": self.loss_spans,
            "talker_spans": self.talker_spans,
        }
