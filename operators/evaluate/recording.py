"""A recording that is transcribed window by window: the prompts of its windows, and what becomes of the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs.codec import CodecSpec, unpack_codes
from models.sequence.documents import PackedDocuments
from operators.corpus.normalizers import normalize
from operators.documents.compose import Compose
from operators.documents.scene import Asked
from operators.documents.split_turns import Turn
from operators.documents.task import TranscribedTurn
from operators.documents.tasks import TASKS
from operators.documents.windows import Window
from operators.evaluate.cuts import Piece
from operators.evaluate.join import HeardTurn, HeardWindow, Joiner

Activity = NDArray[np.float32]
"""(frames, talkers): how probably each talker, by arrival, speaks in each frame of a window."""

LEAST_SAMPLE_S = 0.5
"""Shorter stretches of a voice are no sample of it."""

LEAST_LIKENESS = 0.5
"""Cosine below which two voices are two speakers."""


@dataclass(frozen=True, kw_only=True)
class Following:
    """How speakers are followed from one window to the next."""

    by_overlap: bool
    by_likeness: bool
    carries_voices: bool
    """Whether prompts hold samples of the voices so far."""
    continues: bool
    """Whether prompts hold the text of the audio that is shared with the window before."""


@dataclass
class Recording:
    """The windows of one conversation (a row of CODES), answered in order."""

    row: Mapping[str, Any]
    codec: CodecSpec
    pieces: Sequence[Piece]
    compose: Compose
    task: str
    following: Following
    asked: Asked | None = None
    """What a user asks of every window."""
    num_tokens: int = 0
    num_cut: int = 0
    _samples: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Longest stretch so far in which a speaker is alone, in frames."""
    _solos: dict[tuple[int, str], list[tuple[int, int]]] = field(default_factory=dict)
    """Stretches in which a tag of a window is alone."""
    _prompted: dict[int, list[str]] = field(default_factory=dict)
    """Speakers that the prompt of a window names, by tag."""

    def __post_init__(self) -> None:
        """Start without speakers."""
        self.joiner = Joiner(
            self.codec.frame_rate_hz,
            by_overlap=self.following.by_overlap,
            voice=self._vector if self.following.by_likeness else None,
            least_likeness=LEAST_LIKENESS,
            # A sentence that a window's border cuts in two is written otherwise than whole.
            same=normalize if TASKS[self.task].writes_formatted else str,
        )

    def window(self, number: int) -> Window:
        """Return a window with what its prompt holds of earlier ones."""
        piece = self.pieces[number]
        carried: list[Turn] = []
        if self.following.continues and number:
            carried = [
                turn for turn in self._turns() if piece.start <= turn["start_frame"] and _end(turn) <= piece.own_start
            ]
        voices = dict(sorted(self._samples.items(), key=lambda item: self.joiner.speakers.index(item[0])))
        voices = voices if self.following.carries_voices else {}
        return Window(piece.start, piece.end, tuple(carried), (), voices=voices)

    def _turns(self) -> list[Turn]:
        """Return what was transcribed so far as turns with times."""
        return [
            {
                "utterance_id": f"{joined.window}-{number}",
                "speaker": joined.speaker,
                "start_frame": round(joined.start),
                "num_frames": max(1, round(joined.end - joined.start)),
                "text": joined.text,
                "text_normalized": joined.text,
                "gender": None,
                "language": None,
                "words": [],
            }
            for number, joined in enumerate(self.joiner.turns())
            if joined.start is not None and joined.end is not None
        ]

    def prompt(self, number: int) -> PackedDocuments:
        """Return the prompt of a window; those of earlier windows must have been answered where it depends on them."""
        window = self.window(number)
        row = {**self.row, "speakers": self.joiner.speakers, "turns": ()}
        scene = self.compose.scene(row, window, self.codec, self.task, "question")
        self._prompted[number] = scene.arrivals
        return self.compose.prompt(row, window, self.codec, self.task, self.asked).prompt()

    def add(
        self, number: int, turns: Sequence[TranscribedTurn], active: Activity | None, *, num_tokens: int, is_cut: bool
    ) -> None:
        """Take the answer to a window's prompt, and who talks when where the model predicts that."""
        piece, rate = self.pieces[number], self.codec.frame_rate_hz
        known = {f"s{place}": speaker for place, speaker in enumerate(self._prompted.get(number, ()))}
        heard = [
            HeardTurn(
                turn.speaker,
                turn.text,
                None if turn.start_s is None else piece.start + turn.start_s * rate,
                None if turn.end_s is None else piece.start + turn.end_s * rate,
            )
            for turn in turns
        ]
        for tag, spans in _alone(heard, active, piece).items():
            self._solos[number, tag] = spans
        speakers = self.joiner.add(HeardWindow(piece, heard, known, bool(number) and self.following.continues))
        most = self.compose.enrol_s * rate
        for tag, speaker in speakers.items():
            for start, end in self._solos.get((number, tag), ()):
                sample = (start, min(end, start + max(1, round(most))))
                held = self._samples.get(speaker, (0, 0))
                if sample[1] - sample[0] > max(held[1] - held[0], LEAST_SAMPLE_S * rate):
                    self._samples[speaker] = sample
        self.num_tokens += num_tokens
        self.num_cut += is_cut

    def _vector(self, number: int, tag: str) -> NDArray[np.float64] | None:
        """Return the mean and the spread of the codes in which a tag of a window is alone; None where it is not.

        For codecs whose codes are numbers on a scale, that is the long-term average spectrum of the voice; for others,
        how often each code occurs.
        """
        spans = self._solos.get((number, tag), [])
        if sum(end - start for start, end in spans) < LEAST_SAMPLE_S * self.codec.frame_rate_hz:
            return None
        codes = unpack_codes(self.row["codes"], self.codec.num_codebooks, self.codec.bits)
        own = np.concatenate([codes[:, start:end] for start, end in spans], axis=1).astype(np.float64)
        if self.codec.ordinal:
            whole = codes.astype(np.float64)
            spread = whole.std(axis=1) + 1e-6
            return np.concatenate([(own.mean(axis=1) - whole.mean(axis=1)) / spread, own.std(axis=1) / spread - 1.0])
        counts = [np.bincount(row.astype(np.int64), minlength=self.codec.codebook_size) for row in own]
        return np.asarray(np.sqrt(np.concatenate(counts) / own.shape[1]), np.float64)

    def hypothesis(self, checkpoint: str) -> dict[str, Any]:
        """Return the joined transcript as a row of HYPOTHESES."""
        rate = self.codec.frame_rate_hz
        return {
            "conversation_id": self.row["conversation_id"],
            "checkpoint": checkpoint,
            "windows": [
                {
                    "start_frame": piece.start,
                    "num_frames": piece.end - piece.start,
                    "own_start_frame": piece.own_start,
                    "own_num_frames": piece.own_end - piece.own_start,
                }
                for piece in self.pieces
            ],
            "turns": [
                {
                    "window": joined.window,
                    "tag": joined.tag,
                    "speaker": joined.speaker,
                    "text": joined.text,
                    "start_s": None if joined.start is None else round(joined.start / rate, 6),
                    "end_s": None if joined.end is None else round(joined.end / rate, 6),
                }
                for joined in self.joiner.turns()
            ],
            "num_tokens": self.num_tokens,
            "num_cut": self.num_cut,
            "nll": None,
            "nll_weight": None,
        }


def _end(turn: Turn) -> int:
    end: int = turn["start_frame"] + turn["num_frames"]
    return end


def _alone(turns: Sequence[HeardTurn], active: Activity | None, piece: Piece) -> dict[str, list[tuple[int, int]]]:
    """Return the stretches of a window in which only one tag speaks: by the turns' times, or by activity."""
    tags = list(dict.fromkeys(turn.tag for turn in turns))
    num_frames = piece.end - piece.start
    speaking = np.zeros((len(tags), num_frames), bool)
    for turn in turns:
        if turn.start is not None and turn.end is not None:
            start, end = (min(max(round(frame) - piece.start, 0), num_frames) for frame in (turn.start, turn.end))
            speaking[tags.index(turn.tag), start:end] = True
    if active is not None:
        for place, tag in enumerate(tags):
            talker = int(tag[1:])
            if talker < active.shape[1]:
                speaking[place] = active[:num_frames, talker] > 0.5
    only = speaking & (speaking.sum(axis=0) == 1)
    found = {}
    for place, tag in enumerate(tags):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], only[place], [False]]).astype(np.int8)))
        found[tag] = [(piece.start + int(a), piece.start + int(b)) for a, b in edges.reshape(-1, 2)]
    return found
