"""continue: continue audio from its first seconds."""

from collections.abc import Iterator

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.document import Document
from operators.documents.scene import Scene
from operators.documents.task import Example, Task


class Continuation(Task):
    """The window's audio after its first seconds (`--compose.prompt-s`)."""

    name = "continue"
    token = ByteTokenizer.CONTINUE
    example = Example(options={"prompt_s": 0.5})
    predicts_audio = True

    def documents(self, scene: Scene) -> Iterator[Document]:
        """Yield the window's audio; none where it is no longer than the prompt."""
        if scene.window.end_frame - scene.window.start_frame <= scene.prompt_frames:
            return
        document = Document(scene.layout, scene.codec)
        document.add_text([self.token])
        document.add_audio(scene.window_mixture, targets_from=scene.prompt_frames)
        document.add_text([scene.tokenizer.AUDIO_END], weight=1.0)
        yield document
