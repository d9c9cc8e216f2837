"""asr_token: transcribe all speakers word by word (t-SOT)."""

from collections.abc import Sequence

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.scene import Scene
from operators.documents.serialization import token_level
from operators.documents.task import Example, TranscribedTurn
from operators.documents.transcription import Transcription


class AsrToken(Transcription):
    """Words by the time they end, a change token where the virtual channel changes: `good <change> hello ... <end>`."""

    name = "asr_token"
    token = ByteTokenizer.ASR_TOKEN
    example = Example()
    judged_by = "utterances"
    needs_word_times = True

    def target(self, scene: Scene) -> list[int]:
        """Return the window's words in token-level serialization."""
        return token_level(scene, scene.window.turns)

    def turns(self, tokenizer: ByteTokenizer, answer: Sequence[int]) -> list[TranscribedTurn]:
        """Return the stretches between changes, each with its virtual channel: there are two."""
        texts = tokenizer.split_at_changes(answer)
        return [TranscribedTurn(f"s{number % 2}", text) for number, text in enumerate(texts) if text]
