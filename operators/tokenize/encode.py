"""Audio to codes: the costly step, done once; layouts and tasks are chosen later, without encoding again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.codecs import CodecName, load_codec
from models.codecs.codec import Codec, CodecSpec, encode_many, in_bf16, pack_codes, takes_any_lengths
from models.config.settings import BY_CONTENT, NO_RESULT
from models.config.values import Checked, within
from operators.corpus.annotations import to_frames
from operators.errors import InputError
from operators.schema import AUDIO, CODES, table

_PCM16_STEP = np.float32(1 / 32768)
_DEVICE_BATCH_S = 200.0
"""Seconds that are encoded at once on a GPU where nothing is said: one waveform leaves most of it idle."""


def batches(lengths: Sequence[int], longest: float) -> list[list[int]]:
    """Group waveforms of similar length into batches, shortest first; return the indices of each batch.

    Args:
        lengths: number of samples of each waveform.
        longest: most samples in a batch, padding included; with 0 every waveform is a batch of its own.

    >>> batches([5, 1, 4, 1], longest=8)
    [[1, 3], [2], [0]]
    """
    if not longest:
        return [[i] for i in range(len(lengths))]
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        # A batch is as long as its last waveform; those over a tenth shorter than that are in another batch.
        fits = found and (len(found[-1]) + 1) * lengths[i] <= longest and lengths[found[-1][0]] >= 0.9 * lengths[i]
        if fits:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def levels(samples: NDArray[np.integer], hop_samples: int, num_frames: int) -> NDArray[np.uint8]:
    """Return the level of each frame (T,) of a 16-bit waveform (N,), in whole dB below full scale; 255 is silence.

    >>> levels(np.array([0, 0, 16384, -16384, 32767, 32767], np.int16), 2, 4).tolist()
    [255, 6, 0, 255]
    """
    padded = np.zeros(num_frames * hop_samples, np.float32)
    padded[: min(len(samples), len(padded))] = samples[: len(padded)]
    power = np.square(padded * _PCM16_STEP).reshape(num_frames, hop_samples).mean(axis=1)
    below = -10 * np.log10(np.maximum(power, 1e-30))
    return np.where(power > 0, np.clip(np.rint(below), 0, 254), 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Encode(Checked, section="encode", error=InputError):
    """Encodes each mixture independently, so that no code depends on what else is in the batch."""

    codec: CodecName = field(default="dmel", metadata=BY_CONTENT)
    """Codec; most need the folder of their weights."""
    weights: str | None = field(default=None, metadata=BY_CONTENT)
    """Folder of the codec's weights; for transformers codecs also a hub id, which is then downloaded."""
    num_codebooks: int | None = field(default=None, metadata=BY_CONTENT | within(1, 1024))
    """Number of codebooks to use, for codecs with a choice; None for the codec's default."""
    stems: bool = False
    """Whether the rendered stems are encoded too: the targets of speaker extraction."""
    batch_s: float = field(default=0.0, metadata=NO_RESULT | within(0, 86_400, "s"))
    """Seconds of audio of similar length encoded at once. With 0: one waveform at a time on a CPU, 200 s on a GPU. dMel
    on a GPU encodes all waveforms of a chunk at once, of any lengths."""
    device: str = field(default="cpu", metadata=NO_RESULT)
    """Device of dMel or of a neural codec. dMel has the same codes on every device."""

    precision: Literal["float32", "bf16"] = "float32"
    """Precision of a neural codec through transformers: bf16 is faster on a GPU, and refused where it would change more
    than one code in a hundred of a test sound."""

    reads: ClassVar[pa.Schema] = AUDIO
    writes: ClassVar[pa.Schema] = CODES
    version: ClassVar[str] = "3"

    @cached_property
    def loaded(self) -> Codec:
        """The codec, loaded when first used.

        Raises:
            InputError: weights or a package are missing, or the codec cannot compute in that precision.
        """
        try:
            codec = load_codec(self.codec, self.weights, self.num_codebooks, self.device)
            return in_bf16(codec) if self.precision == "bf16" else codec
        except ValueError as error:
            raise InputError(str(error)) from error

    @property
    def spec(self) -> CodecSpec:
        """The codec's fixed properties."""
        return self.loaded.spec

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the loaded weights: a worker loads its own."""
        return {key: value for key, value in self.__dict__.items() if key != "loaded"}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return codes and turns in frames (rows of CODES) of conversations (rows of AUDIO)."""
        wavs = [samples.values.to_numpy() for samples in batch["samples"]]
        stems = [list(listed) if self.stems else [] for listed in batch["stems"]]
        wavs += [stem["samples"].values.to_numpy() for listed in stems for stem in listed]
        wavs += [samples.values.to_numpy() for listed in batch["enrolment_samples"] for samples in listed]
        coded = self.encode_all(wavs)
        further = iter(coded[batch.num_rows :])
        codes_of_stems = [[next(further) for _ in listed] for listed in stems]
        rows = []
        without_audio = batch.drop_columns(["samples", "far_samples", "stems", "enrolment_samples"])
        for i, row in enumerate(without_audio.to_pylist()):
            rows.append(
                {
                    "conversation_id": row["conversation_id"],
                    "origin": row["origin"],
                    "split": row["split"],
                    "user_columns": row["user_columns"],
                    "num_samples": row["num_samples"],
                    "num_frames": coded[i].shape[1],
                    "codes": pack_codes(coded[i], self.spec.bits),
                    "levels": levels(wavs[i], self.spec.hop_samples, coded[i].shape[1]).tobytes(),
                    "speakers": row["speakers"],
                    "turns": [self._turn(turn) for turn in row["turns"]],
                    "stems": [
                        {
                            "speaker": stem["speaker"].as_py(),
                            "kind": stem["kind"].as_py(),
                            "codes": pack_codes(codes, self.spec.bits),
                        }
                        for stem, codes in zip(stems[i], codes_of_stems[i], strict=True)
                    ],
                    "enrolments": [
                        {
                            "speaker": one["speaker"],
                            "utterance_id": one["utterance_id"],
                            "codes": pack_codes(next(further), self.spec.bits),
                        }
                        for one in row["enrolments"]
                    ],
                }
            )
        return table(rows, CODES)

    def encode_all(self, wavs: Sequence[NDArray[np.int16]]) -> list[NDArray[np.uint16]]:
        """Return the codes (K, T) of each 16-bit waveform (N,).

        With `batch_s`, waveforms of similar length are encoded together, so that little of a batch is padding; codecs
        batch only where that cannot change a code.
        """
        found: dict[int, NDArray[np.uint16]] = {}
        for batch in self._batches([len(wav) for wav in wavs]):
            samples = [np.multiply(wavs[i], _PCM16_STEP, dtype=np.float32) for i in batch]
            codes = encode_many(self.loaded, samples) if len(samples) > 1 else [self.loaded.encode(samples[0])]
            found.update(zip(batch, codes, strict=True))
        return [found[i] for i in range(len(wavs))]

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return the indices of the waveforms, of so many samples each, that are encoded together."""
        if takes_any_lengths(self.loaded):
            return [list(range(len(lengths)))] if lengths else []
        default_s = 0.0 if self.device == "cpu" else _DEVICE_BATCH_S
        return batches(lengths, (self.batch_s or default_s) * self.spec.sample_rate_hz)

    def _turn(self, turn: dict[str, Any]) -> dict[str, Any]:
        hop = self.spec.hop_samples
        start_frame, num_frames = to_frames(turn["start_sample"], turn["num_samples"], hop)
        words = [(word["word"], *to_frames(word["start_sample"], word["num_samples"], hop)) for word in turn["words"]]
        return {
            "utterance_id": turn["utterance_id"],
            "speaker": turn["speaker"],
            "start_frame": start_frame,
            "num_frames": num_frames,
            "text": turn["text"],
            "text_normalized": turn["text_normalized"],
            "gender": turn["gender"],
            "language": turn["language"],
            "words": [{"word": w, "start_frame": s, "num_frames": n} for w, s, n in words],
        }
