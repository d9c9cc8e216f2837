"""duplex: both sides of a conversation at once."""

from collections.abc import Iterator

import numpy as np

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.document import Document
from operators.documents.scene import Scene, by_start
from operators.documents.task import Example, Task
from operators.errors import UnusableRowError


class Duplex(Task):
    """Two speakers' stems side by side, with the first speaker's words as text in the same columns.

    A column holds as many frames of either speaker, alternating. Its text cell holds the next token of a word, from the
    column on in which the word begins.

    Source: Défossez et al. 2024, "Moshi", arXiv:2410.00037, sections 3.4.3 and 3.4.4 (multi-stream, inner monologue).
    """

    name = "duplex"
    token = ByteTokenizer.DUPLEX
    example = Example(options={"group": 2, "prompt_s": 0.5})
    predicts_audio = True
    needs_stems = True
    needs_even_group = True

    def documents(self, scene: Scene) -> Iterator[Document]:
        """Yield the document of a window of exactly two speakers.

        Raises:
            UnusableRowError: the layout cannot hold two streams, or there are no stems.
        """
        group = getattr(scene.layout, "group", 1)
        if group % 2:
            raise UnusableRowError("task duplex needs an even number of frames in a column: --compose.group 2")
        speakers = scene.window_speakers
        if len(speakers) != 2:
            return
        start, end = scene.window.start_frame, scene.window.end_frame
        size = scene.codec.num_codebooks * scene.codec.bits // 8
        both = [np.frombuffer(scene.stem(s, start, end), np.uint8).reshape(-1, size) for s in speakers]
        document = Document(scene.layout, scene.codec)
        document.add_text([self.token])
        targets_from = min(2 * scene.prompt_frames, 2 * (end - start) - 2)
        first = document.add_audio(np.stack(both, axis=1).tobytes(), targets_from=targets_from)
        for column, token in _monologue(scene, speakers[0], frames_per_column=group // 2):
            if first + column < document.columns:
                document.overlay_text(first + column, token)
        document.add_text([scene.tokenizer.AUDIO_END], weight=1.0)
        yield document


def _monologue(scene: Scene, speaker: str, frames_per_column: int) -> Iterator[tuple[int, int]]:
    """Yield (audio column, token) of a speaker's words: one token a column, no earlier than where its word begins."""
    free = 0
    for turn in by_start(scene.window.turns, scene.speakers):
        if turn["speaker"] != speaker:
            continue
        words = [(w["word"], w["start_frame"]) for w in turn["words"]]
        for number, (word, frame) in enumerate(words or [(turn["text_normalized"], turn["start_frame"])]):
            for token in scene.encode(f" {word}" if number else word):
                free = max(free, (frame - scene.window.start_frame) // frames_per_column)
                yield free, token
                free += 1
