"""What the room hears: conversations to mixtures, the same samples wherever they are made."""

import io
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import scipy.signal
import soundfile
import soxr
from numpy.typing import NDArray

from operators.errors import InputError, UnusableRowError
from operators.manifest import read_span
from operators.rng import rng
from operators.schema import AUDIO, AUDIO_FLAC, CONVERSATIONS, table


def read_pcm16(path: Path, rate_hz: int, start: int, count: int, channel: int) -> NDArray[np.float32] | None:
    """Return samples of a 16-bit PCM WAV file straight from its bytes, or None where it is anything else.

    Several times faster than through libsndfile, and equal to the bit: both divide by 32,768.
    """
    with open(path, "rb") as file:
        head = file.read(4096)
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return None
        at, form = 12, None
        while at + 8 <= len(head):
            name, size = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
            if name == b"fmt ":
                form = struct.unpack("<HHIIHH", head[at + 8 : at + 24])
            if name == b"data" and form is not None:
                code, channels, rate, _, width, bits = form
                if (code, rate, bits, width) != (1, rate_hz, 16, 2 * channels):
                    return None
                file.seek(at + 8 + start * width)
                frames = np.fromfile(file, "<i2", min(count, size // width - start) * channels)
                return frames.reshape(-1, channels)[:, channel].astype(np.float32) / np.float32(32768)
            at += 8 + size + size % 2
    return None


def read_source(turn: Mapping[str, Any], roots: Mapping[str, Path]) -> NDArray[np.float32]:
    """Return a turn's samples (N,) at the recording's own rate.

    Raises:
        UnusableRowError: the file is missing, truncated, of another rate, or holds NaN or infinity.
    """
    path = Path(turn["audio"])
    if not path.is_absolute():
        path = roots[turn["corpus"]] / path
    try:
        if not turn["byte_length"] and path.suffix.lower() == ".wav":
            span = (turn["source_rate_hz"], turn["source_start_sample"], turn["source_num_samples"], turn["channel"])
            plain = read_pcm16(path, *span)
            if plain is not None and len(plain) == turn["source_num_samples"]:
                return plain
        with soundfile.SoundFile(read_span(path, turn["byte_offset"], turn["byte_length"])) as sound:
            if sound.samplerate != turn["source_rate_hz"]:
                raise UnusableRowError(f"{path} has {sound.samplerate} Hz, not {turn['source_rate_hz']} as indexed")
            sound.seek(turn["source_start_sample"])
            frames = sound.read(turn["source_num_samples"], dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise UnusableRowError(f"{path} cannot be read: {error}") from error
    if len(frames) != turn["source_num_samples"]:
        raise UnusableRowError(f"{path} is truncated: {len(frames)} of {turn['source_num_samples']} samples")
    samples = frames[:, turn["channel"]]
    if not np.isfinite(samples).all():
        raise UnusableRowError(f"{path} holds NaN or infinity")
    return np.ascontiguousarray(samples)


def resample(samples: NDArray[np.float32], from_hz: int, to_hz: int, num_samples: int) -> NDArray[np.float32]:
    """Return exactly `num_samples` samples at another rate (soxr, its high-quality setting)."""
    if from_hz != to_hz:
        samples = soxr.resample(samples, from_hz, to_hz, quality="HQ")
    return np.pad(samples, (0, max(0, num_samples - len(samples))))[:num_samples]


# 1/f within half a decibel from 20 Hz to 0.45 of the rate: Smith 2011, "Spectral Audio Signal Processing", 6.14.2.
_PINK_ZEROS = np.array([0.049922035, -0.095993537, 0.050612699, -0.004408786])
_PINK_POLES = np.array([1.0, -2.494956002, 2.017265875, -0.522189400])


@cache
def _pink_power() -> float:
    """Return the power of filtered white noise of unit power: the energy of the filter's impulse response."""
    impulse = np.zeros(1 << 16)
    impulse[0] = 1.0
    return float(np.sum(scipy.signal.lfilter(_PINK_ZEROS, _PINK_POLES, impulse) ** 2))


NOISE_BLOCK = 1 << 20


def pink_noise_blocks(num_samples: int, seed: int, conversation_id: str) -> Iterator[NDArray[np.float32]]:
    """Yield noise of unit power and 1/f spectrum in blocks, so that hours fit in memory."""
    draw = rng(seed, "noise", conversation_id)
    zeros, poles = (x.astype(np.float32) for x in (_PINK_ZEROS / np.sqrt(_pink_power()), _PINK_POLES))
    state = np.zeros(len(poles) - 1, dtype=np.float32)
    for start in range(0, num_samples, NOISE_BLOCK):
        white = draw.standard_normal(min(NOISE_BLOCK, num_samples - start), dtype=np.float32)
        block, state = scipy.signal.lfilter(zeros, poles, white, zi=state)
        yield block


def pink_noise(num_samples: int, seed: int, conversation_id: str) -> NDArray[np.float32]:
    """Return noise (num_samples,) of unit power and 1/f spectrum."""
    return np.concatenate([np.zeros(0, np.float32), *pink_noise_blocks(num_samples, seed, conversation_id)])


def faded(samples: NDArray[np.float32], rate_hz: int, fade_s: float = 0.005) -> NDArray[np.float32]:
    """Return samples that rise from and fall to silence within 5 ms: what is cut out of speech would click."""
    length = min(len(samples) // 2, round(fade_s * rate_hz))
    ramp = (0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / max(1, length))).astype(np.float32)
    out = samples.copy()
    out[:length] *= ramp
    out[len(out) - length :] *= ramp[::-1]
    return out


def with_roots(conversations: pa.Table, roots: Mapping[str, Path]) -> pa.Table:
    """Say in the schema's metadata where each corpus lies: known on the way, never stored, part of no key."""
    text = json.dumps({name: str(path) for name, path in sorted(roots.items())})
    return conversations.replace_schema_metadata({"hubbub.roots": text})


def roots_of(conversations: pa.Table) -> dict[str, Path]:
    """Return what `with_roots` said."""
    text = (conversations.schema.metadata or {}).get(b"hubbub.roots", b"{}")
    return {name: Path(path) for name, path in json.loads(text).items()}


@dataclass(frozen=True, kw_only=True)
class Render:
    """Mixes a conversation's turns, each at its speaker's level, with noise at its signal-to-noise ratio."""

    level_dbfs: float = -26.0
    """Root-mean-square level that a turn of gain 0 dB is brought to."""
    keep_audio: bool = False
    """Whether mixtures are kept as FLAC in a data set of their own."""

    reads: ClassVar[pa.Schema] = CONVERSATIONS
    writes: ClassVar[pa.Schema] = AUDIO
    version: ClassVar[str] = "2"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not -60 <= self.level_dbfs <= -10:
            raise InputError("render.level_dbfs must lie between -60 and -10 dBFS")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the conversations with their samples.

        Raises:
            UnusableRowError: a recording cannot be used.
        """
        roots = roots_of(batch)
        mixed = [self.mix(row, roots) for row in batch.to_pylist()]
        offsets = np.cumsum([0] + [len(samples) for samples, _ in mixed])
        values = np.concatenate([samples for samples, _ in mixed]) if mixed else np.zeros(0, np.int16)
        samples = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values, pa.int16()))
        out = batch.append_column(AUDIO.field("samples"), samples)
        return out.append_column(AUDIO.field("scale"), pa.array([scale for _, scale in mixed], pa.float32()))

    def mix(self, conversation: Mapping[str, Any], roots: Mapping[str, Path]) -> tuple[NDArray[np.int16], float]:
        """Return the mixture (N,) and the factor that kept it from clipping (1 where it would not)."""
        rate_hz = conversation["sample_rate_hz"]
        mixture = np.zeros(conversation["num_samples"], dtype=np.float32)
        for turn in conversation["turns"]:
            source = read_source(turn, roots)
            samples = resample(source, turn["source_rate_hz"], rate_hz, turn["num_samples"])
            power = float(np.mean(samples.astype(np.float64) ** 2))
            if power <= 1e-12:
                raise UnusableRowError(f"utterance {turn['utterance_id']} is silent")
            gain = 10 ** ((self.level_dbfs + turn["gain_db"]) / 20) / np.sqrt(power)
            if turn["is_part"]:
                samples = faded(samples, rate_hz)
            mixture[turn["start_sample"] : turn["start_sample"] + len(samples)] += np.float32(gain) * samples
        if conversation["noise_id"] == "pink":
            level, start = np.float32(10 ** ((self.level_dbfs - conversation["snr_db"]) / 20)), 0
            for block in pink_noise_blocks(len(mixture), conversation["seed"], conversation["conversation_id"]):
                mixture[start : start + len(block)] += block * level
                start += len(block)
        peak = max(float(mixture.max(initial=0.0)), -float(mixture.min(initial=0.0)))
        scale = 0.99 / peak if peak > 0.99 else 1.0
        out = np.empty(len(mixture), np.int16)
        for start in range(0, len(mixture), NOISE_BLOCK):  # a two-hour meeting has no room for copies
            block = mixture[start : start + NOISE_BLOCK] * np.float32(scale * 32767)
            out[start : start + NOISE_BLOCK] = np.rint(block, out=block)
        return out, scale


def to_flac(audio: pa.Table) -> pa.Table:
    """Write mixtures as FLAC, one in a row (AUDIO to AUDIO_FLAC)."""
    rows = []
    for i in range(audio.num_rows):
        buffer = io.BytesIO()
        rate_hz = audio["sample_rate_hz"][i].as_py()
        samples = audio["samples"][i].values.to_numpy()
        soundfile.write(buffer, samples, rate_hz, format="FLAC", subtype="PCM_16")
        rows.append(
            {
                "conversation_id": audio["conversation_id"][i].as_py(),
                "sample_rate_hz": rate_hz,
                "num_samples": len(samples),
                "flac": buffer.getvalue(),
            }
        )
    return table(rows, AUDIO_FLAC)
