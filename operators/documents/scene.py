"""Everything a task may use to make documents: a conversation, one window of it, and the recipe's options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from models.codecs.codec import CodecSpec
from models.layouts.layout import Layout
from models.sequence.tokenizer import ByteTokenizer
from operators.documents.hotwords import WordCounts
from operators.documents.split_turns import Turn
from operators.documents.windows import Window
from operators.errors import UnusableRowError
from operators.rng import rng


@dataclass(frozen=True)
class Asked:
    """What a user asks of a recording, where documents would take a question from the truth."""

    text: str
    """Of the instruction, as the task words it."""
    voice: bytes | None = None
    """Packed codes of a sample of the voice that is asked for."""


@dataclass(frozen=True)
class Scene:
    """A conversation's codes and truth, one window of it, and the recipe's options."""

    row: Mapping[str, Any]
    """Row of CODES."""
    window: Window
    codec: CodecSpec
    layout: Layout
    tokenizer: ByteTokenizer
    document_id: str
    raw_text: bool
    """Whether text is written as in the corpus, not normalized."""
    enrol_frames: int
    """Longest voice sample."""
    prompt_frames: int
    """Audio given before a continuation; a multiple of the group."""
    carry_voices: bool
    """Whether the prompt holds a sample of each voice of earlier windows."""
    deduplicate: bool
    """Whether repeated frames of prompt audio are left out."""
    seed: int
    words: WordCounts | None = None
    """Words of the corpus, for tasks that use them; None where only this conversation is at hand."""
    most_hotwords: int = 20
    """Most hotwords in a prompt."""
    rare_hotwords: bool = False
    """Whether hotwords are the corpus's rare words, not its long ones."""
    empty_share: float = 0.0
    """Share of instructions that nobody in the window answers to, of those windows that allow one."""
    is_evaluated: bool = False
    """Whether the document is a question of evaluation, which is always worded the same."""
    asked: Asked | None = None
    """What a user asks; None where the truth decides."""

    @property
    def speakers(self) -> Sequence[str]:
        """All speakers of the conversation, by arrival."""
        speakers: Sequence[str] = self.row["speakers"]
        return speakers

    @cached_property
    def voices(self) -> dict[str, tuple[int, int]]:
        """Frames [start, end) of each voice sample that the prompt holds, by arrival in the conversation."""
        if self.window.voices is not None:
            return dict(self.window.voices)
        if not self.carry_voices or not self.window.start_frame:
            return {}
        samples = {speaker: self.solo(speaker, before=self.window.start_frame) for speaker in self.speakers}
        return {speaker: span for speaker, span in samples.items() if span is not None}

    @cached_property
    def arrivals(self) -> list[str]:
        """Speakers by their first place in the document: voice samples, turns carried over, new turns.

        A model that sees nothing but this document can number speakers this way, and no other. Speakers without text
        come last, for their turns are not written.
        """
        heard = (self.window.carried, self.window.turns)
        written = [turn for turns in heard for turn in by_start(turns, self.speakers)]
        rest = [turn for turns in heard for turn in turns]
        return list(dict.fromkeys([*self.voices, *(turn["speaker"] for turn in (*written, *rest))]))

    @property
    def window_speakers(self) -> list[str]:
        """Speakers with a new turn in the window, by arrival in the document."""
        return [s for s in self.arrivals if any(t["speaker"] == s for t in self.window.turns)]

    def draw(self, purpose: str) -> np.random.Generator:
        """Return the generator of one random choice of this document, for instance "instruction"."""
        return rng(self.seed, f"task-{purpose}", self.document_id)

    def turn_tokens(self, turn: Turn) -> list[int]:
        """Return a turn's text as tokens.

        Raises:
            UnusableRowError: the tokenizer cannot encode it.
        """
        return self.encode(turn["text"] if self.raw_text else turn["text_normalized"])

    def encode(self, text: str) -> list[int]:
        """Return a text as tokens.

        Raises:
            UnusableRowError: the tokenizer cannot encode it.
        """
        try:
            return self.tokenizer.encode(text)
        except ValueError as error:
            raise UnusableRowError(str(error)) from error

    def tag(self, speaker: str) -> int:
        """Return the token of a speaker's tag, by arrival in the document.

        Raises:
            UnusableRowError: there are more speakers than tags.
        """
        try:
            return self.tokenizer.speaker(self.arrivals.index(speaker))
        except ValueError as error:
            raise UnusableRowError(str(error)) from error

    def mixture(self, start_frame: int, end_frame: int) -> bytes:
        """Return the packed codes of frames [start_frame, end_frame) of the mixture."""
        return frames_of(self.row["codes"], start_frame, end_frame, self.codec)

    @property
    def window_mixture(self) -> bytes:
        """Packed codes of the whole window."""
        return self.mixture(self.window.start_frame, self.window.end_frame)

    def stem(self, speaker: str, start_frame: int, end_frame: int) -> bytes:
        """Return the packed codes of frames of a speaker's stem: the anechoic one where there are both kinds.

        Raises:
            UnusableRowError: the conversation has no stem of this speaker.
        """
        stems = sorted((s for s in self.row["stems"] if s["speaker"] == speaker), key=lambda s: str(s["kind"]))
        if not stems:
            raise UnusableRowError(
                f"{self.row['conversation_id']} has no codes of {speaker}'s stem; simulated conversations get them "
                "from --render.stems anechoic --encode.stems"
            )
        return frames_of(stems[0]["codes"], start_frame, end_frame, self.codec)

    def voice(self, speaker: str) -> bytes | None:
        """Return the packed codes of a speaker's voice sample, at most `enrol_frames`; None where there is none.

        It is of another recording where the conversation has an enrolment of the speaker, else of the conversation
        outside the window: a sample of the window itself would stand in what the model is asked about.
        """
        for one in self.row.get("enrolments") or ():
            if one["speaker"] == speaker:
                return frames_of(one["codes"], 0, self.enrol_frames, self.codec)
        span = self.solo(speaker)
        return None if span is None else self.mixture(*span)

    def solo(self, speaker: str, before: int | None = None) -> tuple[int, int] | None:
        """Return frames [start, end) outside the window in which only this speaker speaks; None where there are none.

        The longest turn is chosen and cut to `enrol_frames`.

        Args:
            speaker: whose voice.
            before: only turns that end by this frame.
        """
        turns: Sequence[Turn] = self.row["turns"]
        found: list[tuple[int, int]] = []
        for turn in turns:
            start, end = turn["start_frame"], turn["start_frame"] + turn["num_frames"]
            if turn["speaker"] != speaker or (before is not None and end > before):
                continue
            alone = all(
                t["speaker"] == speaker or t["start_frame"] >= end or t["start_frame"] + t["num_frames"] <= start
                for t in turns
            )
            if alone and (end <= self.window.start_frame or start >= self.window.end_frame):
                found.append((min(end - start, self.enrol_frames), start))
        if not found:
            return None
        length, start = max(found, key=lambda sample: (sample[0], -sample[1]))
        return start, start + length


def by_start(turns: Sequence[Turn], speakers: Sequence[str]) -> list[Turn]:
    """Return the turns that have text, by start; ties by arrival of their speakers."""
    place = {speaker: number for number, speaker in enumerate(speakers)}
    return sorted((t for t in turns if t["text_normalized"]), key=lambda t: (t["start_frame"], place[t["speaker"]]))


def frames_of(codes: bytes, start_frame: int, end_frame: int, codec: CodecSpec) -> bytes:
    """Return the bytes of frames [start_frame, end_frame) of packed codes."""
    frame_bytes = codec.num_codebooks * codec.bits // 8
    return codes[start_frame * frame_bytes : end_frame * frame_bytes]


def without_repeats(codes: bytes, codec: CodecSpec) -> bytes:
    """Return packed codes without the frames that equal the one before; how long each lasted is lost.

    Source: Lakhotia et al. 2021, "Generative Spoken Language Modeling", arXiv:2102.01192, section 3.1.
    """
    size = codec.num_codebooks * codec.bits // 8
    frames = np.frombuffer(codes, np.uint8).reshape(-1, size)
    keep = np.ones(len(frames), bool)
    keep[1:] = (frames[1:] != frames[:-1]).any(axis=1)
    return frames[keep].tobytes()
