"""interleave: a conversation in which some turns are audio and the others text."""

from collections.abc import Iterator

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.document import Document
from operators.documents.scene import Scene, by_start
from operators.documents.task import Example, Task


class Interleave(Task):
    """Turns in order, some as audio and the others as text, all of them targets.

    Only turns that no other turn overlaps can be audio.

    Source: Wang et al. 2025, "InSerter", arXiv:2503.02769, section 3 (interleaved speech and text).
    """

    name = "interleave"
    token = ByteTokenizer.INTERLEAVE
    example = Example()
    predicts_audio = True

    def documents(self, scene: Scene) -> Iterator[Document]:
        """Yield one document; each turn that can be audio is with probability 1/2."""
        turns = by_start(scene.window.turns, scene.speakers)
        draw = scene.draw("interleave").random(len(turns))
        document = Document(scene.layout, scene.codec)
        document.add_text([self.token])
        for turn, chance in zip(turns, draw.tolist(), strict=True):
            start, end = turn["start_frame"], turn["start_frame"] + turn["num_frames"]
            alone = all(
                t is turn or t["start_frame"] >= end or t["start_frame"] + t["num_frames"] <= start for t in turns
            )
            document.add_text([scene.tag(turn["speaker"])], weight=1.0)
            if alone and chance < 0.5:
                document.add_text([scene.tokenizer.AUDIO], weight=1.0)
                document.add_audio(scene.mixture(start, min(end, scene.row["num_frames"])), targets_from=0)
                document.add_text([scene.tokenizer.AUDIO_END], weight=1.0)
            else:
                document.add_text(scene.turn_tokens(turn), weight=1.0)
        document.add_text([scene.tokenizer.END], weight=1.0)
        yield document
