"""asr_timed: transcribe all speakers, with the times of each turn."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from models.sequence.tokenizer import ByteTokenizer, FileTokenizer
from operators.documents.scene import Scene
from operators.documents.serialization import timed
from operators.documents.task import Example
from operators.documents.transcription import Transcription

if TYPE_CHECKING:
    from models.sequence.grammar import Grammar

_TIME = re.compile(r"\[\d+\.\d\d\]?|^\d*\.?\d\d\]")


class AsrTimed(Transcription):
    """Turns by start, with times in seconds from the window's start: `[0.00][s0]good morning[1.00] ... <end>`."""

    name = "asr_timed"
    token = ByteTokenizer.ASR_TIMED
    example = Example()
    names_speakers = True

    def target(self, scene: Scene) -> list[int]:
        """Return the window's turns with their times."""
        return timed(scene, scene.window.turns)

    def grammar(self, tokenizer: ByteTokenizer, window_s: float, num_carried: int) -> "Grammar[Any]":
        """Return the grammar of times, tags and text; a tokenizer that may join digits leaves times unconstrained."""
        from models.sequence.grammar import ArrivalGrammar, TimedGrammar

        if isinstance(tokenizer, FileTokenizer):
            return ArrivalGrammar(tokenizer, num_carried)
        return TimedGrammar(tokenizer, window_s + 1.0, num_carried)

    def turns(self, tokenizer: ByteTokenizer, answer: Sequence[int]) -> list[tuple[str, str]]:
        """Return an answer's turns as (speaker tag, text), without times."""
        turns = [(tag, " ".join(_TIME.sub(" ", text).split())) for tag, text in tokenizer.turns(answer)]
        return [(tag, text) for tag, text in turns if text]
