"""A document under construction: text and audio columns are appended, and cells are marked as targets."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from models.codecs.codec import CodecSpec
from models.layouts.layout import Layout
from models.sequence.documents import AUDIO, TEXT, PackedDocuments
from operators.documents.scene import Scene


@dataclass
class Document:
    """A document that grows column by column."""

    layout: Layout
    codec: CodecSpec
    columns: int = 0
    segments: list[dict[str, int]] = field(default_factory=list)
    text_tokens: list[int] = field(default_factory=list)
    codes: list[bytes] = field(default_factory=list)
    loss_spans: list[dict[str, float]] = field(default_factory=list)
    talker_spans: list[dict[str, int]] = field(default_factory=list)
    suffix: str = ""
    """Of its id, where a task makes several documents of a window."""
    asked: dict[str, str] = field(default_factory=dict)
    """What the prompt asks, as evaluation slices by it and measures it: instruction, hotwords."""

    def add_text(self, tokens: Sequence[int], weight: float = 0.0) -> None:
        """Append text columns; a weight above 0 makes them targets."""
        if not tokens:
            return
        self.segments.append({"kind": TEXT, "start_column": self.columns, "length": len(tokens)})
        self.text_tokens += tokens
        self.columns += len(tokens)
        if weight:
            self.add_loss_span(TEXT, self.columns - len(tokens), self.columns, weight)

    def add_audio(self, codes: bytes, targets_from: int | None = None) -> int:
        """Append audio columns.

        Args:
            codes: packed codes.
            targets_from: first frame whose codes are targets, as is the text cell that says the audio continues; no
                frame where None.

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
            # A column counts about as much as a token, however many streams it has.
            for start, end in self.layout.target_columns(targets_from, frames):
                self.add_loss_span(AUDIO, first + start, first + end, 1.0 / self.layout.num_streams)
                self.add_loss_span(TEXT, first + start, first + end, 1.0)
        return first

    def overlay_text(self, column: int, token: int) -> None:
        """Write a token into the text cell of an audio column; streams are read in the order of segments."""
        self.segments.append({"kind": TEXT, "start_column": column, "length": 1})
        self.text_tokens.append(token)

    def add_loss_span(self, kind: int, start: int, end: int, weight: float) -> None:
        """Make the cells of columns [start, end) targets; a span that continues the last one extends it."""
        last = self.loss_spans[-1] if self.loss_spans else {}
        if (last.get("kind"), last.get("end_column"), last.get("weight")) == (kind, start, weight):
            last["end_column"] = end
        elif start < end:
            self.loss_spans.append({"kind": kind, "start_column": start, "end_column": end, "weight": weight})

    def add_talker_spans(self, first: int, scene: Scene) -> None:
        """Record who talks where in the window's audio, whose first column is `first`."""
        start, frames = scene.window.start_frame, scene.window.end_frame - scene.window.start_frame
        for turn in (*scene.window.carried, *scene.window.turns):
            begin = max(0, turn["start_frame"] - start)
            end = min(frames, turn["start_frame"] + turn["num_frames"] - start)
            if begin >= end:
                continue
            after = self.layout.target_columns(end, frames) if end < frames else []
            for number, (a, last) in enumerate(self.layout.target_columns(begin, frames)):
                b = after[number][0] if number < len(after) else last
                span = {
                    "talker": scene.arrivals.index(turn["speaker"]),
                    "start_column": first + a,
                    "end_column": first + b,
                }
                self.talker_spans += [span] * (a < b)

    def prompt(self) -> PackedDocuments:
        """Return the document as a pack of its own without targets: the prompt of a generation."""
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
            talker_spans=np.array(
                [[span["talker"], span["start_column"], span["end_column"]] for span in self.talker_spans], np.int32
            ).reshape(-1, 3),
        )

    def question(self) -> tuple[PackedDocuments, list[int]]:
        """Return what precedes the first target, as a prompt, and the text tokens of the targets.

        Raises:
            ValueError: there are no targets, or audio is predicted.
        """
        if not self.loss_spans or any(span["kind"] != TEXT for span in self.loss_spans):
            raise ValueError("only a document whose targets are text asks a question")
        border = int(min(span["start_column"] for span in self.loss_spans))
        asked = [segment for segment in self.segments if segment["start_column"] < border]
        given = sum(segment["length"] for segment in asked if segment["kind"] == TEXT)
        prompt = replace(self, segments=asked, text_tokens=self.text_tokens[:given], columns=border)
        return prompt.prompt(), self.text_tokens[given:]

    def whole(self) -> PackedDocuments:
        """Return the document as a pack of its own, with its targets."""
        spans = [[span["kind"], span["start_column"], span["end_column"]] for span in self.loss_spans]
        weights = [span["weight"] for span in self.loss_spans]
        return replace(
            self.prompt(),
            loss_spans=np.array(spans, dtype=np.int32).reshape(-1, 3),
            loss_weights=np.array(weights, dtype=np.float32),
        )

    def row(self, scene: Scene, task: str) -> dict[str, Any]:
        """Return the document as a row of DOCUMENTS."""
        return {
            "document_id": scene.document_id + self.suffix,
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
