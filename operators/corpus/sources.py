"""Reading audio: headers, and the samples that turns and utterances refer to.

Recordings are local files, members of tar shards, or objects on object storage.
"""

import io
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
import soxr
from numpy.typing import NDArray

from operators.digest import digest_bytes
from operators.errors import UnusableRowError
from operators.store import storage
from operators.store.cache import Cache
from operators.store.remote import check_url

EDGE_S = 0.1
"""How far times in lists may be outside of their recording; what is beyond is trimmed, in seconds."""
_MOST_SAMPLES_PER_BYTE = 8192
"""Silence as FLAC comes to 65,535 samples in a frame of about 14 bytes."""
_PCM16_STEP = np.float32(1 / 32768)


@dataclass(frozen=True)
class AudioHeader:
    """What a recording's file states about it."""

    rate_hz: int
    num_samples: int
    """Samples in each channel."""
    num_channels: int
    fingerprint: str
    """Digest of the file's size and its first and last 64 KiB."""


def locate(audio: str, root: Path) -> Path | str:
    """Return the existing file that a list in the folder `root` names, or its URL on object storage.

    A path starts from the list's folder, else from the working directory: lhotse writes paths as it ran.

    Raises:
        ValueError: there is no such file, or the URL may not be opened.
    """
    if not storage.is_local(audio):
        check_url(audio)
        return audio
    named = Path(audio).expanduser()
    tried = [named] if named.is_absolute() else [root / named, named.absolute()]
    for path in tried:
        try:
            if path.exists():
                return path
        except OSError as error:
            raise ValueError(f"{path.name[:80]} is no path: {error.strerror}") from error
    raise ValueError(f"missing file {' or '.join(map(str, dict.fromkeys(tried)))}")


def _openable(path: str | Path, byte_offset: int, byte_length: int) -> io.BytesIO | str:
    """Return what soundfile can open: the path itself, or the bytes of a tar's member."""
    if not byte_length:
        return str(path)
    with open(path, "rb") as file:
        file.seek(byte_offset)
        return io.BytesIO(file.read(byte_length))


def read_header(path: Path, byte_offset: int = 0, byte_length: int = 0) -> AudioHeader:
    """Return the header of a recording, after reading its last sample: a truncated file is found here.

    Args:
        path: a local file.
        byte_offset: first byte of the recording in it.
        byte_length: bytes of the recording; 0 for the whole file.

    Raises:
        OSError: the file cannot be opened.
        soundfile.SoundFileError: the file is not audio, or is truncated.
    """
    size = byte_length or path.stat().st_size
    with open(path, "rb") as file:
        file.seek(byte_offset)
        head = file.read(min(size, 1 << 16))
        file.seek(byte_offset + max(0, size - (1 << 16)))
        tail = file.read(min(size, 1 << 16))
    with soundfile.SoundFile(_openable(path, byte_offset, byte_length)) as sound:
        num_samples = sound.frames
        if num_samples > _MOST_SAMPLES_PER_BYTE * size:
            raise soundfile.SoundFileError(f"its header claims {num_samples} samples, which {size} bytes cannot hold")
        if sound.format in ("MP3", "MPEG") and not states_length(head):
            num_samples = _decodable(sound, _openable(path, byte_offset, byte_length))
        elif num_samples > 0:
            sound.seek(num_samples - 1)
            if len(sound.read(1)) != 1:
                raise soundfile.SoundFileError("it is truncated: its last sample cannot be read")
        fingerprint = digest_bytes(b"%d" % size + head + tail)[:32]
        return AudioHeader(sound.samplerate, num_samples, sound.channels, fingerprint)


def states_length(head: bytes) -> bool:
    """Return whether an mp3 file that begins so has a frame that states its length (Xing, Info or VBRI)."""
    at = _after_id3(head)
    # Such a frame is the first; its name stands behind 4 bytes of header and up to 32 of side information.
    return any(name in head[at : at + 200] for name in (b"Xing", b"Info", b"VBRI"))


def _after_id3(head: bytes) -> int:
    """Return the first byte behind an ID3v2 tag, whose size is four times seven bits."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))


_KBPS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def mp3_samples(data: bytes) -> int:
    """Return the number of samples in the frames of an mp3 file (MPEG 1, 2 and 2.5, layer III), with padding.

    Source: ISO/IEC 11172-3, 2.4.1.3, and 13818-3: each frame's header states its bit rate and rate, so its length.
    """
    at, total = _after_id3(data), 0
    while at + 4 <= len(data):
        head = int.from_bytes(data[at : at + 4], "big")
        version, layer, kbps, hz = head >> 19 & 3, head >> 17 & 3, head >> 12 & 15, head >> 10 & 3
        if head >> 21 != 0x7FF or version == 1 or layer != 1 or kbps in (0, 15) or hz == 3:
            at += 1
            continue
        samples = 1152 if version == 3 else 576
        rate_hz = _MP3_HZ[version][hz]
        at += samples // 8 * _KBPS[1 if version == 3 else 2][kbps] * 1000 // rate_hz + (head >> 9 & 1)
        total += samples
    return total


def _decodable(sound: soundfile.SoundFile, source: io.BytesIO | str) -> int:
    """Return the number of samples of an mp3 file that does not state its length, after decoding all of it.

    Raises:
        soundfile.SoundFileError: decoding stops early, as libsndfile does where its estimate of the length is low.
    """
    num_samples = sum(len(block) for block in sound.blocks(1 << 16, dtype="float32"))
    data = source.getvalue() if isinstance(source, io.BytesIO) else Path(source).read_bytes()
    in_frames = mp3_samples(data)
    if num_samples < in_frames - 4 * 1152:
        rate_hz = sound.samplerate
        raise soundfile.SoundFileError(
            f"it is an mp3 file of variable bit rate that does not state its length: {num_samples / rate_hz:.2f} s of "
            f"{in_frames / rate_hz:.2f} s can be read; `ffmpeg -i IN.mp3 -c copy OUT.mp3` writes the length into it"
        )
    return min(num_samples, in_frames)  # where the estimate is high, silence follows


def resampled_length(num_samples: int, from_hz: int, to_hz: int) -> int:
    """Return the number of samples of a recording at another rate: the only rounding rule of the project.

    >>> resampled_length(22050, 22050, 16000)
    16000
    """
    return (num_samples * to_hz + from_hz // 2) // from_hz


def resample(samples: NDArray[np.float32], from_hz: int, to_hz: int, num_samples: int) -> NDArray[np.float32]:
    """Return samples (N,) float32 at another rate, padded or cut to (num_samples,); by soxr at its HQ setting."""
    if from_hz != to_hz:
        samples = soxr.resample(samples, from_hz, to_hz, quality="HQ")
    return np.pad(samples, (0, max(0, num_samples - len(samples))))[:num_samples]


def read_pcm16(path: Path, rate_hz: int, start: int, count: int, channel: int) -> NDArray[np.float32] | None:
    """Return samples (count,) float32 in [-1, 1) of a 16-bit PCM WAV file, or None for any other file.

    Reads the bytes directly: several times faster than libsndfile, with bit-identical results, since both divide by
    32,768.

    Args:
        path: a local file.
        rate_hz: the rate that the file must have.
        start: first sample to read.
        count: number of samples to read; fewer are returned at the end of the file.
        channel: which channel, from 0.
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
                return np.asarray(np.multiply(frames.reshape(-1, channels)[:, channel], _PCM16_STEP, dtype=np.float32))
            at += 8 + size + size % 2
    return None


def read_source(turn: Mapping[str, Any], roots: Mapping[str, Path]) -> NDArray[np.float32]:
    """Return the samples (N,) float32 in [-1, 1] of a turn or utterance, at the recording's own rate.

    Args:
        turn: a row of UTTERANCES, or a turn or the recording of a row of CONVERSATIONS; channel -1 averages channels.
        roots: folder of each corpus.

    Raises:
        UnusableRowError: the file is missing, truncated, has another rate, or contains NaN or infinity.
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
        with soundfile.SoundFile(_openable(path, offset, length)) as sound:
            if sound.samplerate != turn["source_rate_hz"]:
                raise UnusableRowError(
                    f"{path} has a rate of {sound.samplerate} Hz, but {turn['source_rate_hz']} Hz when it was indexed"
                )
            sound.seek(turn["source_start_sample"])
            frames = sound.read(turn["source_num_samples"], dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise UnusableRowError(f"{path} cannot be read: {error}") from error
    if len(frames) != turn["source_num_samples"]:
        raise UnusableRowError(f"{path} is truncated: {len(frames)} of {turn['source_num_samples']} samples")
    samples = frames[:, turn["channel"]] if turn["channel"] >= 0 else frames.mean(axis=1)
    if not np.isfinite(samples).all():
        raise UnusableRowError(f"{path} contains NaN or infinity")
    return np.ascontiguousarray(samples)


def prefetch_sources(conversations: Iterable[Mapping[str, Any]]) -> None:
    """Fetch the audio of rows of CONVERSATIONS from object storage by shard, before they are read one by one."""
    sources = (
        source
        for row in conversations
        for source in ([row["recording"]] if row["recording"] else [*row["turns"], *(row["enrolments"] or ())])
    )
    remote = [
        (source["audio"], source["byte_offset"], source["byte_length"])
        for source in sources
        if not storage.is_local(source["audio"])
    ]
    if remote:
        Cache.default().warm(remote)


def with_roots(conversations: pa.Table, roots: Mapping[str, Path]) -> pa.Table:
    """Return a table with the folder of each corpus in its schema's metadata: never stored, and part of no key."""
    text = json.dumps({name: str(path) for name, path in sorted(roots.items())})
    return conversations.replace_schema_metadata({"hubbub.roots": text})


def roots_of(conversations: pa.Table) -> dict[str, Path]:
    """Return the folders that `with_roots` attached to a table."""
    text = (conversations.schema.metadata or {}).get(b"hubbub.roots", b"{}")
    return {name: Path(path) for name, path in json.loads(text).items()}
