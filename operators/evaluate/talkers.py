"""Codes and a diarization to hypotheses: each talker of each window is transcribed apart.

Who speaks when is the reference's, a user's, or what the same checkpoint says in a first pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pyarrow as pa

from models.codecs.codec import CodecSpec
from models.sequence.documents import PackedDocuments
from operators.documents.compose import codec_of
from operators.documents.split_turns import Turn
from operators.documents.tasks.asr_talker import AsrTalker
from operators.documents.windows import Window
from operators.errors import InputError
from operators.evaluate.cuts import Piece
from operators.evaluate.options import Diarization
from operators.evaluate.transcribe import Transcribe
from operators.schema import CODES, HYPOTHESES, table

TASK = AsrTalker()
DIARIZING = "asr_timed"
"""The task that a checkpoint is asked first, where it diarizes by itself."""


@dataclass(frozen=True, kw_only=True)
class TranscribeTalkers:
    """Transcribes every talker of each window of a conversation, told by a diarization where they speak."""

    transcribe: Transcribe
    """The checkpoint, and how text is decoded."""
    diarization: Diarization = "reference"
    """Whose: that of the turns of the rows (reference), or the checkpoint's own (model)."""

    reads: ClassVar[pa.Schema] = CODES
    writes: ClassVar[pa.Schema] = HYPOTHESES
    version: ClassVar[str] = "1"

    @property
    def weights_digest(self) -> str:
        """Digest of the checkpoint's weights."""
        return self.transcribe.weights_digest

    def check_task(self) -> None:
        """Check that the model was trained on what it is asked.

        Raises:
            InputError: it was not.
        """
        trained, checkpoint = self.transcribe.header.tasks, self.transcribe.checkpoint
        asked = [TASK.name, *([DIARIZING] if self.diarization == "model" else [])]
        for name in asked:
            if trained and name not in trained:
                raise InputError(f"{checkpoint} was trained on {', '.join(trained)}, never on {name}")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the hypothesis of each conversation (rows of CODES to HYPOTHESES)."""
        codec = codec_of(batch.schema)
        self.transcribe.check_codec(codec)
        rows = batch.to_pylist()
        turns = [row["turns"] for row in rows]
        if self.diarization == "model":
            first = replace(self.transcribe, task=DIARIZING)
            turns = [_turns_of(one, codec) for one in first(batch).to_pylist()]
        asked: list[tuple[int, int, str, PackedDocuments]] = []
        pieces: list[Sequence[Piece]] = []
        for number, (row, of_row) in enumerate(zip(rows, turns, strict=True)):
            cut = self._pieces(row, codec)
            pieces.append(cut)
            for place, piece in enumerate(cut):
                prompts = self._prompts(row, _sorted(of_row), piece, codec)
                asked += [(number, place, speaker, prompt) for speaker, prompt in prompts]
        answers = self.transcribe.answer([prompt for *_, prompt in asked], are_free=True)
        made = [_empty(row, cut, self.weights_digest) for row, cut in zip(rows, pieces, strict=True)]
        for (number, place, speaker, _), answer in zip(asked, answers, strict=True):
            self._add(made[number], place, speaker, answer)
        return table(made, HYPOTHESES)

    def _pieces(self, row: Mapping[str, Any], codec: CodecSpec) -> Sequence[Piece]:
        """Return the windows of a conversation: they share nothing, for the diarization names talkers throughout."""
        return replace(self.transcribe, join=(), overlap_s=0.0).recording(row, codec).pieces

    def _prompts(
        self, row: Mapping[str, Any], turns: Sequence[Turn], piece: Piece, codec: CodecSpec
    ) -> list[tuple[str, PackedDocuments]]:
        """Return each speaker with speech in a window, and the prompt that asks for them."""
        inside = tuple(
            turn
            for turn in turns
            if turn["start_frame"] < piece.end and turn["start_frame"] + turn["num_frames"] > piece.start
        )
        speakers = list(dict.fromkeys(turn["speaker"] for turn in inside))
        window = Window(piece.start, piece.end, (), inside)
        told = {**row, "speakers": speakers, "turns": inside}
        scene = self.transcribe.compose.scene(told, window, codec, TASK.name, "question")
        return [(speaker, TASK.prompt_of(scene, speaker).prompt()) for speaker in speakers]

    def _add(self, made: dict[str, Any], place: int, speaker: str, answer: Sequence[int]) -> None:
        tokenizer = self.transcribe.tokenizer
        words = " ".join(tokenizer.decode(answer).split())
        if words:
            turn = {"window": place, "tag": speaker, "speaker": speaker, "text": words, "start_s": None, "end_s": None}
            made["turns"].append(turn)
        made["num_tokens"] += len(answer)
        made["num_cut"] += len(answer) >= self.transcribe.most_tokens


def _empty(row: Mapping[str, Any], pieces: Sequence[Piece], checkpoint: str) -> dict[str, Any]:
    """Return a hypothesis (a row of HYPOTHESES) of some windows, without turns."""
    return {
        "conversation_id": row["conversation_id"],
        "checkpoint": checkpoint,
        "windows": [
            {
                "start_frame": piece.start,
                "num_frames": piece.end - piece.start,
                "own_start_frame": piece.own_start,
                "own_num_frames": piece.own_end - piece.own_start,
            }
            for piece in pieces
        ],
        "turns": [],
        "num_tokens": 0,
        "num_cut": 0,
        "nll": None,
        "nll_weight": None,
    }


def _sorted(turns: Sequence[Turn]) -> list[Turn]:
    """Return turns by start, without their text: a prompt must not know it, nor the order of those that have some."""
    silent: list[Turn] = [{**turn, "text": "", "text_normalized": "", "words": []} for turn in turns]
    return sorted(silent, key=lambda turn: turn["start_frame"])


def _turns_of(hypothesis: Mapping[str, Any], codec: CodecSpec) -> list[Turn]:
    """Return the turns of a first pass (a row of HYPOTHESES) that have times."""
    rate = codec.frame_rate_hz
    return [
        {
            "utterance_id": f"first-{number}",
            "speaker": turn["speaker"],
            "start_frame": round(turn["start_s"] * rate),
            "num_frames": max(1, round((turn["end_s"] - turn["start_s"]) * rate)),
            "text": "",
            "text_normalized": "",
            "gender": None,
            "language": None,
            "words": [],
        }
        for number, turn in enumerate(hypothesis["turns"])
        if turn["start_s"] is not None and turn["end_s"] is not None
    ]
