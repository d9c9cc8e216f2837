"""asr_token: transcribe all speakers word by word (t-SOT)."""

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.scene import Scene
from operators.documents.serialization import token_level
from operators.documents.task import Example
from operators.documents.transcription import Transcription


class AsrToken(Transcription):
    """Words by the time they end, a change token where the virtual channel changes: `good <change> hello ... <end>`."""

    name = "asr_token"
    token = ByteTokenizer.ASR_TOKEN
    example = Example()
    needs_word_times = True

    def target(self, scene: Scene) -> list[int]:
        """Return the window's words in token-level serialization."""
        return token_level(scene, scene.window.turns)
