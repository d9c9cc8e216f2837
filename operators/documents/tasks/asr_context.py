"""asr_context: transcribe all speakers, given hotwords."""

from collections.abc import Iterator

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.document import Document
from operators.documents.scene import Scene
from operators.documents.serialization import arrival
from operators.documents.task import Example, Task
from operators.documents.transcription import transcription_prompt


class AsrContext(Task):
    """As asr, with words in the prompt, some of which occur in the window."""

    name = "asr_context"
    token = ByteTokenizer.ASR_CONTEXT
    example = Example()
    judged_by = "speakers"
    marks_talkers = True
    carries_voices = True

    def documents(self, scene: Scene) -> Iterator[Document]:
        """Yield a document whose hotwords are half of the window's long words, and as many that do not occur in it.

        The latter are drawn from the rest of the conversation.
        """
        draw = scene.draw("hotwords")
        inside = {w for t in scene.window.turns for w in t["text_normalized"].split() if len(w) > 4}
        everywhere = {w for t in scene.row["turns"] for w in t["text_normalized"].split() if len(w) > 4}
        present, absent = sorted(inside), sorted(everywhere - inside)
        words = [present[i] for i in draw.permutation(len(present))[: -(-len(present) // 2)]]
        words += [absent[i] for i in draw.permutation(len(absent))[: len(words)]]
        hotwords = " ".join(words[i] for i in draw.permutation(len(words)))
        document = transcription_prompt(scene, [self.token, scene.tokenizer.INSTRUCTION, *scene.encode(hotwords)])
        document.add_text([scene.tokenizer.TEXT])
        document.add_text([*arrival(scene, scene.window.turns), scene.tokenizer.END], weight=1.0)
        yield document
