"""asr_fifo: transcribe all speakers without naming them."""

from collections.abc import Sequence

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.scene import Scene
from operators.documents.serialization import fifo
from operators.documents.task import Example, TranscribedTurn
from operators.documents.transcription import Transcription


class AsrFifo(Transcription):
    """Turns by start, separated by a change token: `good morning <change> hello there <end>`."""

    name = "asr_fifo"
    token = ByteTokenizer.ASR_FIFO
    example = Example()
    judged_by = "utterances"

    def target(self, scene: Scene) -> list[int]:
        """Return the window's turns in first-in-first-out serialization."""
        return fifo(scene, scene.window.turns)

    def turns(self, tokenizer: ByteTokenizer, answer: Sequence[int]) -> list[TranscribedTurn]:
        """Return the stretches between changes: utterances, whose speakers are not named."""
        texts = tokenizer.split_at_changes(answer)
        return [TranscribedTurn("s0", text) for text in texts if text]
