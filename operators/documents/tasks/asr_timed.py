"""asr_timed: transcribe all speakers, with the times of each turn."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from models.sequence.tokenizer import ByteTokenizer, FileTokenizer
from operators.documents.scene import Scene
from operators.documents.serialization import timed
from operators.documents.task import Example, TranscribedTurn
from operators.documents.transcription import Transcription

if TYPE_CHECKING:
    from models.sequence.grammar import Grammar

_WHOLE_TIME = re.compile(r"\[(\d+\.\d\d)\]")
# Also times that were cut short.
_TIME = re.compile(r"\[\d+\.\d\d\]?|^\d*\.?\d\d\]")


class AsrTimed(Transcription):
    """Turns by start, with times in seconds from the window's start: `[0.00][s0]good morning[1.00] ... <end>`."""

    name = "asr_timed"
    token = ByteTokenizer.ASR_TIMED
    example = Example()
    judged_by = "conversation"
    predicts_times = True

    def target(self, scene: Scene) -> list[int]:
        """Return the window's turns with their times."""
        return timed(scene, scene.window.turns)

    def grammar(self, tokenizer: ByteTokenizer, window_s: float, num_carried: int) -> "Grammar[Any] | None":
        """Return the grammar of times, tags and text; None for a tokenizer whose tokens may hold several digits."""
        from models.sequence.grammar import TimedGrammar

        if isinstance(tokenizer, FileTokenizer):
            return None  # answers begin with "[", which may be one token with a digit
        return TimedGrammar(tokenizer, window_s + 1.0, num_carried)

    def turns(self, tokenizer: ByteTokenizer, answer: Sequence[int]) -> list[TranscribedTurn]:
        """Return an answer's turns with their times, and without them in the text.

        A turn of an answer that was cut has no end, nor has one whose end is before its start.
        """
        found = []
        start_s: float | None = None
        for tag, text in tokenizer.split_at_tags(answer):
            times = [float(match) for match in _WHOLE_TIME.findall(text)]
            words = " ".join(_TIME.sub(" ", text).split())
            if words:
                end_s = times[0] if tag is not None and times else None
                is_backwards = start_s is not None and end_s is not None and end_s < start_s
                found.append(TranscribedTurn(tag or "s0", words, start_s, None if is_backwards else end_s))
            # Between two tags: the end of one turn, then the start of the next.
            start_s = times[-1] if len(times) > 1 or (times and tag is None) else None
        return found
