"""extract: separate one speaker from the mixture."""

from collections.abc import Iterator

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.document import Document
from operators.documents.scene import Scene
from operators.documents.task import Example, Task


class Extract(Task):
    """One speaker's stem, without other speakers, noise and reverberation, from the mixture and a voice sample.

    Source: Wang et al. 2023, "SpeechX", arXiv:2308.06873, section 3.3 (target speaker extraction, noise suppression).
    """

    name = "extract"
    token = ByteTokenizer.EXTRACT
    example = Example()
    predicts_audio = True
    needs_stems = True
    takes_voices = True

    def documents(self, scene: Scene) -> Iterator[Document]:
        """Yield a document for one speaker, drawn from those with a voice sample; none where there is no sample."""
        voices = {speaker: codes for speaker in scene.window_speakers if (codes := scene.voice(speaker)) is not None}
        if not voices:
            return
        speaker = sorted(voices)[int(scene.draw("extract").integers(len(voices)))]
        document = Document(scene.layout, scene.codec)
        document.add_text([self.token, scene.tokenizer.ENROL])
        document.add_audio(voices[speaker])
        document.add_text([scene.tokenizer.TEXT])
        document.add_audio(scene.window_mixture)
        document.add_text([scene.tokenizer.AUDIO])
        document.add_audio(scene.stem(speaker, scene.window.start_frame, scene.window.end_frame), targets_from=0)
        document.add_text([scene.tokenizer.AUDIO_END], weight=1.0)
        yield document
