"""speak: speak a dialogue from its script."""

from collections.abc import Iterator

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.document import Document
from operators.documents.scene import Scene
from operators.documents.serialization import arrival
from operators.documents.task import Example, Task


class Speak(Task):
    """The window's audio from its speaker-tagged script and samples of the speakers' voices.

    Source: Wang et al. 2023, "VALL-E", arXiv:2301.02111, section 4 (an enrolled voice as prompt), for several speakers.
    """

    name = "speak"
    token = ByteTokenizer.SPEAK
    example = Example()
    predicts_audio = True
    takes_voices = True

    def documents(self, scene: Scene) -> Iterator[Document]:
        """Yield the script and the audio; speakers of whom there is no voice sample have none."""
        document = Document(scene.layout, scene.codec)
        document.add_text([self.token])
        for speaker in scene.window_speakers:
            voice = scene.voice(speaker)
            if voice is not None:
                document.add_text([scene.tag(speaker), scene.tokenizer.ENROL])
                document.add_audio(voice)
        document.add_text([scene.tokenizer.TEXT, *arrival(scene, scene.window.turns), scene.tokenizer.AUDIO])
        document.add_audio(scene.window_mixture, targets_from=0)
        document.add_text([scene.tokenizer.AUDIO_END], weight=1.0)
        yield document
