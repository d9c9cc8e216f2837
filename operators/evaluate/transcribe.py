"""Codes to hypotheses: a checkpoint transcribes who said what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from models.codecs.codec import CodecSpec
from models.config.header import Header
from models.layouts import make_layout
from models.sequence.documents import GridSpec, PackedDocuments
from models.sequence.tokenizer import ByteTokenizer, load_tokenizer
from operators.digest import digest_file
from operators.documents.compose import Compose, codec_of
from operators.documents.tasks import EvaluatedTaskName, transcription
from operators.documents.transcription import TranscribedTurn
from operators.documents.windows import Window
from operators.errors import InputError
from operators.schema import CODES, HYPOTHESES, table

if TYPE_CHECKING:  # the version is part of keys, which are made without torch
    from models.sequence.grammar import Grammar
    from models.speech_lm.model import SpeechLM


TOKENS_PER_SECOND = 20
"""Of an answer, at most: fast English has some 15 letters a second, and there are tags. A tokenizer of bytes needs two
or three times as many for scripts with several bytes a letter."""


@dataclass(frozen=True, kw_only=True)
class Transcribe:
    """Transcribes each conversation, window by window, by greedy decoding."""

    checkpoint: str
    """Folder of the checkpoint."""
    window_s: float = 30.0
    """Longest window in seconds; longer conversations are cut where no one speaks in the reference."""
    max_tokens: int | None = None
    """Most tokens decoded for a window; `TOKENS_PER_SECOND` times its seconds by default."""
    batch_size: int = 16
    """Number of windows decoded at once."""
    constrain: bool = True
    """Whether decoding is constrained to the task's grammar: tags in order of arrival, times that do not decrease."""
    task: EvaluatedTaskName = "asr"
    """Transcription task of the prompt; the model must be trained on it."""
    device: str = "cpu"
    """Device of the model."""

    reads: ClassVar[pa.Schema] = CODES
    writes: ClassVar[pa.Schema] = HYPOTHESES
    version: ClassVar[str] = "4"

    @cached_property
    def _loaded(self) -> "tuple[SpeechLM, Header]":
        from models.training.checkpoint import load

        try:
            model, _, header = load(Path(self.checkpoint), self.device)
        except ValueError as error:
            raise InputError(str(error)) from error
        return model.eval(), header

    @cached_property
    def tokenizer(self) -> ByteTokenizer:
        """The tokenizer that the checkpoint was trained with.

        Raises:
            InputError: its digest differs from the one in the checkpoint's header.
        """
        file = Path(self.checkpoint) / "tokenizer.json"
        tokenizer = load_tokenizer(str(file) if file.exists() else "bytes")
        header = self.header
        if header.tokenizer_digest != tokenizer.digest:
            raise InputError(f"{self.checkpoint} was trained with tokenizer {header.tokenizer}, not {tokenizer.name}")
        return tokenizer

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the checkpoint's weights."""
        return digest_file(Path(self.checkpoint) / "model.safetensors")[:32]

    @property
    def most_tokens(self) -> int:
        """Most tokens decoded for a window: an answer of this length is cut."""
        if self.max_tokens is not None:
            return self.max_tokens
        return max(1, round(TOKENS_PER_SECOND * self.window_s))

    @property
    def model(self) -> "SpeechLM":
        """The checkpoint's model."""
        return self._loaded[0]

    @property
    def header(self) -> Header:
        """The checkpoint's header."""
        return self._loaded[1]

    @cached_property
    def grid(self) -> GridSpec:
        """Layout and codebooks of the checkpoint's columns."""
        codec = self.header.codec
        layout = make_layout(self.header.layout, codec.num_codebooks, codec.codebook_size, self.header.group)
        return GridSpec(layout, codec.num_codebooks, codec.codebook_size, codec.bits)

    def check_codec(self, codec: CodecSpec) -> None:
        """Check that a codec is the one that the model was trained on.

        Raises:
            InputError: it is not.
        """
        ours = self.header.codec
        if (ours.name, ours.num_codebooks, ours.weights_digest) != (
            codec.name,
            codec.num_codebooks,
            codec.weights_digest,
        ):
            raise InputError(
                f"{self.checkpoint} was trained on codec {ours.name} with {ours.num_codebooks} codebooks "
                f"({ours.weights_digest[:8]}), but these codes are from {codec.name} with {codec.num_codebooks} "
                f"({codec.weights_digest[:8]}); use a checkpoint trained on this codec, or encode again"
            )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the hypothesis of each conversation (rows of CODES to HYPOTHESES), window by window."""
        codec = codec_of(batch.schema)
        self.check_codec(codec)
        rows = batch.to_pylist()
        compose = self.compose
        pieces = [(i, window) for i, row in enumerate(rows) for window in compose.windows(row, codec)]
        prompts = [self.prompt(rows[i], window, codec) for i, window in pieces]
        answers = self.answer(prompts)
        spans: list[list[dict[str, int]]] = [[] for _ in rows]
        turns: list[list[dict[str, Any]]] = [[] for _ in rows]
        tokens, cut = [0] * len(rows), [0] * len(rows)
        for (i, window), answer in zip(pieces, answers, strict=True):
            start_s = window.start_frame / codec.frame_rate_hz
            for turn in self.turns(answer):
                times = {
                    name: None if value is None else round(start_s + value, 6)
                    for name, value in (("start_s", turn.start_s), ("end_s", turn.end_s))
                }
                turns[i].append({"window": len(spans[i]), "speaker": turn.speaker, "text": turn.text, **times})
            spans[i].append({"start_frame": window.start_frame, "num_frames": window.end_frame - window.start_frame})
            tokens[i] += len(answer)
            cut[i] += len(answer) >= self.most_tokens
        return table(
            [
                {
                    "conversation_id": row["conversation_id"],
                    "checkpoint": self.weights_digest,
                    "windows": spans[i],
                    "turns": turns[i],
                    "num_tokens": tokens[i],
                    "num_cut": cut[i],
                }
                for i, row in enumerate(rows)
            ],
            HYPOTHESES,
        )

    @cached_property
    def compose(self) -> Compose:
        """The operator that composes prompts the same way as the checkpoint's training documents."""
        file = Path(self.checkpoint) / "tokenizer.json"
        layout: Any = self.header.layout
        return Compose(
            window_s=self.window_s,
            layout=layout,
            group=self.header.group,
            tokenizer=str(file) if file.exists() else "bytes",
            deduplicate=self.header.deduplicate,
        )

    def prompt(self, row: Mapping[str, Any], window: Window, codec: CodecSpec) -> PackedDocuments:
        """Return the transcription prompt of one window of a conversation (a row of CODES)."""
        return self.compose.prompt(row, window, codec, self.task).prompt()

    def grammar(self, prompt: PackedDocuments) -> "Grammar[Any] | None":
        """Return the grammar of answers to a prompt; speakers that the prompt names may be used from the start."""
        tags = prompt.text_tokens - ByteTokenizer.FIRST_SPEAKER
        named = tags[(tags >= 0) & (tags < ByteTokenizer.MAX_SPEAKERS)]
        carried = int(named.max()) + 1 if len(named) else 0
        return transcription(self.task).grammar(self.tokenizer, self.window_s, carried)

    def turns(self, answer: Sequence[int]) -> list[TranscribedTurn]:
        """Return the turns of an answer's tokens, with times from the window's start where the task predicts them."""
        return transcription(self.task).turns(self.tokenizer, answer)

    def answer(self, prompts: Sequence[PackedDocuments]) -> list[list[int]]:
        """Return the tokens of each prompt's answer, decoded `batch_size` at a time by similar length."""
        from models.speech_lm.generate import greedy_text

        model, _ = self._loaded
        order = sorted(range(len(prompts)), key=lambda i: prompts[i].num_columns)
        answers: list[list[int]] = [[] for _ in prompts]
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            grammars = [self.grammar(prompts[i]) for i in chosen] if self.constrain else []
            decoded = greedy_text(
                model,
                [prompts[i] for i in chosen],
                self.grid,
                end=ByteTokenizer.END,
                max_tokens=self.most_tokens,
                grammars=[grammar for grammar in grammars if grammar is not None] or None,
            )
            for i, answer in zip(chosen, decoded, strict=True):
                answers[i] = answer
        return answers
