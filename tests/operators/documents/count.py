"""count: state how many speakers talk."""

from collections.abc import Iterator

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.document import Document
from operators.documents.scene import Scene
from operators.documents.task import Example, Task
from operators.documents.transcription import transcription_prompt


class Count(Task):
    """The number of speakers in the window, in digits: `2<end>`."""

    name = "count"
    token = ByteTokenizer.SPARE[0]
    example = Example()
    marks_talkers = True

    def documents(self, scene: Scene) -> Iterator[Document]:
        """Yield the window's audio and the number of its speakers."""
        document = transcription_prompt(scene, [self.token])
        document.add_text([scene.tokenizer.TEXT])
        number = str(len(scene.window_speakers))
        document.add_text([*scene.encode(number), scene.tokenizer.END], weight=1.0)
        yield document
