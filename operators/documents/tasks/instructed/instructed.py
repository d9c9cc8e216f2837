"""Tasks that transcribe only those whom an instruction in words asks for."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.document import Document
from operators.documents.scene import Scene
from operators.documents.serialization import arrival
from operators.documents.split_turns import Turn
from operators.documents.task import Task
from operators.documents.transcription import check_text, transcription_prompt
from operators.errors import UnusableRowError


@dataclass(frozen=True)
class Question:
    """What an instruction asks for, and its answer."""

    value: str
    """As the instruction says it: female, second, a word, German."""
    turns: Sequence[Turn]
    """The answer; empty where the instruction is about nobody in the window."""
    label: str
    """As tables show it."""


class Instructed(Task):
    """Turns of those whom an instruction asks for: `<asr_instructed> <instruction> b y t e s A A ... <text> ... <end>`.

    The tasks of the family share a token and differ in the text of the instruction. One window makes one document,
    whose question and wording are drawn; in evaluation, and where a user asks, the first wording is used.

    Source: Meng et al. 2024, "Large language model can transcribe speech in multi-talker scenarios with versatile
    instructions" (MT-LLM), arXiv:2409.08596, section 2.3; questions about nobody, and the wordings, are ours.
    """

    family = "asr_instructed"
    token = ByteTokenizer.ASR_INSTRUCTED
    judged_by = "speakers"
    also_measured = ("empty_accuracy",)
    marks_talkers = True
    carries_voices = True
    wordings: ClassVar[tuple[str, ...]]
    """Texts of the instruction, with `{}` where the value stands."""

    @abstractmethod
    def answered(self, scene: Scene) -> list[Question]:
        """Return the questions that the window answers with words.

        Raises:
            UnusableRowError: the corpus does not tell what the questions are about.
        """

    @abstractmethod
    def unanswered(self, scene: Scene) -> list[Question]:
        """Return questions that are about nobody in the window, as far as it is known."""

    def worded(self, value: str, wording: int = 0) -> str:
        """Return the text of an instruction."""
        return self.wordings[wording].format(value)

    def question(self, scene: Scene) -> tuple[str, Question] | None:
        """Draw a question and its wording; None where the window offers none of the kind that was drawn."""
        draw = scene.draw("instruction")
        is_about_nobody = draw.random() < scene.empty_share
        candidates = self.answered(scene)
        if is_about_nobody:
            candidates = self.unanswered(scene) or candidates
        if not candidates:
            return None
        chosen = candidates[int(draw.integers(len(candidates)))]
        wording = 0 if scene.is_evaluated else int(draw.integers(len(self.wordings)))
        return self.worded(chosen.value, wording), chosen

    def prompt(self, scene: Scene) -> Document:
        """Return the prompt of what a user asks."""
        assert scene.asked is not None
        return self._prompt(scene, scene.asked.text)

    def _prompt(self, scene: Scene, text: str) -> Document:
        document = transcription_prompt(scene, [self.token, scene.tokenizer.INSTRUCTION, *scene.encode(text)])
        document.add_text([scene.tokenizer.TEXT])
        return document

    def documents(self, scene: Scene) -> Iterator[Document]:
        """Yield a document with one question; none where nothing in the window is transcribed, or to be asked.

        Raises:
            UnusableRowError: the conversation has no text, or the corpus does not tell what is asked about.
        """
        check_text(scene)
        drawn = self.question(scene) if any(turn["text_normalized"] for turn in scene.window.turns) else None
        if drawn is None:
            return
        text, question = drawn
        document = self._prompt(scene, text)
        document.add_text([*arrival(scene, question.turns), scene.tokenizer.END], weight=1.0)
        document.asked = {"instruction": question.label}
        yield document


def heard(scene: Scene) -> list[Turn]:
    """Return all turns in the window's audio, transcribed or not, by start; ties by arrival of their speakers."""
    place = {speaker: number for number, speaker in enumerate(scene.speakers)}
    turns = (*scene.window.carried, *scene.window.turns)
    return sorted(turns, key=lambda turn: (turn["start_frame"], place[turn["speaker"]]))


def told(task: Task, turn: Turn, field: Literal["gender", "language"]) -> str:
    """Return what the corpus tells of a turn.

    Raises:
        UnusableRowError: it does not tell.
    """
    value: str | None = turn[field]
    if not value:
        raise UnusableRowError(f"turn {turn['utterance_id']} has no {field}, which task {task.name} needs")
    return value
