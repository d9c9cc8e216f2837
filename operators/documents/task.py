"""What a task declares about itself, and the example that its contract test runs on."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.document import Document
from operators.documents.scene import Scene

DIALOGUE = (
    (0, 40, "ann", "good morning"),
    (30, 30, "bob", "hello there"),
    (70, 30, "ann", "how was that"),
    (110, 40, "bob", "wonderful weather"),
)
"""Four turns of two speakers, the first two overlapping: (start frame, frames, speaker, text)."""


@dataclass(frozen=True)
class Example:
    """A conversation of which a task makes at least one document: data of the contract test."""

    turns: tuple[tuple[int, int, str, str], ...] = DIALOGUE
    """(start frame, frames, speaker, text), by start. Stems and word times are added only where the task needs them."""
    num_frames: int = 160
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of `Compose` that the task needs."""


@dataclass(frozen=True)
class TranscribedTurn:
    """A turn of an answer."""

    speaker: str
    """Tag, for instance s0: speakers are numbered anew in each window."""
    text: str
    start_s: float | None = None
    """Seconds from the window's start; None where the task predicts no times."""
    end_s: float | None = None


Judge = Literal["conversation", "talkers", "speakers", "utterances", "likelihood"]
"""How answers to a task are judged: as the transcript of a whole conversation, whose windows are joined, or whose
talkers are transcribed one by one; document by document, by who said what, or by what was said alone; or by the
likelihood of the documents' targets."""


class Task(ABC):
    """A template that makes documents of a window: a prompt that begins with the task's token, and a target."""

    name: ClassVar[str]
    """Name in `--compose.tasks`."""
    token: ClassVar[int]
    """First token of each document, persisted: a constant of `ByteTokenizer`, or one of its spare ids."""
    example: ClassVar[Example]
    predicts_audio: ClassVar[bool] = False
    """Whether codes are targets; codecs without discrete codes cannot be used then."""
    needs_stems: ClassVar[bool] = False
    """Whether each speaker's stem must be encoded (`--encode.stems`)."""
    needs_word_times: ClassVar[bool] = False
    """Whether turns must have word times."""
    needs_even_group: ClassVar[bool] = False
    """Whether columns must hold an even number of frames (`--compose.group`)."""
    takes_voices: ClassVar[bool] = False
    """Whether prompts hold voice samples, for which conversations get another utterance of each speaker."""
    carries_voices: ClassVar[bool] = False
    """Whether later windows' prompts hold voice samples where the recipe asks for them (`--compose.carry-voices`)."""
    marks_talkers: ClassVar[bool] = False
    """Whether the prompt's audio is labeled with who talks, as `--train.activity-weight` requires."""

    uses_words: ClassVar[bool] = False
    """Whether words of other conversations are used (`Scene.words`)."""
    judged_by: ClassVar[Judge] = "likelihood"
    """How answers are judged in evaluation; all but `likelihood` need targets that are text alone."""

    def turns(self, tokenizer: ByteTokenizer, answer: Sequence[int]) -> list[TranscribedTurn]:
        """Return the turns of an answer's text, in order."""
        return [TranscribedTurn(tag, text) for tag, text in tokenizer.turns(answer)]

    @abstractmethod
    def documents(self, scene: Scene) -> Iterator[Document]:
        """Yield the documents of a window: one, or none where the window offers nothing for this task.

        Raises:
            UnusableRowError: the conversation lacks something that the task needs.
        """
