"""asr_formatted: transcribe all speakers with case, punctuation and numbers as they are written."""

from collections.abc import Iterator
from dataclasses import replace

from operators.documents.document import Document
from operators.documents.scene import Scene
from operators.documents.task import Example
from operators.documents.tasks.asr import Asr
from operators.documents.transcription import check_text, transcription_prompt
from operators.errors import UnusableRowError

INSTRUCTION = "formatted"
"""Text of the prompt's instruction; asr has none, and writes normalized text."""

_FEW_WORDS = 4
"""Shorter turns can be written without capital and stop: mhm."""


def is_formatted(text: str, text_normalized: str) -> bool:
    """Tell whether a text has case or punctuation.

    >>> [is_formatted(text, "it's just so") for text in ("It's just so.", "IT'S JUST  SO", "it's just so")]
    [True, False, False]
    """
    return " ".join(text.split()) not in (text_normalized, text_normalized.upper())


class AsrFormatted(Asr):
    """As asr, but for an instruction in the prompt and text as in the corpus: `[s0] Good morning! [s1] Hello <end>`.

    Source: O'Neill et al. 2021, "SPGISpeech: 5,000 hours of transcribed financial audio for fully formatted end-to-end
    speech recognition", arXiv:2104.02014.
    """

    name = "asr_formatted"
    family = "asr"
    example = Example()
    needs_told = "formatted text"
    writes_formatted = True

    def prompt(self, scene: Scene) -> Document:
        """Return the prompt of asr with the instruction to write formatted text."""
        scene = replace(scene, raw_text=True)
        document = transcription_prompt(scene, [self.token, scene.tokenizer.INSTRUCTION, *scene.encode(INSTRUCTION)])
        document.add_text([scene.tokenizer.TEXT])
        return document

    def target(self, scene: Scene) -> list[int]:
        """Return the window's turns as they are written, in arrival-order serialization."""
        return super().target(replace(scene, raw_text=True))

    def documents(self, scene: Scene) -> Iterator[Document]:
        """Yield the window's prompt and transcript; none where nothing in the window is transcribed.

        Raises:
            UnusableRowError: the conversation has no text, or a turn's text has lost case and punctuation: as the
                corpus has it, or because it was put together from the words of a part of an utterance.
        """
        check_text(scene)
        for turn in (*scene.window.carried, *scene.window.turns):
            is_part = all(turn is not whole for whole in scene.row["turns"])
            must_show = is_part or len(turn["text_normalized"].split()) >= _FEW_WORDS
            if turn["text_normalized"] and must_show and not is_formatted(turn["text"], turn["text_normalized"]):
                raise UnusableRowError(
                    f"turn {turn['utterance_id']} has no formatted text, which task {self.name} needs"
                )
        yield from super().documents(scene)
