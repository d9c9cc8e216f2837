"""asr: transcribe all speakers, turn by turn."""

from typing import TYPE_CHECKING, Any

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.scene import Scene
from operators.documents.serialization import arrival
from operators.documents.task import Example
from operators.documents.transcription import Transcription

if TYPE_CHECKING:
    from models.sequence.grammar import Grammar


class Asr(Transcription):
    """Turns by start, each after its speaker's tag: `[s0] good morning [s1] hello there <end>`."""

    name = "asr"
    token = ByteTokenizer.ASR
    example = Example()
    judged_by = "conversation"

    def target(self, scene: Scene) -> list[int]:
        """Return the window's turns in arrival-order serialization."""
        return arrival(scene, scene.window.turns)

    def grammar(self, tokenizer: ByteTokenizer, window_s: float, num_carried: int) -> "Grammar[Any]":
        """Return the grammar of tags and text."""
        from models.sequence.grammar import ArrivalGrammar

        del window_s
        return ArrivalGrammar(tokenizer, num_carried)
