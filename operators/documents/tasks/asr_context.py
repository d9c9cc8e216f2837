"""asr_context: transcribe all speakers, given hotwords."""

from collections.abc import Iterator

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.document import Document
from operators.documents.hotwords import WordCounts, hotword_list, hotwords_in
from operators.documents.scene import Scene
from operators.documents.serialization import arrival
from operators.documents.task import Example, Task
from operators.documents.transcription import transcription_prompt


class AsrContext(Task):
    """As asr, with words in the prompt, of which some, all or none are said in the window."""

    name = "asr_context"
    token = ByteTokenizer.ASR_CONTEXT
    example = Example()
    judged_by = "speakers"
    also_measured = ("bwer", "uwer")
    marks_talkers = True
    carries_voices = True
    uses_words = True

    def prompt(self, scene: Scene) -> Document:
        """Return the prompt with the words that a user expects."""
        assert scene.asked is not None
        return self._prompt(scene, scene.asked.text)

    def _prompt(self, scene: Scene, hotwords: str) -> Document:
        document = transcription_prompt(scene, [self.token, scene.tokenizer.INSTRUCTION, *scene.encode(hotwords)])
        document.add_text([scene.tokenizer.TEXT])
        return document

    def documents(self, scene: Scene) -> Iterator[Document]:
        """Yield a document whose hotwords are some of the window's long words, and some that are not said in it."""
        turns = [*scene.window.carried, *scene.window.turns]
        if scene.rare_hotwords:
            words = scene.words or WordCounts.rare([scene.row["turns"]])
            said = words.among(turns)
        else:
            words = scene.words or WordCounts.of([scene.row["turns"]])
            said = hotwords_in(turns)
        hotwords = " ".join(hotword_list(said, words, scene.most_hotwords, scene.draw("hotwords")))
        document = self._prompt(scene, hotwords)
        document.asked = {"hotwords": hotwords}
        document.add_text([*arrival(scene, scene.window.turns), scene.tokenizer.END], weight=1.0)
        yield document
