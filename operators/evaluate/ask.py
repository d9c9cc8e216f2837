"""Asks a checkpoint each document's question: for tasks whose questions come from the truth, and so do their windows.

Which words are hotwords, whose voice is to be followed, what is to be said: only the truth has it. So each document
that the task would make of a test conversation is asked, and is a session of its own; or, where targets are not text,
the likelihood that the model gives them is measured.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from models.sequence.documents import PackedDocuments
from operators.documents.compose import Compose, codec_of
from operators.documents.document import Document
from operators.documents.hotwords import WordCounts
from operators.documents.task import TranscribedTurn
from operators.documents.tasks import TASKS
from operators.errors import InputError, UnusableRowError
from operators.evaluate.transcribe import Transcribe
from operators.schema import CODES, HYPOTHESES, table

NOBODY = "nobody"
"""Speaker of an answer that is empty."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Answers every document of one task; or measures the likelihood of its targets, in nats."""

    transcribe: Transcribe
    """The checkpoint, and how text is decoded."""
    compose: Compose
    """As the checkpoint's documents were made; its one task is asked."""
    words: WordCounts | None = None
    """Of the conversations that are asked about, where the task asks by words of others (`asked_words`)."""

    reads: ClassVar[pa.Schema] = CODES
    writes: ClassVar[pa.Schema] = HYPOTHESES
    version: ClassVar[str] = "1"

    @property
    def task(self) -> str:
        """The task's name."""
        return self.compose.tasks[0]

    @property
    def weights_digest(self) -> str:
        """Digest of the checkpoint's weights."""
        return self.transcribe.weights_digest

    def check_task(self) -> None:
        """Check that one task is asked, and that the model was trained on it.

        Raises:
            InputError: there are several, or the checkpoint was not trained on it.
        """
        if len(self.compose.tasks) != 1:
            raise InputError(f"one task is asked at a time, not {' '.join(self.compose.tasks)}")
        trained = self.transcribe.header.tasks
        if trained and self.task not in trained:
            raise InputError(f"{self.transcribe.checkpoint} was trained on {', '.join(trained)}, never on {self.task}")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the answers to the documents of each conversation (rows of CODES to HYPOTHESES)."""
        self.transcribe.check_codec(codec_of(batch.schema))
        rows = batch.to_pylist()
        asked = [list(documents(row, batch.schema, self.compose, self.words)) for row in rows]
        flat = [document for of_row in asked for _, document in of_row]
        judge = self._measured if TASKS[self.task].judged_by == "likelihood" else self._answered
        answers = iter(judge(flat))
        return table(
            [
                self._hypothesis(row["conversation_id"], [(window, next(answers)) for window, _ in of_row])
                for row, of_row in zip(rows, asked, strict=True)
            ],
            HYPOTHESES,
        )

    def _answered(self, asked: list[Document]) -> list[dict[str, Any]]:
        task, operator = TASKS[self.task], self.transcribe
        prompts = [document.question()[0] for document in asked]
        return [
            {
                "turns": [(turn.speaker, turn.text) for turn in task.turns(operator.tokenizer, answer)],
                "num_tokens": len(answer),
                "is_cut": len(answer) >= operator.most_tokens,
            }
            for answer in operator.answer(prompts, are_free=True)
        ]

    def _measured(self, asked: list[Document]) -> list[dict[str, Any]]:
        from models.speech_lm.likelihood import negative_log_likelihoods

        packs: list[PackedDocuments] = [document.whole() for document in asked]
        found = negative_log_likelihoods(self.transcribe.model, packs, self.transcribe.grid)
        return [{"turns": [], "num_tokens": 0, "is_cut": False, "nll": one, "weight": cells} for one, cells in found]

    def _hypothesis(self, name: str, found: list[tuple[Mapping[str, int], dict[str, Any]]]) -> dict[str, Any]:
        return {
            "conversation_id": name,
            "checkpoint": self.transcribe.weights_digest,
            "windows": [window for window, _ in found],
            "turns": [
                {"window": number, "tag": tag, "speaker": tag, "text": text, "start_s": None, "end_s": None}
                for number, (_, answer) in enumerate(found)
                for tag, text in answer["turns"]
            ],
            "num_tokens": sum(answer["num_tokens"] for _, answer in found),
            "num_cut": sum(answer["is_cut"] for _, answer in found),
            "nll": sum(answer["nll"] for _, answer in found) if found and "nll" in found[0][1] else None,
            "nll_weight": sum(answer["weight"] for _, answer in found) if found and "nll" in found[0][1] else None,
        }


def asked_words(codes: Iterable[pa.Table], compose: Compose) -> WordCounts | None:
    """Return the words of the conversations of a partition (tables of CODES) that questions of the one task may hold.

    The long hotwords of asr_context are those of the conversation alone.
    """
    (task,) = compose.tasks
    if task == "asr_context" and compose.hotwords_from == "long":
        return None
    return compose.words_of(task, (turns for batch in codes for turns in batch["turns"].to_pylist()))


def documents(
    row: Mapping[str, Any], schema: pa.Schema, compose: Compose, words: WordCounts | None = None
) -> Iterator[tuple[dict[str, int], Document]]:
    """Yield window and document of what `compose` makes of a conversation (a row of CODES) for its one task."""
    codec, (task,) = codec_of(schema), compose.tasks
    for number, window in enumerate(compose.windows(row, codec)):
        scene = compose.scene(
            row, window, codec, task, f"{row['conversation_id']}/{number}/{task}", words, is_evaluated=True
        )
        span = {"start_frame": window.start_frame, "num_frames": window.end_frame - window.start_frame}
        try:
            for document in TASKS[task].documents(scene):
                yield {**span, "own_start_frame": span["start_frame"], "own_num_frames": span["num_frames"]}, document
        except UnusableRowError:
            continue  # a window that offers nothing to ask


def reference_answers(codes: pa.Table, compose: Compose, words: WordCounts | None = None) -> list[dict[str, Any]]:
    """Return the targets of the documents of conversations (rows of CODES) as SegLST entries without times.

    A document is a session, named `conversation/number`, as `hypothesis_segments` names windows apart. What it asks is
    part of every entry; an empty answer is an entry of nobody without words.
    """
    entries, task = [], TASKS[compose.tasks[0]]
    for row in codes.to_pylist():
        made = list(documents(row, codes.schema, compose, words))
        for number, (_, document) in enumerate(made):
            name = row["conversation_id"] if len(made) == 1 else f"{row['conversation_id']}/{number}"
            turns = task.turns(compose.loaded_tokenizer, document.question()[1])
            entries += [
                {
                    "session_id": name,
                    "recording_id": row["conversation_id"],
                    "speaker": turn.speaker,
                    "words": turn.text,
                    **document.asked,
                }
                for turn in turns or [TranscribedTurn(NOBODY, "")]
            ]
    return entries
