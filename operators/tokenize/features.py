"""Audio to features of a frozen speech encoder: the encoder runs over each stretch of audio once, not in every step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.codecs.pcm import ZERO, Pcm
from models.config.settings import NO_RESULT
from models.config.shape import Shape
from models.config.values import Checked, within
from operators.errors import InputError
from operators.schema import FEATURES, STRETCHES, table

if TYPE_CHECKING:  # planning does without torch
    from models.speech_lm.hearing.encoder import Hearing


@dataclass(frozen=True, kw_only=True)
class Features(Checked, section="features", error=InputError):
    """Whether training reads an encoder's features that were made once, and how they are kept."""

    store: Literal["none", "float32", "float16", "int8"] = "none"
    """How features are kept; none: the encoder runs in every training step. int8 has a scale for each channel of each
    stretch."""
    device: str = field(default="cpu", metadata=NO_RESULT)
    """Device of the encoder."""
    batch_s: float = field(default=0.0, metadata=NO_RESULT | within(0, 86_400, "s"))
    """Seconds of audio, padding included, that go through the encoder at once; 0 for 16 s on a CPU, 960 s on a GPU."""

    @property
    def are_stored(self) -> bool:
        """Whether there is a data set of features."""
        return self.store != "none"


@dataclass(frozen=True)
class Hear:
    """Makes features of stretches of audio."""

    options: Features
    encoder: str
    """Folder or hub id."""
    layers: tuple[int, ...] = ()
    """Whose states are kept; the last one's where none is named."""
    window: Literal["content", "full"] = "content"
    """What Whisper encodes: the sound alone, or padded with silence to 30 s."""
    tail_s: float = 0.0
    """Seconds of silence that are heard behind each stretch."""

    reads: ClassVar[pa.Schema] = STRETCHES
    writes: ClassVar[pa.Schema] = FEATURES
    version: ClassVar[str] = "1"

    @staticmethod
    def of(options: Features, shape: Shape) -> "Hear":
        """Return the operator whose features a model of a shape takes.

        Raises:
            InputError: the shape has no encoder.
        """
        if shape.encoder is None:
            raise InputError(f"features.store {options.store} keeps an encoder's features: --model.encoder FOLDER")
        return Hear(options, shape.encoder, shape.encoder_layers, shape.encoder_window, shape.encoder_tail_s)

    @property
    def loaded(self) -> "Hearing":
        """The encoder, which a process loads once.

        Raises:
            InputError: it cannot be loaded.
        """
        try:
            return _loaded(self.encoder, self.layers, self.window, self.tail_s)
        except ValueError as error:
            raise InputError(f"model.encoder: {error}") from error

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return features (rows of FEATURES) of stretches (rows of STRETCHES), in order.

        Which stretches share a batch changes nothing beyond rounding.
        """
        heard = self.encode_all([column.as_buffer() for column in batch["samples"]])
        rows = batch.drop_columns(["samples"]).to_pylist()
        for row, frames in zip(rows, heard, strict=True):
            values, scales = stored(frames, self.options.store)
            row |= {"values": values.tobytes(), "scales": scales.tolist()}
        return table(rows, FEATURES)

    def encode_all(self, sounds: Sequence[Any]) -> Iterator[NDArray[np.float32]]:
        """Yield the frames (F, layers x width) of stretches, each N codes of `models.codecs.pcm` as bytes.

        F is N / 320, and as many more as silence is heard behind each.
        """
        import torch

        from models.speech_lm.hearing.load import ENCODER_HOP

        device = torch.device(self.options.device)
        wavs = [torch.from_numpy(_waveform(sound)).to(device) for sound in sounds]
        most = round(self.options.batch_s * Pcm.SAMPLE_RATE_HZ / ENCODER_HOP) or None
        with torch.no_grad():
            heard = self.loaded(wavs, most)
        for states in heard:
            yield states.flatten(1).float().cpu().numpy()


@lru_cache(maxsize=1)
def _loaded(encoder: str, layers: tuple[int, ...], window: Literal["content", "full"], tail_s: float) -> "Hearing":
    from models.speech_lm.hearing.encoder import Hearing

    return Hearing(encoder, 0, layers, window, tail_s)


def _waveform(sound: Any) -> NDArray[np.float32]:
    """Return the waveform (N,) of packed codes of `models.codecs.pcm`, as the training step makes it."""
    return (np.frombuffer(sound, "<u2").astype(np.float32) - ZERO) / 32768.0


def stored(frames: NDArray[np.float32], kind: str) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return frames (F, C) as they are kept, and a scale for each channel (C,), or none (0,).

    int8: a channel's largest magnitude in the stretch is 127, so that no value is off by more than 1/254 of it.
    float16: what is outside of its range becomes its end.

    >>> values, scales = stored(np.array([[1.0, 0.0], [-2.54, 0.0]], np.float32), "int8")
    >>> values.tolist(), scales.round(4).tolist()
    ([[50, 0], [-127, 0]], [0.019999999552965164, 0.0])
    """
    if kind == "float16":
        most = float(np.finfo(np.float16).max)
        return np.clip(frames, -most, most).astype("<f2"), np.zeros(0, np.float32)
    if kind == "int8":
        scales = (np.abs(frames).max(axis=0, initial=0.0) / 127.0).astype(np.float32)
        levels = np.divide(frames, scales, out=np.zeros_like(frames), where=scales > 0)
        return np.clip(np.rint(levels), -127, 127).astype(np.int8), scales
    return frames.astype("<f4"), np.zeros(0, np.float32)
