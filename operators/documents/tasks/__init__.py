"""Tasks: one table from a task's name to the task, which knows everything about itself.

A new task is one file with its class, and one line in `TASKS` (docs/extending.md); instructions in words, which share a
token, are in `instructed/`. `operators.schema` spells out the
template of each task's documents.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from operators.documents.task import Task
from operators.documents.tasks.asr import Asr
from operators.documents.tasks.asr_context import AsrContext
from operators.documents.tasks.asr_fifo import AsrFifo
from operators.documents.tasks.asr_formatted import AsrFormatted
from operators.documents.tasks.asr_talker import AsrTalker
from operators.documents.tasks.asr_target import AsrTarget
from operators.documents.tasks.asr_timed import AsrTimed
from operators.documents.tasks.asr_token import AsrToken
from operators.documents.tasks.continuation import Continuation
from operators.documents.tasks.duplex import Duplex
from operators.documents.tasks.extract import Extract
from operators.documents.tasks.instructed.asr_gender import AsrGender
from operators.documents.tasks.instructed.asr_keyword import AsrKeyword
from operators.documents.tasks.instructed.asr_language import AsrLanguage
from operators.documents.tasks.instructed.asr_order import AsrOrder
from operators.documents.tasks.interleave import Interleave
from operators.documents.tasks.speak import Speak
from operators.documents.transcription import Transcription

TASKS: dict[str, Task] = {
    "asr": Asr(),
    "asr_fifo": AsrFifo(),
    "asr_timed": AsrTimed(),
    "asr_token": AsrToken(),
    "asr_talker": AsrTalker(),
    "asr_target": AsrTarget(),
    "asr_context": AsrContext(),
    "continue": Continuation(),
    "extract": Extract(),
    "speak": Speak(),
    "duplex": Duplex(),
    "interleave": Interleave(),
    "asr_formatted": AsrFormatted(),
    "asr_gender": AsrGender(),
    "asr_order": AsrOrder(),
    "asr_keyword": AsrKeyword(),
    "asr_language": AsrLanguage(),
}

EVALUATED = tuple(name for name, task in TASKS.items() if task.judged_by == "conversation")
"""Transcription tasks whose answers are joined to transcripts of whole conversations, the preferred one first."""

if TYPE_CHECKING:
    TaskName = str
else:  # the choices of `--compose.tasks` and `--evaluate.tasks` follow from the table
    TaskName = Literal[tuple(TASKS)]


def transcription(name: str) -> Transcription:
    """Return a transcription task by its name.

    Raises:
        ValueError: it is not the name of a transcription task.
    """
    task = TASKS.get(name)
    if isinstance(task, Transcription):
        return task
    known = [other for other in TASKS if isinstance(TASKS[other], Transcription)]
    raise ValueError(f"{name!r} is not a transcription task; choose from {', '.join(known)}")


def asked_of(trained: Sequence[str]) -> str:
    """Return the transcription task to ask a model that was trained on some tasks: one that names speakers, if any."""
    return next((task for task in EVALUATED if task in trained), EVALUATED[0])


def token_names() -> dict[int, str]:
    """Return the name of each task or family by its token, as `ByteTokenizer.show` takes them."""
    return {task.token: task.family or name for name, task in TASKS.items()}
