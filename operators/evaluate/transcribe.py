"""Codes to hypotheses: a checkpoint transcribes who said what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from models.codecs.codec import CodecSpec
from models.config.header import Header, read_header, weights_digest
from models.layouts import make_layout
from models.sequence.documents import GridSpec, PackedDocuments
from models.sequence.tokenizer import ByteTokenizer, load_tokenizer
from operators.documents.compose import Compose, codec_of
from operators.documents.scene import Asked
from operators.documents.task import TranscribedTurn
from operators.documents.tasks import EVALUATED, TASKS, TaskName
from operators.errors import InputError
from operators.evaluate.cuts import pieces
from operators.evaluate.options import Cut, JoinName
from operators.evaluate.recording import Activity, Following, Recording
from operators.schema import CODES, HYPOTHESES, table

if TYPE_CHECKING:  # the version is part of keys, which are made without torch
    from models.sequence.grammar import Grammar
    from models.speech_lm.decode.decoder import Decoder
    from models.speech_lm.model import SpeechLM


QUIET_S = 0.1
"""Length of the quiet place at which a recording is cut."""

MOST_OVERLAP_S = 4.0
"""Of audio that two windows share, by default: some ten words."""

TOKENS_PER_SECOND = 20
"""Of an answer, at most: fast English has some 15 letters a second, and there are tags. A tokenizer of bytes needs two
or three times as many for scripts with several bytes a letter."""


@dataclass(frozen=True, kw_only=True)
class Transcribe:
    """Transcribes each conversation, window by window, and joins the windows."""

    checkpoint: str
    """Folder of the checkpoint."""
    window_s: float | None = None
    """Longest window in seconds; the longest that the checkpoint was trained on by default."""
    cut: Cut = "quiet"
    """Where longer conversations are cut."""
    join: tuple[JoinName, ...] = ("voices", "overlap")
    """How speakers are followed from one window to the next; voices only where the checkpoint was trained with them. By
    none, each window is a session of its own."""
    overlap_s: float | None = None
    """Seconds of audio that two windows share; by default what the checkpoint was trained with, or a fifth of a window
    (at most `MOST_OVERLAP_S`) where windows are joined by it."""
    max_tokens: int | None = None
    """Most tokens decoded for a window; `TOKENS_PER_SECOND` times its seconds by default."""
    batch_size: int = 16
    """Number of windows decoded at once; the place of one that has ended is taken by the next."""
    constrain: bool = True
    """Whether decoding is constrained to the task's grammar: tags in order of arrival, times that do not decrease."""
    beams: int = 1
    """Beginnings of each answer that are kept; 1 takes the likeliest token at every step."""
    task: TaskName = "asr"
    """Task of the prompt, one of EVALUATED where no user asks; the model must be trained on it."""
    asked: Asked | None = None
    """What a user asks of every window, by a task that takes it."""
    device: str = "cpu"
    """Device of the model."""

    reads: ClassVar[pa.Schema] = CODES
    writes: ClassVar[pa.Schema] = HYPOTHESES
    version: ClassVar[str] = "5"

    @cached_property
    def model(self) -> "SpeechLM":
        """The checkpoint's model, on the device.

        Raises:
            InputError: the folder is not a checkpoint.
        """
        from models.training.checkpoint import load

        try:
            return load(Path(self.checkpoint), self.device)[0].eval()
        except ValueError as error:
            raise InputError(str(error)) from error

    @cached_property
    def decoder(self) -> "Decoder":
        """What decodes for the model; on a GPU it keeps weights cast for decoding, caches and captured steps."""
        from models.speech_lm.decode.decoder import Decoder

        return Decoder(self.model)

    def with_model(self, model: "SpeechLM") -> "Transcribe":
        """Return the operator with a model in memory in place of the checkpoint's, which must have its shape."""
        other = replace(self)
        other.__dict__.update(self.__dict__, model=model, weights_digest="")
        other.__dict__.pop("decoder", None)
        return other

    @cached_property
    def header(self) -> Header:
        """The checkpoint's header, read without its weights.

        Raises:
            InputError: the folder is not a checkpoint.
        """
        try:
            return read_header(Path(self.checkpoint))[1]
        except ValueError as error:
            raise InputError(str(error)) from error

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
        return weights_digest(Path(self.checkpoint))[:32]

    @property
    def most_tokens(self) -> int:
        """Most tokens decoded for a window: an answer of this length is cut."""
        if self.max_tokens is not None:
            return self.max_tokens
        return max(1, round(TOKENS_PER_SECOND * self.longest_s))

    @property
    def longest_s(self) -> float:
        """Longest window in seconds."""
        return self.header.window_s if self.window_s is None else self.window_s

    @property
    def continues(self) -> bool:
        """Whether prompts hold the text of the audio that is shared with the window before, as in training.

        That takes the times of what was transcribed: without them, shared audio is transcribed twice.
        """
        return self.header.overlap_s > 0 and TASKS[self.task].predicts_times and "overlap" in self.join

    @property
    def shared_s(self) -> float:
        """Seconds of audio that two windows share."""
        if self.overlap_s is not None:
            return self.overlap_s
        if self.continues:
            return self.header.overlap_s
        return min(MOST_OVERLAP_S, self.longest_s / 5) if "overlap" in self.join else 0.0

    @property
    def carries_voices(self) -> bool:
        """Whether prompts hold samples of the voices so far, found by the times or activity that the model predicts."""
        task = TASKS[self.task]
        located = task.predicts_times or self.header.predicts_activity
        return self.header.carry_voices and task.carries_voices and "voices" in self.join and located

    @cached_property
    def grid(self) -> GridSpec:
        """Layout and codebooks of the checkpoint's columns."""
        codec = self.header.codec
        layout = make_layout(self.header.layout, codec.num_codebooks, codec.codebook_size, self.header.group)
        return GridSpec(layout, codec.num_codebooks, codec.codebook_size, codec.bits)

    def check_task(self) -> None:
        """Check that the model was trained on the task.

        Raises:
            InputError: it was not.
        """
        if self.asked is None and self.task not in EVALUATED:
            raise InputError(f"{self.task} is no task that names speakers; choose from {', '.join(EVALUATED)}")
        trained = self.header.tasks
        if trained and self.task not in trained:
            raise InputError(
                f"{self.checkpoint} was trained on {', '.join(trained)}, never on {self.task}; ask it one of these"
            )

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
        """Return the hypothesis of each conversation (rows of CODES to HYPOTHESES), window by window.

        Windows whose prompts depend on earlier ones are decoded after them, those of all conversations together.
        """
        codec = codec_of(batch.schema)
        self.check_codec(codec)
        recordings = [self.recording(row, codec) for row in batch.to_pylist()]
        self.transcribe(recordings)
        return table([recording.hypothesis(self.weights_digest) for recording in recordings], HYPOTHESES)

    def recording(self, row: Mapping[str, Any], codec: CodecSpec) -> Recording:
        """Return a conversation (a row of CODES) cut into windows that are not transcribed yet.

        Raises:
            InputError: the overlap leaves nothing of a window.
        """
        length, shared = (int(seconds * codec.frame_rate_hz) for seconds in (self.longest_s, self.shared_s))
        back, ahead = (shared, 0) if self.continues else (shared - shared // 2, shared // 2)
        try:
            cut = pieces(
                row["num_frames"],
                length,
                back=back,
                ahead=ahead,
                cut=self.cut,
                levels=None if row["levels"] is None else np.frombuffer(row["levels"], np.uint8),
                quiet_frames=max(1, round(QUIET_S * codec.frame_rate_hz)),
                turns=row["turns"],
            )
        except ValueError as error:
            raise InputError(f"evaluate.overlap_s: {error}") from error
        following = Following(
            by_overlap="overlap" in self.join,
            by_likeness="likeness" in self.join,
            carries_voices=self.carries_voices,
            continues=self.continues,
        )
        return Recording(row, codec, cut, self.compose, self.task, following, self.asked)

    def transcribe(self, recordings: Sequence[Recording]) -> None:
        """Transcribe the windows of recordings, in as many rounds as their prompts depend on each other."""
        most = max((len(recording.pieces) for recording in recordings), default=0)
        in_turn = self.continues or self.carries_voices
        for numbers in [range(n, n + 1) for n in range(most)] if in_turn else [range(most)]:
            asked = [(r, n) for r in recordings for n in numbers if n < len(r.pieces)]
            prompts = [recording.prompt(number) for recording, number in asked]
            answers = self.answer(prompts)
            active = self.activity(prompts) if self.needs_activity else [None] * len(prompts)
            for (recording, number), answer, talking in zip(asked, answers, active, strict=True):
                is_cut = len(answer) >= self.most_tokens
                recording.add(number, self.turns(answer), talking, num_tokens=len(answer), is_cut=is_cut)

    @property
    def needs_activity(self) -> bool:
        """Whether the model is asked who talks when: to take samples of voices where answers have no times."""
        wanted, task = self.carries_voices or "likeness" in self.join, TASKS[self.task]
        return wanted and self.header.predicts_activity and task.marks_talkers and not task.predicts_times

    def activity(self, prompts: Sequence[PackedDocuments]) -> list[Activity | None]:
        """Return how probably each talker speaks in each frame of the window that a prompt ends with."""
        from models.speech_lm.generate import talker_probabilities

        found: list[Activity | None] = []
        for start in range(0, len(prompts), self.batch_size):
            found += talker_probabilities(self.model, prompts[start : start + self.batch_size], self.grid)
        return found

    @cached_property
    def compose(self) -> Compose:
        """The operator that composes prompts the same way as the checkpoint's training documents."""
        file = Path(self.checkpoint) / "tokenizer.json"
        layout: Any = self.header.layout
        return Compose(
            window_s=self.longest_s,
            enrol_s=self.header.enrol_s,
            layout=layout,
            group=self.header.group,
            tokenizer=str(file) if file.exists() else "bytes",
            deduplicate=self.header.deduplicate,
        )

    def grammar(self, prompt: PackedDocuments) -> "Grammar[Any] | None":
        """Return the grammar of answers to a prompt; speakers that the prompt names may be used from the start."""
        tags = prompt.text_tokens - ByteTokenizer.FIRST_SPEAKER
        named = tags[(tags >= 0) & (tags < ByteTokenizer.MAX_SPEAKERS)]
        carried = int(named.max()) + 1 if len(named) else 0
        return TASKS[self.task].grammar(self.tokenizer, self.longest_s, carried)

    def turns(self, answer: Sequence[int]) -> list[TranscribedTurn]:
        """Return the turns of an answer's tokens, with times from the window's start where the task predicts them."""
        return TASKS[self.task].turns(self.tokenizer, answer)

    def answer(self, prompts: Sequence[PackedDocuments], *, are_free: bool = False) -> list[list[int]]:
        """Return the tokens of each prompt's answer, `batch_size` decoded at once, those of similar length together.

        Args:
            prompts: of one document each.
            are_free: whether answers keep to no grammar, because they are not of the transcription task.
        """
        from models.speech_lm.decode.beam import BeamSearch
        from models.speech_lm.generate import beam_text, greedy_text

        order = sorted(range(len(prompts)), key=lambda i: prompts[i].num_columns)
        grammars = [self.grammar(prompts[i]) for i in order] if self.constrain and not are_free else []
        ordered, rules = [prompts[i] for i in order], [one for one in grammars if one is not None] or None
        if self.beams > 1:
            search = BeamSearch(self.beams, ByteTokenizer.END, self.most_tokens)
            slots = max(1, self.batch_size // self.beams)
            decoded = beam_text(
                self.model, ordered, self.grid, search, grammars=rules, slots=slots, decoder=self.decoder
            )
        else:
            decoded = greedy_text(
                self.model,
                ordered,
                self.grid,
                end=ByteTokenizer.END,
                max_tokens=self.most_tokens,
                grammars=rules,
                slots=self.batch_size,
                decoder=self.decoder,
            )
        answers: list[list[int]] = [[] for _ in prompts]
        for i, answer in zip(order, decoded, strict=True):
            answers[i] = answer
        return answers
