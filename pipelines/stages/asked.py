"""What evaluation asks of whom: tasks of checkpoints, and what recognizers hear beside them."""

import re
from dataclasses import dataclass, replace
from typing import get_args

from operators.documents.compose import Compose
from operators.documents.tasks import EVALUATED, TASKS
from operators.evaluate.ask import Ask
from operators.evaluate.options import Heard
from operators.evaluate.recognizers import Recognizer, load_recognizer
from operators.evaluate.talkers import TranscribeTalkers
from operators.evaluate.transcribe import Transcribe
from pipelines.plan.job import PartitionRef
from pipelines.plan.transcriber import transcriber_of
from pipelines.recipes.recipe import Recipe
from pipelines.stages.upstream import seeded_compose

WHICH = ("trained", "untrained")
OF_WINDOWS = ("speakers", "utterances", "likelihood")
"""Judges of documents, one by one, whose questions and windows come from the truth."""


@dataclass(frozen=True)
class Transcription:
    """Payload of a partition of hypotheses: one checkpoint, one task and one partition of codes."""

    which: str
    """trained or untrained."""
    task: str
    checkpoint: str
    """Folder of the checkpoint."""
    codes: PartitionRef


@dataclass(frozen=True)
class Recognition:
    """Payload of a partition of hypotheses: one recognizer, what it hears, and one partition of conversations."""

    name: str
    """As results name it, such as whisper-base.segments."""
    recognizer: str
    """Name or folder."""
    over: Heard
    conversations: PartitionRef
    codes: PartitionRef


def evaluated_tasks(recipe: Recipe) -> tuple[str, ...]:
    """Return the tasks that a recipe's models are asked, the one that tables show first."""
    wanted = recipe.evaluate.tasks or recipe.compose.tasks
    return tuple(task for task in TASKS if task in wanted)


def asked_compose(recipe: Recipe, task: str) -> Compose:
    """Return the operator that makes the documents of a task whose documents are asked."""
    return replace(seeded_compose(recipe), tasks=(task,))


def transcriber(
    recipe: Recipe, checkpoint: str, task: str, device: str = "cpu"
) -> Transcribe | TranscribeTalkers | Ask:
    """Return the operator that asks a checkpoint a task."""
    if TASKS[task].judged_by == "talkers":
        transcribe = transcriber_of(recipe, checkpoint, EVALUATED[0], device)
        return TranscribeTalkers(transcribe=transcribe, diarization=recipe.evaluate.diarization)
    if TASKS[task].judged_by not in OF_WINDOWS:
        return transcriber_of(recipe, checkpoint, task, device)
    transcribe = replace(transcriber_of(recipe, checkpoint, EVALUATED[0], device), window_s=recipe.compose.window_s)
    return Ask(transcribe=transcribe, compose=asked_compose(recipe, task))


def recognizers_of(recipe: Recipe) -> list[tuple[str, str, Recognizer]]:
    """Return each recognizer's name in results, how the recipe names it, and the recognizer itself.

    Raises:
        InputError: one of them is not there.
    """
    loaded = [(text, load_recognizer(text)) for text in recipe.evaluate.recognizers]
    names = [re.sub(r"[^A-Za-z0-9_-]+", "-", recognizer.name) for _, recognizer in loaded]
    return [
        (name if names.count(name) == 1 else f"{name}-{recognizer.digest[-8:]}", text, recognizer)
        for name, (text, recognizer) in zip(names, loaded, strict=True)
    ]


HEARD: tuple[Heard, ...] = get_args(Heard)
"""What each recognizer hears."""
