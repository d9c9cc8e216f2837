"""What the room hears: conversations to mixtures, the same samples wherever they are made."""

import io
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import scipy  # its modules are loaded when they are used
import soundfile
import soxr
from numpy.typing import NDArray

from models.config.settings import NO_RESULT
from operators.corpus.manifest import read_span
from operators.corpus.sounds import read_sound
from operators.errors import InputError, UnusableRowError
from operators.rng import rng
from operators.schema import AUDIO, AUDIO_FLAC, CONVERSATIONS, table
from operators.simulate import render_kernels as kernels
from operators.simulate.rooms import LEAD_SAMPLES, responses
from operators.store import storage
from operators.store.cache import Cache

_PER_STEP = np.float32(1 / 32768)


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
                return np.asarray(np.multiply(frames.reshape(-1, channels)[:, channel], _PER_STEP, dtype=np.float32))
            at += 8 + size + size % 2
    return None


def warm(conversations: Iterable[Mapping[str, Any]]) -> None:
    """Fetch what conversations on object storage are made of, sorted by shard, before they are rendered one by one."""
    read = (one for row in conversations for one in ([row["recording"]] if row["recording"] else row["turns"]))
    remote = [
        (one["audio"], one["byte_offset"], one["byte_length"]) for one in read if not storage.is_local(one["audio"])
    ]
    if remote:
        Cache.default().warm(remote)


def read_source(turn: Mapping[str, Any], roots: Mapping[str, Path]) -> NDArray[np.float32]:
    """Return a turn's samples (N,) at the recording's own rate.

    Raises:
        UnusableRowError: the file is missing, truncated, of another rate, or holds NaN or infinity.
    """
    path, offset, length = Path(turn["audio"]), turn["byte_offset"], turn["byte_length"]
    if not storage.is_local(turn["audio"]):
        try:
            path, offset, length = Cache.default().source(turn["audio"], offset, length), 0, 0
        except OSError as error:
            raise UnusableRowError(f"{turn['audio']} cannot be read: {error}") from error
    elif not path.is_absolute():
        path = roots[turn["corpus"]] / path
    try:
        if not length and turn["channel"] >= 0 and path.suffix.lower() == ".wav":
            span = (turn["source_rate_hz"], turn["source_start_sample"], turn["source_num_samples"], turn["channel"])
            plain = read_pcm16(path, *span)
            if plain is not None and len(plain) == turn["source_num_samples"]:
                return plain
        with soundfile.SoundFile(read_span(path, offset, length)) as sound:
            if sound.samplerate != turn["source_rate_hz"]:
                raise UnusableRowError(f"{path} has {sound.samplerate} Hz, not {turn['source_rate_hz']} as indexed")
            sound.seek(turn["source_start_sample"])
            frames = sound.read(turn["source_num_samples"], dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise UnusableRowError(f"{path} cannot be read: {error}") from error
    if len(frames) != turn["source_num_samples"]:
        raise UnusableRowError(f"{path} is truncated: {len(frames)} of {turn['source_num_samples']} samples")
    samples = frames[:, turn["channel"]] if turn["channel"] >= 0 else frames.mean(axis=1)
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


CONVOLUTION_FFT = 32_768
"""Samples of a transform: with responses of half a second, three quarters of each are new."""


@dataclass
class Piece:
    """A stretch of one speaker's sound on the timeline."""

    speaker: int
    start: int
    samples: NDArray[np.float32]


def convolve(
    pieces: Iterable[Piece], responses: NDArray[np.float32], num_samples: int, *, apart: bool = False
) -> NDArray[np.float32]:
    """Let a room hear what its speakers say: each one's sound convolved with its response, and summed.

    One overlap-add for all: a speaker's turns that share a block are transformed together, spectra of all speakers are
    summed before the one inverse transform of a block, and blocks in which nobody speaks are skipped.

    Args:
        pieces: by start; read as they are needed, and let go.
        responses: (S, M, L) from each speaker to each microphone; their sample 0 answers sample 0.
        num_samples: of the timeline (N); what rings on after it is left out.
        apart: whether speakers are kept apart.

    Returns:
        (1, M, N), or (S, M, N) where they are kept apart.
    """
    num_speakers, num_microphones, length = responses.shape
    size = max(CONVOLUTION_FFT, 1 << (4 * length - 1).bit_length())
    block = size - length + 1
    spectra = scipy.fft.rfft(responses, n=size, axis=2)
    out = np.zeros((num_speakers if apart else 1, num_microphones, num_samples), np.float32)
    per_chunk = 16
    waiting, held = iter(pieces), []
    following = next(waiting, None)
    for chunk in range(0, num_samples, per_chunk * block):
        stop = chunk + per_chunk * block
        while following is not None and following.start < stop:
            held.append(following)
            following = next(waiting, None)
        spans = [
            (piece, number, max(piece.start, chunk + number * block), min(piece.start + len(piece.samples), num_samples,
                                                                          chunk + (number + 1) * block))
            for piece in held
            for number in range(
                (max(piece.start, chunk) - chunk) // block,
                -(-(min(piece.start + len(piece.samples), stop, num_samples) - chunk) // block),
            )
        ]  # fmt: skip
        # Rows of one block lie side by side, or rows of one speaker where they are kept apart.
        keys = sorted({(piece.speaker, number) if apart else (number, piece.speaker) for piece, number, _, _ in spans})
        rows = {key: row for row, key in enumerate(keys)}
        dry = np.zeros((len(keys), size), np.float32)
        for piece, number, low, high in spans:
            row, begin = rows[(piece.speaker, number) if apart else (number, piece.speaker)], chunk + number * block
            dry[row, low - begin : high - begin] += piece.samples[low - piece.start : high - piece.start]
        held = [piece for piece in held if piece.start + len(piece.samples) > stop]
        if not keys:
            continue
        heard = scipy.fft.rfft(dry, axis=1)
        speakers = [key[0] if apart else key[1] for key in keys]
        numbers = [key[1] if apart else key[0] for key in keys]
        groups = (
            list(range(len(keys))) if apart else [i for i in range(len(keys)) if not i or numbers[i] != numbers[i - 1]]
        )
        for microphone in range(num_microphones):
            product = heard * spectra[speakers, microphone]
            if len(groups) < len(keys):
                product = np.add.reduceat(product, groups, axis=0)
            for group, wet in zip(groups, scipy.fft.irfft(product, n=size, axis=1), strict=True):
                begin = chunk + numbers[group] * block
                span = out[speakers[group] if apart else 0, microphone, begin : begin + size]
                span += wet[: len(span)]
    return out


@dataclass(frozen=True, kw_only=True)
class Render:
    """Mixes a conversation's turns as its room hears them, with noise at its signal-to-noise ratio."""

    level_dbfs: float = -26.0
    """Root-mean-square level that a turn of gain 0 dB is brought to."""
    keep_audio: bool = field(default=False, metadata=NO_RESULT)
    """Whether mixtures are kept as FLAC in a data set of their own."""
    stems: Literal["none", "reverberant", "anechoic", "both"] = "none"
    """Whether each speaker's own sound is made too: as the first microphone hears it, or without the room."""

    reads: ClassVar[pa.Schema] = CONVERSATIONS
    writes: ClassVar[pa.Schema] = AUDIO
    version: ClassVar[str] = "3"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not -60 <= self.level_dbfs <= -10:
            raise InputError("render.level_dbfs must lie between -60 and -10 dBFS")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the conversations with their samples.

        Raises:
            UnusableRowError: a recording cannot be used.
        """
        roots, rows = roots_of(batch), batch.to_pylist()
        warm(rows)
        heard = [self.hear(row, roots) for row in rows]
        stems = pa.array(
            [[{"speaker": s, "kind": kind, "samples": x} for s, kind, x in one.stems] for one in heard],
            AUDIO.field("stems").type,
        )
        columns = {
            "samples": _lists([one.channels[0] for one in heard]),
            "far_samples": _lists(
                [one.channels.T.ravel() if len(one.channels) > 1 else one.channels[0, :0] for one in heard]
            ),
            "stems": stems,
            "scale": pa.array([one.scale for one in heard], pa.float32()),
        }
        return pa.table([columns[n] if n in columns else batch[n] for n in AUDIO.names], schema=AUDIO)

    def hear(self, conversation: Mapping[str, Any], roots: Mapping[str, Path]) -> "Heard":
        """Return what the microphones hear of one conversation (a row of CONVERSATIONS).

        Raises:
            UnusableRowError: a recording cannot be used.
        """
        if conversation["origin"] == "recorded":
            return self._replay(conversation, roots)
        rate_hz, number = conversation["sample_rate_hz"], conversation["num_samples"]
        speakers: list[str] = conversation["speakers"]
        # Mixtures are summed in one way, whether stems are asked for or not: they are the same to the bit.
        anechoic = self.stems in ("anechoic", "both")
        reverberant = self.stems in ("reverberant", "both")
        dry = wet = None
        if conversation["room"] is None:
            mixture = np.zeros((1, number), np.float32)
            for piece in self.pieces(conversation, roots):
                mixture[0, piece.start : piece.start + len(piece.samples)] += piece.samples
        else:
            num_microphones = max(1, len(conversation["room"]["microphones_m"]))
            found = responses(conversation["room"], speakers, rate_hz, num_microphones, roots.get("#rirs"))
            # The lead is heard before time 0: the timeline is that much longer, and cut.
            longer = number + LEAD_SAMPLES
            mixture = convolve(self.pieces(conversation, roots), found, longer)[0][:, LEAD_SAMPLES:]
            if reverberant:
                wet = convolve(self.pieces(conversation, roots), found[:, :1], longer, apart=True)[:, 0, LEAD_SAMPLES:]
        if anechoic or (reverberant and wet is None):
            dry = self._dry(conversation, roots)
        kept = [("anechoic", dry)] if anechoic else []
        if reverberant:
            kept.append(("reverberant", dry if wet is None else wet))
        self._add_noise(mixture, conversation, roots)
        peak = max(float(mixture.max(initial=0.0)), -float(mixture.min(initial=0.0)))
        scale = 0.99 / peak if peak > 0.99 else 1.0
        named = [
            (speaker, kind, to_pcm16(each[place], scale))
            for kind, each in kept
            if each is not None
            for place, speaker in enumerate(speakers)
        ]
        return Heard(to_pcm16(mixture.reshape(-1), scale).reshape(mixture.shape), tuple(named), scale)

    def pieces(self, conversation: Mapping[str, Any], roots: Mapping[str, Path]) -> Iterator[Piece]:
        """Yield each turn's sound at its speaker's level, by start.

        Raises:
            UnusableRowError: a recording cannot be used, or is silent.
        """
        rate_hz = conversation["sample_rate_hz"]
        place = {speaker: number for number, speaker in enumerate(conversation["speakers"])}
        for turn in conversation["turns"]:
            source = read_source(turn, roots)
            samples = resample(source, turn["source_rate_hz"], rate_hz, turn["num_samples"])
            power = mean_square(samples)
            if power <= 1e-12:
                raise UnusableRowError(f"utterance {turn['utterance_id']} is silent")
            gain = 10 ** ((self.level_dbfs + turn["gain_db"]) / 20) / np.sqrt(power)
            if turn["is_part"]:
                samples = faded(samples, rate_hz)
            yield Piece(place[turn["speaker"]], turn["start_sample"], samples * np.float32(gain))

    def _dry(self, conversation: Mapping[str, Any], roots: Mapping[str, Path]) -> NDArray[np.float32]:
        out = np.zeros((len(conversation["speakers"]), conversation["num_samples"]), np.float32)
        for piece in self.pieces(conversation, roots):
            out[piece.speaker, piece.start : piece.start + len(piece.samples)] += piece.samples
        return out

    def _add_noise(
        self, mixture: NDArray[np.float32], conversation: Mapping[str, Any], roots: Mapping[str, Path]
    ) -> None:
        """Add noise to every microphone: pink noise differs from one to the next, a recording's channels in turn."""
        if conversation["noise_id"] is None:
            return
        level, number = np.float32(10 ** ((self.level_dbfs - conversation["snr_db"]) / 20)), mixture.shape[1]
        if conversation["noise_audio"] is None:
            for channel, heard in enumerate(mixture):
                name = conversation["conversation_id"] + (f":{channel}" if channel else "")
                start = 0
                for block in pink_noise_blocks(number, conversation["seed"], name):
                    heard[start : start + len(block)] += block * level
                    start += len(block)
            return
        path = roots.get("#noises", Path()) / conversation["noise_audio"]
        noise = read_sound(path, conversation["sample_rate_hz"], conversation["noise_start_sample"], number)
        power = mean_square(noise)
        if power <= 1e-12:
            raise UnusableRowError(f"noise {path} is silent from {conversation['noise_start_sample']} on")
        looped = repeated(noise, number, conversation["sample_rate_hz"]) * (level / np.float32(np.sqrt(power)))
        for channel in range(len(mixture)):
            mixture[channel] += looped[:, channel % looped.shape[1]]

    def _replay(self, conversation: Mapping[str, Any], roots: Mapping[str, Path]) -> "Heard":
        """Return a recorded conversation, its speech brought to the level of simulated ones."""
        recording, rate_hz = conversation["recording"], conversation["sample_rate_hz"]
        source = read_source(recording, roots)
        samples = resample(source, recording["source_rate_hz"], rate_hz, conversation["num_samples"])
        spoken = np.zeros(len(samples), bool)
        for turn in conversation["turns"]:
            spoken[turn["start_sample"] : turn["start_sample"] + turn["num_samples"]] = True
        power = mean_square(samples[spoken])
        if power <= 1e-12:
            raise UnusableRowError(f"recording {conversation['conversation_id']} is silent where somebody speaks")
        samples = samples * np.float32(10 ** (self.level_dbfs / 20) / np.sqrt(power))
        peak = float(np.abs(samples).max(initial=0.0))
        scale = 0.99 / peak if peak > 0.99 else 1.0
        return Heard(to_pcm16(samples, scale)[None], (), scale)


@dataclass(frozen=True)
class Heard:
    """What the microphones hear of one conversation."""

    channels: NDArray[np.int16]
    """(M, N)"""
    stems: tuple[tuple[str, str, NDArray[np.int16]], ...]
    """Speaker, kind (reverberant or anechoic), samples (N,)."""
    scale: float
    """What kept the mixture from clipping; 1 where it would not."""


def mean_square(samples: NDArray[np.float32]) -> float:
    """Return the power of samples, summed in blocks whose rounding does not grow with their number."""
    flat = samples.reshape(-1)
    if not len(flat):
        return 0.0
    blocks = [flat[i : i + 65_536] for i in range(0, len(flat), 65_536)]
    return sum(float(np.dot(block, block)) for block in blocks) / len(flat)


def repeated(noise: NDArray[np.float32], number: int, rate_hz: int) -> NDArray[np.float32]:
    """Return noise (number, channels) that begins again, cross-faded over at most half a second, as often as needed."""
    if len(noise) >= number:
        return noise[:number]
    fade = min(len(noise) // 2, rate_hz // 2)
    rise = np.sqrt((np.arange(fade, dtype=np.float32) + 0.5) / max(1, fade))[:, None]
    body = noise.copy()
    body[:fade] = body[:fade] * rise + noise[len(noise) - fade :] * rise[::-1]
    body = body[: len(noise) - fade]  # ends where its beginning, faded in, goes on
    first = noise[: len(noise) - fade]
    rest = np.tile(body, (-(-(number - len(first)) // len(body)), 1))
    return np.concatenate([first, rest])[:number]


def to_pcm16(samples: NDArray[np.float32], scale: float) -> NDArray[np.int16]:
    """Return samples (N,) times a scale as 16-bit integers."""
    return np.asarray(kernels.to_pcm16(samples, np.float32(scale * 32767)))


def _lists(arrays: Sequence[NDArray[np.int16]]) -> pa.LargeListArray:
    offsets = np.cumsum([0] + [len(one) for one in arrays])
    values = arrays[0] if len(arrays) == 1 else np.concatenate([np.zeros(0, np.int16), *arrays])
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values, pa.int16()))


def _flac(samples: NDArray[np.int16], rate_hz: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def to_flac(audio: pa.Table) -> pa.Table:
    """Write mixtures and stems as FLAC, one conversation in a row (AUDIO to AUDIO_FLAC)."""
    rows = []
    for i in range(audio.num_rows):
        rate_hz = audio["sample_rate_hz"][i].as_py()
        samples = audio["samples"][i].values.to_numpy()
        far = audio["far_samples"][i].values.to_numpy()
        channels = far.reshape(len(samples), -1) if len(far) else samples[:, None]
        rows.append(
            {
                "conversation_id": audio["conversation_id"][i].as_py(),
                "sample_rate_hz": rate_hz,
                "num_samples": len(samples),
                "num_channels": channels.shape[1],
                "flac": _flac(channels, rate_hz),
                "stems": [
                    {
                        "speaker": stem["speaker"].as_py(),
                        "kind": stem["kind"].as_py(),
                        "flac": _flac(stem["samples"].values.to_numpy(), rate_hz),
                    }
                    for stem in audio["stems"][i]
                ],
            }
        )
    return table(rows, AUDIO_FLAC)
