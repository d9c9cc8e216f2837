"""Transcription tasks: their prompt, and how their answers are constrained and read back."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence

from operators.documents.document import Document
from operators.documents.scene import Scene, without_repeats
from operators.documents.serialization import arrival
from operators.documents.task import Task
from operators.errors import UnusableRowError


def prompt_codes(scene: Scene) -> bytes:
    """Return the window's packed codes as prompts hold them: deduplicated where the recipe says so."""
    codes = scene.window_mixture
    return without_repeats(codes, scene.codec) if scene.deduplicate else codes


def transcription_prompt(scene: Scene, first: Sequence[int]) -> Document:
    """Return a document of the first tokens, what is carried over from earlier windows, and the window's audio."""
    document = Document(scene.layout, scene.codec)
    document.add_text(first)
    for speaker, voice in scene.voices.items():
        document.add_text([scene.tag(speaker), scene.tokenizer.ENROL])
        document.add_audio(scene.mixture(*voice))
    if scene.voices and not scene.window.carried:
        # Without a border, the last voice sample and the window are one stretch of sound.
        document.add_text([scene.tokenizer.AUDIO])
    if scene.window.carried:
        document.add_text([scene.tokenizer.CARRY, *arrival(scene, scene.window.carried)])
    first_column = document.add_audio(prompt_codes(scene))
    if not scene.deduplicate:  # deduplication loses time
        document.add_talker_spans(first_column, scene)
    return document


def check_text(scene: Scene) -> None:
    """Check that somebody has transcribed the conversation.

    Raises:
        UnusableRowError: it has no text.
    """
    if not any(turn["text_normalized"] for turn in scene.row["turns"]):
        raise UnusableRowError(
            f"{scene.row['conversation_id']} has no text to transcribe; recorded conversations get it from STM or "
            "supervisions"
        )


class Transcription(Task):
    """Transcribes the window; subclasses differ in how turns are serialized."""

    marks_talkers = True
    carries_voices = True

    @abstractmethod
    def target(self, scene: Scene) -> list[int]:
        """Return the answer's tokens, without `<end>`."""

    def prompt(self, scene: Scene) -> Document:
        """Return the document up to and including `<text>`, after which the answer begins."""
        document = transcription_prompt(scene, [self.token])
        document.add_text([scene.tokenizer.TEXT])
        return document

    def documents(self, scene: Scene) -> Iterator[Document]:
        """Yield the window's prompt and transcript; none where nothing in the window is transcribed.

        Raises:
            UnusableRowError: the conversation has no text.
        """
        check_text(scene)
        if not any(turn["text_normalized"] for turn in scene.window.turns):
            return  # speech that nobody has transcribed: an empty transcript would be wrong
        document = self.prompt(scene)
        document.add_text([*self.target(scene), scene.tokenizer.END], weight=1.0)
        yield document

    def of_silence(self, scene: Scene) -> Document:
        """Return the prompt of a window in which no one speaks, and an answer that is only `<end>`."""
        document = self.prompt(scene)
        document.add_text([scene.tokenizer.END], weight=1.0)
        return document
