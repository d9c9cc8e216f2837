"""compose: codes -> documents. Cuts conversations into windows and makes each task's documents of every window."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pyarrow as pa

from models.codecs.codec import CodecSpec
from models.config.settings import BY_CONTENT
from models.config.values import SEED, Checked, within
from models.layouts import LAYOUTS, LayoutName, make_layout
from models.layouts.layout import Layout
from models.sequence.tokenizer import ByteTokenizer, load_tokenizer
from operators.documents.document import Document
from operators.documents.hotwords import WordCounts
from operators.documents.scene import Asked, Scene
from operators.documents.silences import chosen, silences
from operators.documents.tasks import TASKS, TaskName
from operators.documents.transcription import Transcription
from operators.documents.windows import Window, windows
from operators.errors import InputError, UnusableRowError
from operators.schema import CODES, DOCUMENTS, table


@dataclass(frozen=True, kw_only=True)
class Compose(Checked, section="compose", error=InputError):
    """Makes documents of conversations' codes; tasks, layout and windows are chosen here, not when audio is encoded."""

    tasks: tuple[TaskName, ...] = field(default=("asr",), metadata=BY_CONTENT)
    """Tasks that make documents of each window: see docs/documents.md."""
    layout: LayoutName = "parallel"
    """How codes are mapped to columns."""
    group: int = field(default=1, metadata=within(1, 1000, "frames"))
    """Frames per column, in layouts that have groups (parallel, depth)."""
    window_s: float = field(default=30.0, metadata=within(0, 86_400, "s", open_at="low"))
    """Longest piece of a conversation in one document; cut where no one speaks, or through the fewest words where
    speech has no pause."""
    overlap_s: float = field(default=0.0, metadata=within(0, 86_400, "s"))
    """How far a window reaches back; turns whose audio is repeated are given in the prompt with their tags and text."""
    carry_voices: bool = False
    """Whether later windows' prompts hold a sample of each voice of earlier windows."""
    prompt_s: float = field(default=2.0, metadata=within(0, 86_400, "s", open_at="low"))
    """Audio given before a continuation."""
    enrol_s: float = field(default=3.0, metadata=within(0, 3600, "s", open_at="low"))
    """Longest voice sample."""
    text: Literal["normalized", "raw"] = "normalized"
    """Which text is written: normalized as for scoring, or as in the corpus."""
    tokenizer: str = field(default="bytes", metadata=BY_CONTENT)
    """How text becomes integers: bytes, or a tokenizer.json (or its folder)."""
    hotwords: int = field(default=20, metadata=within(1, 10_000))
    """Most hotwords in a prompt of task asr_context; their number, and how many of them are said, is drawn."""
    hotwords_from: Literal["long", "rare"] = "long"
    """Which words can be hotwords: those of five letters or more, with distractors as likely as they are common; or
    the corpus's rare words, whatever their length, with distractors from other conversations in evaluation too."""
    empty_share: float = field(default=0.2, metadata=within(0, 1))
    """Share of the questions of tasks asr_gender, asr_order, asr_keyword and asr_language that are about nobody in the
    window, and whose answer is empty, among windows that allow such a question."""
    silence_share: float = field(default=0.05, metadata=within(0, 1, open_at="high"))
    """Largest share, on average, of a transcription task's documents that are windows without speech, whose answer is
    empty; taken from what windows leave out of long conversations."""
    deduplicate: bool = False
    """Whether repeated frames of prompt audio are left out."""
    seed: int | None = field(default=None, metadata=SEED)
    """Seed of the tasks' random choices; the recipe's seed where none is given."""

    reads: ClassVar[pa.Schema] = CODES
    writes: ClassVar[pa.Schema] = DOCUMENTS
    version: ClassVar[str] = "8"

    def rules(self) -> Iterator[str]:
        """Check the options against each other."""
        if not self.tasks:
            yield f"compose.tasks is empty; choose from {', '.join(TASKS)}"
        if self.overlap_s >= self.window_s:
            yield f"compose.overlap_s {self.overlap_s:g} must be below compose.window_s {self.window_s:g}"
        if not LAYOUTS[self.layout].has_groups and self.group != 1:
            yield f"compose: the {self.layout} layout has no groups; use --compose.group 1 or --compose.layout parallel"
        for task in self.tasks:
            if TASKS[task].needs_even_group and self.group % 2:
                yield f"compose: task {task} needs an even number of frames per column: --compose.group 2"

    def layout_of(self, codec: CodecSpec) -> Layout:
        """Return the layout for a codec."""
        return make_layout(self.layout, codec.num_codebooks, codec.codebook_size, self.group)

    @property
    def loaded_tokenizer(self) -> ByteTokenizer:
        """The tokenizer.

        Raises:
            InputError: its file is missing or cannot be read.
        """
        try:
            return load_tokenizer(self.tokenizer)
        except ValueError as error:
            raise InputError(f"compose.tokenizer: {error}") from error

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the documents of each conversation.

        Args:
            batch: of schema CODES, with the codec in its metadata.

        Returns:
            Documents by conversation, window and task, of schema DOCUMENTS.

        Raises:
            UnusableRowError: no window of a conversation can be used: too many speakers, or something is missing.
        """
        codec = codec_of(batch.schema)
        return table([document for row in batch.to_pylist() for document in self.documents(row, codec)], DOCUMENTS)

    def windows(self, row: Mapping[str, Any], codec: CodecSpec) -> list[Window]:
        """Return the windows of a conversation (a row of CODES)."""
        length, overlap = (int(seconds * codec.frame_rate_hz) for seconds in (self.window_s, self.overlap_s))
        return windows(row["turns"], row["num_frames"], length, overlap)

    def count_cuts(self, batch: pa.Table) -> dict[str, int]:
        """Return how many windows a batch (rows of CODES) has, cuts through speech, and words and turns so split."""
        codec = codec_of(batch.schema)
        found = [self.windows(row, codec) for row in batch.select(["turns", "num_frames"]).to_pylist()]
        split = [window.split for windows in found for window in windows if window.split is not None]
        return {
            "windows": sum(map(len, found)),
            "cuts_in_speech": len(split),
            "split_words": sum(words for words, _ in split),
            "split_turns": sum(turns for _, turns in split),
        }

    def count_voices(self, batch: pa.Table) -> dict[str, int]:
        """Return how many voice samples the tasks ask for in a batch (rows of CODES), and how many there are not.

        Returns:
            voices, of every speaker of each window; voices_inside, from elsewhere in the conversation, for want of an
            enrolment; and voices_missing.
        """
        counts = dict.fromkeys(("voices", "voices_inside", "voices_missing"), 0)
        codec = codec_of(batch.schema)
        for task in (task for task in self.tasks if TASKS[task].takes_voices):
            for row in batch.to_pylist():
                enrolled = {one["speaker"] for one in row["enrolments"] or ()}
                for window in self.windows(row, codec):
                    scene = self.scene(row, window, codec, task, "count")
                    for speaker in scene.window_speakers:
                        counts["voices"] += 1
                        if speaker not in enrolled:
                            counts["voices_inside" if scene.voice(speaker) is not None else "voices_missing"] += 1
        return counts

    def silences(self, row: Mapping[str, Any], codec: CodecSpec) -> dict[int, Window]:
        """Return, by number, the windows without speech of a conversation (a row of CODES) that make documents."""
        found = self.windows(row, codec)
        silent = silences(row, found, int(self.window_s * codec.frame_rate_hz))
        share, seed = self.silence_share, self.seed or 0
        return {i: silent[i] for i in chosen(row["conversation_id"], len(silent), len(found), share, seed)}

    def documents(
        self,
        row: Mapping[str, Any],
        codec: CodecSpec,
        unusable: list[tuple[str, str]] | None = None,
        words: WordCounts | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield the documents (rows of DOCUMENTS) of a conversation (a row of CODES).

        Args:
            row: the conversation.
            codec: of its codes.
            unusable: where documents that cannot be made of some windows are appended, by id, each with the reason.
            words: of the corpus, for tasks that use them; else of the conversation.

        Raises:
            UnusableRowError: a task can use no window of the conversation.
        """
        failed: dict[str, UnusableRowError] = {}
        usable: set[str] = set()
        skipped = []
        for number, window in enumerate(self.windows(row, codec)):
            for task in self.tasks:
                scene = self.scene(row, window, codec, task, f"{row['conversation_id']}/{number}/{task}", words)
                try:
                    made = list(TASKS[task].documents(scene))
                except UnusableRowError as error:
                    failed.setdefault(task, error)
                    skipped.append((scene.document_id, str(error)))
                    continue
                usable.add(task)
                yield from (document.row(scene, task) for document in made)
        for task, reason in failed.items():
            if task not in usable:
                raise reason
        if unusable is not None:
            unusable += skipped
        for number, window in self.silences(row, codec).items():
            for task in self.tasks:
                scene = self.scene(row, window, codec, task, f"{row['conversation_id']}/silence-{number}/{task}")
                kind = TASKS[task]
                if isinstance(kind, Transcription):
                    yield kind.of_silence(scene).row(scene, task)

    def scene(
        self,
        row: Mapping[str, Any],
        window: Window,
        codec: CodecSpec,
        task: str,
        document_id: str,
        words: WordCounts | None = None,
        *,
        is_evaluated: bool = False,
        asked: Asked | None = None,
    ) -> Scene:
        """Return everything that a task may use to make a document of a window."""
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
            carry_voices=self.carry_voices and TASKS[task].carries_voices,
            deduplicate=self.deduplicate,
            seed=self.seed or 0,
            words=words,
            most_hotwords=self.hotwords,
            rare_hotwords=self.hotwords_from == "rare",
            empty_share=self.empty_share,
            is_evaluated=is_evaluated,
            asked=asked,
        )

    def prompt(
        self,
        row: Mapping[str, Any],
        window: Window,
        codec: CodecSpec,
        task: str = "asr",
        asked: Asked | None = None,
    ) -> Document:
        """Return the prompt of a task, for a model to answer.

        Args:
            row: the conversation.
            window: of it.
            codec: of its codes.
            task: a transcription task, or one that takes what a user asks.
            asked: what a user asks.

        Raises:
            ValueError: nobody can ask the task without the truth.
        """
        return TASKS[task].prompt(self.scene(row, window, codec, task, "question", asked=asked))

    def words_of(self, task: str, conversations: Iterable[Sequence[Any]]) -> WordCounts | None:
        """Return the words of conversations, each a sequence of turns; None where the task uses none."""
        if not TASKS[task].uses_words:
            return None
        is_rare = task == "asr_context" and self.hotwords_from == "rare"
        return WordCounts.rare(conversations) if is_rare else WordCounts.of(conversations)


def codec_of(schema: pa.Schema) -> CodecSpec:
    """Return the codec that a data set's metadata names."""
    return CodecSpec(**json.loads(schema.metadata[b"hubbub.codec"]))
