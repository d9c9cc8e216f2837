"""What a task declares about itself, and the example that its contract test runs on."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.document import Document
from operators.documents.scene import Scene

if TYPE_CHECKING:  # composing documents does without torch
    from models.sequence.grammar import Grammar

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

Told = Literal["gender", "language", "formatted text"]
"""What a corpus may tell of an utterance, or not."""


class Task(ABC):
    """A template that makes documents of a window: a prompt that begins with the task's token, and a target."""

    name: ClassVar[str]
    """Name in `--compose.tasks`."""
    token: ClassVar[int]
    """First token of each document, persisted: a constant of `ByteTokenizer`, or one of its spare ids."""
    family: ClassVar[str | None] = None
    """Name of the token where several tasks share it, whose prompts differ in the instruction after it."""
    example: ClassVar[Example]
    predicts_audio: ClassVar[bool] = False
    """Whether codes are targets; codecs without discrete codes cannot be used then."""
    needs_stems: ClassVar[bool] = False
    """Whether each speaker's stem must be encoded (`--encode.stems`)."""
    needs_word_times: ClassVar[bool] = False
    """Whether turns must have word times."""
    needs_told: ClassVar[Told | None] = None
    """What the corpus must tell of utterances; a recipe is refused before work starts where no row does."""
    needs_even_group: ClassVar[bool] = False
    """Whether columns must hold an even number of frames (`--compose.group`)."""
    takes_voices: ClassVar[bool] = False
    """Whether prompts hold voice samples, for which conversations get another utterance of each speaker."""
    carries_voices: ClassVar[bool] = False
    """Whether later windows' prompts hold voice samples where the recipe asks for them (`--compose.carry-voices`)."""
    marks_talkers: ClassVar[bool] = False
    """Whether the prompt's audio is labeled with who talks, as `--train.activity-weight` requires."""

    predicts_times: ClassVar[bool] = False
    """Whether answers say when turns start and end, so that tcpWER can be scored."""
    writes_formatted: ClassVar[bool] = False
    """Whether text is written as in the corpus, with case and punctuation, whatever `--compose.text` says."""
    uses_words: ClassVar[bool] = False
    """Whether words of other conversations are used (`Scene.words`)."""
    judged_by: ClassVar[Judge] = "likelihood"
    """How answers are judged in evaluation; all but `likelihood` need targets that are text alone."""
    also_measured: ClassVar[tuple[str, ...]] = ()
    """Further measures of its answers (`operators.scoring.measures`)."""

    def turns(self, tokenizer: ByteTokenizer, answer: Sequence[int]) -> list[TranscribedTurn]:
        """Return the turns of an answer's text, in order."""
        return [TranscribedTurn(tag, text) for tag, text in tokenizer.turns(answer)]

    def prompt(self, scene: Scene) -> Document:
        """Return the prompt of a question that is asked without the truth, up to where the answer begins.

        Raises:
            ValueError: the task has no such question.
        """
        del scene
        raise ValueError(f"{self.name!r} is no task that a user can ask")

    def grammar(self, tokenizer: ByteTokenizer, window_s: float, num_carried: int) -> "Grammar[Any] | None":
        """Return the grammar that answers follow; None where any text is an answer.

        Args:
            tokenizer: the checkpoint's.
            window_s: longest window in seconds.
            num_carried: speakers that the prompt names, whose tags may be used from the start.
        """
        del tokenizer, window_s, num_carried
        return None

    @abstractmethod
    def documents(self, scene: Scene) -> Iterator[Document]:
        """Yield the documents of a window: one, or none where the window offers nothing for this task.

        Raises:
            UnusableRowError: the conversation lacks something that the task needs.
        """
