"""transcribe: an audio file and a checkpoint -> who said what."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from models.codecs import reload_codec
from models.codecs.codec import pack_codes
from operators.corpus.sources import resample, resampled_length
from operators.documents.scene import Asked
from operators.documents.tasks import TASKS, asked_of
from operators.errors import InputError
from operators.evaluate.questions import question_of
from operators.evaluate.transcribe import Transcribe
from operators.tokenize.encode import levels
from pipelines.plan.start import newest_checkpoint


def read_mono(path: Path, rate_hz: int) -> NDArray[np.float32]:
    """Return an audio file's channels mixed to one (N,), at a rate, at the level of training conversations.

    Raises:
        InputError: the file is missing, unreadable, empty, or holds NaN or infinity.
    """
    try:
        frames, from_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise InputError(f"{path} cannot be read as audio: {error}") from error
    wav = frames.mean(axis=1)
    if not len(wav):
        raise InputError(f"{path} holds no samples")
    if not np.isfinite(wav).all():
        raise InputError(f"{path} holds NaN or infinity")
    wav = resample(wav, from_hz, rate_hz, resampled_length(len(wav), from_hz, rate_hz))
    power = float(np.mean(wav**2))
    return wav * np.float32(10 ** (-26 / 20) / np.sqrt(power)) if power > 0 else wav


@dataclass(frozen=True)
class Heard:
    """A turn of a file."""

    start_s: float
    """Where it starts; without times, where its window does."""
    end_s: float | None
    """None where the model predicts no times."""
    speaker: str
    text: str


def as_seglst(session: str, turns: Sequence[Heard]) -> list[dict[str, Any]]:
    """Return turns as SegLST entries; they have times only where the model predicts them."""
    return [
        {
            "session_id": session,
            "speaker": turn.speaker,
            **({} if turn.end_s is None else {"start_time": turn.start_s, "end_time": turn.end_s}),
            "words": turn.text,
        }
        for turn in turns
    ]


class Transcriber:
    """A checkpoint that transcribes audio files, one after the other."""

    def __init__(
        self,
        checkpoint: Path,
        *,
        task: str | None = None,
        ask: str | None = None,
        hotwords: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """Load the checkpoint and its codec.

        Args:
            checkpoint: folder of a checkpoint, or of checkpoints, of which the newest is used.
            task: transcription task to ask; the first that the model was trained on by default.
            ask: what is asked of the recording, one of `operators.evaluate.questions.FORMS`.
            hotwords: words that may be said, for a model that was trained on asr_context.
            options: of `Transcribe`: window_s, cut, join, overlap_s, max_tokens.

        Raises:
            InputError: the checkpoint cannot be used.
        """
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        operator = Transcribe(checkpoint=str(newest_checkpoint(checkpoint)), device=device, **options)
        header = operator.header
        try:
            self._codec = reload_codec(header.codec, header.codec_weights)
        except ValueError as error:
            raise InputError(str(error)) from error
        asked: Asked | None = None
        if ask is not None:
            task, asked = question_of(ask, header.tasks)
            if asked is not None and ask.startswith("voice"):
                asked = replace(asked, voice=self._voice(Path(ask.partition("=")[2].strip()), header.enrol_s))
        elif hotwords:
            task, asked = "asr_context", Asked(" ".join(hotwords))
        self._operator = replace(operator, task=task or asked_of(header.tasks), asked=asked)
        self._operator.check_codec(self._codec.spec)
        self._operator.check_task()

    def _voice(self, path: Path, longest_s: float) -> bytes:
        """Return the packed codes of a sample of a voice, cut to the longest that the model was trained with."""
        spec = self._codec.spec
        codes = self._codec.encode(read_mono(path, spec.sample_rate_hz))
        return pack_codes(codes[:, : max(1, round(longest_s * spec.frame_rate_hz))], spec.bits)

    @property
    def distinct_words(self) -> int | None:
        """The different words that the model was trained on, where they are few and it knows no others."""
        number: int | None = self._operator.header.lineage.get("distinct_words")
        return number

    @property
    def asks_each_window(self) -> bool:
        """Whether what is asked is answered window by window, each as if it were all there is."""
        return self._operator.asked is not None

    @property
    def longest_s(self) -> float:
        """Longest window in seconds."""
        return self._operator.longest_s

    @property
    def has_times(self) -> bool:
        """Whether turns have times: the task's, or by who is heard to talk."""
        return TASKS[self._operator.task].predicts_times or self._operator.header.predicts_activity

    def __call__(self, path: Path) -> tuple[list[Heard], float]:
        """Return the turns of an audio file, with one name for a speaker throughout, and its length in seconds.

        Raises:
            InputError: the file cannot be read.
        """
        operator, codec = self._operator, self._codec
        wav = read_mono(path, codec.spec.sample_rate_hz)
        codes = codec.encode(wav)
        samples = np.clip(np.rint(wav * 32768), -32768, 32767).astype(np.int16)
        row = {
            "conversation_id": path.stem,
            "codes": pack_codes(codes, codec.spec.bits),
            "levels": levels(samples, codec.spec.hop_samples, codes.shape[1]).tobytes(),
            "num_frames": codes.shape[1],
            "speakers": (),
            "turns": (),
        }
        recording = operator.recording(row, codec.spec)
        operator.transcribe([recording])
        found = recording.hypothesis(operator.weights_digest)
        starts = [window["own_start_frame"] / codec.spec.frame_rate_hz for window in found["windows"]]
        turns = [
            Heard(
                starts[turn["window"]] if turn["start_s"] is None else turn["start_s"],
                turn["end_s"],
                turn["speaker"],
                turn["text"],
            )
            for turn in found["turns"]
        ]
        return turns, len(wav) / codec.spec.sample_rate_hz
