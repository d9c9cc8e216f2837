"""asr_talker: transcribe one talker, of whom a diarization tells where they speak."""

from collections.abc import Iterator

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.document import Document
from operators.documents.scene import Scene, by_start
from operators.documents.task import Example, Task
from operators.documents.transcription import transcription_prompt
from operators.errors import UnusableRowError


class AsrTalker(Task):
    """A talker's words, by the tag of the talker and where they and the others speak: `[s1]<audio><text>hello<end>`.

    Source: Polok et al. 2024, "DiCoW", arXiv:2501.00114.
    """

    name = "asr_talker"
    token = ByteTokenizer.ASR_TALKER
    example = Example()
    judged_by = "talkers"
    marks_talkers = True

    def prompt_of(self, scene: Scene, speaker: str) -> Document:
        """Return the document of a speaker up to and including `<text>`, after which the answer begins."""
        document = transcription_prompt(scene, [self.token, scene.tag(speaker)])
        document.add_text([scene.tokenizer.TEXT])
        document.suffix = f"/{scene.arrivals.index(speaker)}"
        return document

    def documents(self, scene: Scene) -> Iterator[Document]:
        """Yield a document for each speaker with text in the window.

        Raises:
            UnusableRowError: repeated frames are left out, and with them the times.
        """
        if scene.deduplicate:
            raise UnusableRowError("task asr_talker needs the times of frames: --compose.deduplicate false")
        for speaker in scene.window_speakers:
            turns = by_start([t for t in scene.window.turns if t["speaker"] == speaker], scene.speakers)
            if not turns:
                continue
            document = self.prompt_of(scene, speaker)
            words = " ".join(turn["text"] if scene.raw_text else turn["text_normalized"] for turn in turns)
            document.add_text([*scene.encode(words), scene.tokenizer.END], weight=1.0)
            yield document
