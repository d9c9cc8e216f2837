"""transcribe: an audio file and a checkpoint -> who said what."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from models.codecs import reload_codec
from models.codecs.codec import pack_codes
from operators.corpus.sources import resample, resampled_length
from operators.documents.windows import Window
from operators.errors import InputError
from operators.evaluate.transcribe import Transcribe
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


def quiet_cuts(wav: NDArray[np.float32], rate_hz: int, window_s: float) -> list[int]:
    """Return where a recording (N,) is cut, in samples: at the quietest 100 ms of each window's last third."""
    tenth, length = rate_hz // 10, int(window_s * rate_hz)
    cuts = [0]
    while len(wav) - cuts[-1] > length:
        late = wav[cuts[-1] + length * 2 // 3 : cuts[-1] + length]
        power = (late[: len(late) // tenth * tenth].reshape(-1, tenth) ** 2).mean(axis=1)
        cuts.append(cuts[-1] + length * 2 // 3 + int(power.argmin()) * tenth + tenth // 2)
    return [*cuts, len(wav)]


def transcribe(
    path: Path, checkpoint: Path, *, window_s: float = 15.0, max_tokens: int | None = None
) -> Iterator[tuple[float, str, str]]:
    """Yield (start of the window in seconds, speaker tag, text) of each turn that the model transcribes.

    Speaker tags restart in each window: a model without enrolment cannot match speakers across windows.

    Raises:
        InputError: the file or the checkpoint cannot be used.
    """
    operator = Transcribe(checkpoint=str(newest_checkpoint(checkpoint)), window_s=window_s, max_tokens=max_tokens)
    header = operator.header
    try:
        codec = reload_codec(header.codec, header.codec_weights)
    except ValueError as error:
        raise InputError(str(error)) from error
    operator.check_codec(codec.spec)
    wav = read_mono(path, codec.spec.sample_rate_hz)
    cuts = quiet_cuts(wav, codec.spec.sample_rate_hz, window_s)
    for start, end in itertools.pairwise(cuts):
        codes = codec.encode(wav[start:end])
        window = Window(0, codes.shape[1], (), ())
        row = {"codes": pack_codes(codes, codec.spec.bits), "num_frames": codes.shape[1], "speakers": (), "turns": ()}
        for turn in operator.turns(operator.answer([operator.prompt(row, window, codec.spec)])[0]):
            yield start / codec.spec.sample_rate_hz, turn.speaker, turn.text
