"""A stand-in for a model that answers each window with the truth, so that only cutting and joining can be wrong."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from models.config.header import Header
from models.config.shape import Shape, Vocabulary
from models.sequence.tokenizer import ByteTokenizer
from operators.documents.compose import Compose
from operators.documents.split_turns import part_between
from operators.documents.tasks import transcription
from operators.documents.windows import Window
from operators.evaluate.recording import Recording
from operators.evaluate.transcribe import Transcribe
from tests.operators.documents.support import CODEC

TOKENIZER = ByteTokenizer()


@dataclass
class Known(Recording):
    """A recording whose windows are asked of the truth."""

    hears_voices: bool = False
    """Whether voices are told apart without fail, where windows are joined by the likeness of voices."""
    names: dict = field(default_factory=dict)
    """True speaker of each name that the joiner gave."""
    scenes: dict = field(default_factory=dict)

    def prompt(self, number):
        super().prompt(number)  # must be possible
        window, piece = self.window(number), self.pieces[number]
        for name, (start, end) in window.voices.items():
            spoken = {t["speaker"] for t in self.row["turns"] if part_between(t, start, end)}
            assert self.names[name] in spoken, "a voice sample must be of its speaker"
        named = {self.names[name]: name for name in (*window.voices, *(t["speaker"] for t in window.carried))}
        start = piece.own_start if self.following.continues else piece.start
        heard = [part for t in self.row["turns"] if (part := part_between(t, start, piece.end))]
        heard = [{**part, "speaker": named.get(part["speaker"], part["speaker"])} for part in heard]
        truth = Window(window.start_frame, window.end_frame, window.carried, tuple(heard), window.voices)
        row = {**self.row, "speakers": [*self.joiner.speakers, *self.row["speakers"]]}
        self.scenes[number] = self.compose.scene(row, truth, self.codec, self.task, "question")
        return self.scenes[number]

    def true_speaker(self, number, tag):
        name = self.scenes[number].arrivals[int(tag[1:])]
        return self.names.get(name, name)

    def add(self, number, turns, active, **counts):
        super().add(number, turns, active, **counts)
        for joined in self.joiner.turns():
            self.names.setdefault(joined.speaker, self.true_speaker(joined.window, joined.tag))

    def _vector(self, number, tag):
        if not self.hears_voices:
            return super()._vector(number, tag)
        return np.eye(len(self.row["speakers"]))[self.row["speakers"].index(self.true_speaker(number, tag))]


class Perfect(Transcribe):
    """Answers each window with what is said in it, numbered as the prompt asks."""

    trained: ClassVar[dict] = {}
    hears_voices = False
    tokenizer = TOKENIZER
    weights_digest = "perfect"

    @cached_property
    def header(self):
        return Header(
            shape=Shape(),
            vocabulary=Vocabulary(text_size=1, num_streams=4, codebook_size=16, ordinal=False),
            codec=CODEC,
            codec_weights=None,
            layout="parallel",
            group=1,
            tokenizer=TOKENIZER.name,
            tokenizer_digest=TOKENIZER.digest,
            **self.trained,
        )

    @property
    def compose(self):
        return Compose(window_s=self.longest_s, enrol_s=self.header.enrol_s)

    def recording(self, row, codec):
        made = super().recording(row, codec)
        known = Known(row, codec, made.pieces, self.compose, self.task, made.following)
        known.hears_voices = self.hears_voices
        return known

    def answer(self, prompts):
        return [transcription(self.task).target(scene)[: self.most_tokens] for scene in prompts]

    def activity(self, prompts):
        found = []
        for scene in prompts:
            active = np.zeros((scene.window.end_frame - scene.window.start_frame, 31), np.float32)
            for turn in (*scene.window.carried, *scene.window.turns):
                first = turn["start_frame"] - scene.window.start_frame
                talker = scene.arrivals.index(turn["speaker"])
                active[max(0, first) : max(0, first + turn["num_frames"]), talker] = 1.0
            found.append(active)
        return found


def perfect(trained=None, *, hears_voices=False, **options):
    """A stand-in with some options, for a checkpoint that was trained in some way (fields of `Header`)."""
    made = Perfect(checkpoint="", max_tokens=10_000, **options)
    object.__setattr__(made, "trained", trained or {})
    object.__setattr__(made, "hears_voices", hears_voices)
    return made
