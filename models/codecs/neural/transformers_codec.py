"""What neural codecs of transformers share: loading, padding to whole hops, pieces, batches and decoding.

A waveform is padded with silence to whole hops, so that N samples make exactly ceil(N / hop) frames (on their own, DAC
drops the tail and Mimi rounds up); codes are (K, T), and decoding is cut to the requested length. Long recordings are
encoded in pieces: exactly where a codec keeps its state from one piece to the next, elsewhere with context on either
side of each piece.
"""

import copy
import hashlib
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from models.codecs.codec import CodecSpec

PIECE_S = 60.0
"""Longer recordings are encoded in pieces of this length."""
CONTEXT_S = 4.0
"""Context on either side of a piece, for codecs that keep no state."""
PIECES_AT_ONCE = 4
"""Pieces of one recording that a GPU encodes together, where a codec keeps no state."""
LEAST_EQUAL = 0.99
"""Least share of codes that bf16 must leave as they are to be used."""


class TransformersCodec:
    """One pretrained codec; weights are read from a local folder unless a hub id is given."""

    name: ClassVar[str]
    """Name in the table of codecs."""
    class_name: ClassVar[str]
    """Class of transformers that loads it."""

    def __init__(self, weights: str, num_codebooks: int | None = None, device: str = "cpu") -> None:
        """Load the weights.

        Raises:
            ValueError: the package or the weights are missing, or the codec has fewer codebooks.
        """
        try:
            import transformers
        except ImportError as error:
            raise ValueError(f"codec {self.name} needs a package: pip install 'hubbub[codecs]'") from error
        local = _check_weights(self.name, weights)
        try:
            kind = getattr(transformers, self.class_name)
            self.model: Any = kind.from_pretrained(weights, use_safetensors=True, local_files_only=local)
            self.model.eval()
        except (OSError, ValueError) as error:
            raise ValueError(f"codec {self.name}: {weights} does not load: {str(error).splitlines()[0]}") from error
        self.device, self.weights = device, weights
        self.precision: torch.dtype = torch.float32
        self._check_config()
        available = self.available_codebooks
        self.num_codebooks = num_codebooks or available
        if not 1 <= self.num_codebooks <= available:
            raise ValueError(f"codec {self.name} at {weights} has 1 to {available} codebooks; not {num_codebooks}")

    # ------------------------------------------------------------------------------------------- subclasses override

    def _check_config(self) -> None:
        """Check that the codec supports the model's configuration.

        Raises:
            ValueError: a part of it is not supported.
        """

    @property
    def available_codebooks(self) -> int:
        """Number of codebooks of the model."""
        return int(self.model.config.num_quantizers)

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return int(self.model.config.hop_length)

    @property
    def is_causal(self) -> bool:
        """Whether a frame's codes depend on no sample after the frame's own hop."""
        return False

    @torch.no_grad()
    def run_encoder(self, batch: torch.Tensor, **state: Any) -> Any:
        """Return what the library's `encode` returns for waveforms (B, 1, N)."""
        return self.model.encode(batch, **state)

    def run_decoder(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the library's waveforms for codes (1, K, T)."""
        waveforms: torch.Tensor = self.model.decode(codes).audio_values
        return waveforms

    def encode_pieces(self, padded: NDArray[np.float32], frames: int, piece: int) -> NDArray[np.uint16]:
        """Return codes (B, K, T) of waveforms (B, T hop) longer than `piece` frames, encoded in pieces with context.

        On a GPU pieces of equal length are encoded together.
        """
        context = round(CONTEXT_S * self.rate_hz / self.hop_samples)
        spans = [
            (start, max(0, start - context), min(frames, start + piece + context)) for start in range(0, frames, piece)
        ]
        at_once = 1 if self.device == "cpu" else PIECES_AT_ONCE
        pieces, hop, number = [], self.hop_samples, len(padded)
        while spans:
            length = spans[0][2] - spans[0][1]
            together = [span for span in spans[:at_once] if span[2] - span[1] == length]
            spans = spans[len(together) :]
            rows = np.concatenate([padded[:, low * hop : high * hop] for _, low, high in together])
            codes = self.codes_of(self.encoded(rows), length)
            for at, (start, low, _) in enumerate(together):
                own = codes[at * number : (at + 1) * number]
                pieces.append(own[:, :, start - low : min(frames, start + piece) - low])
        return np.concatenate(pieces, axis=2)

    # ------------------------------------------------------------------------------------------- the same for all

    @property
    def rate_hz(self) -> int:
        """Sample rate of the input, in Hz."""
        config = self.model.config
        names = ("input_sampling_rate", "sampling_rate", "sample_rate")
        return int(next(value for name in names if (value := getattr(config, name, 0))))

    @property
    def codebook_size(self) -> int:
        """Number of entries of a codebook."""
        levels = getattr(self.model.config, "quantization_levels", None)
        return math.prod(levels) if levels else int(self.model.config.codebook_size)

    @cached_property
    def spec(self) -> CodecSpec:
        """The codec's fixed properties."""
        state = hashlib.blake2b(digest_size=32)
        for name, tensor in sorted(self.model.state_dict().items()):
            state.update(name.encode())
            state.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return CodecSpec(
            name=self.name,
            sample_rate_hz=self.rate_hz,
            hop_samples=self.hop_samples,
            num_codebooks=self.num_codebooks,
            codebook_size=self.codebook_size,
            bits=8 if self.codebook_size <= 256 else 16,
            ordinal=False,
            causal=self.is_causal,
            licence=f"see the model card of {Path(self.weights).name}",
            weights_digest=state.hexdigest(),
        )

    def num_frames(self, num_samples: int) -> int:
        """Return ceil(num_samples / hop)."""
        return -(-num_samples // self.hop_samples)

    def encoded(self, wavs: NDArray[np.float32], **state: Any) -> Any:
        """Return what the library's `encode` returns for waveforms (B, N), on the codec's device and in its precision.

        The model goes to the device when it is first used: a machine that only plans may have none.
        """
        self.model.to(self.device)
        with torch.autocast(torch.device(self.device).type, self.precision, enabled=self.precision != torch.float32):
            return self.run_encoder(torch.from_numpy(wavs)[:, None].to(self.device), **state)

    def in_bf16(self) -> Self:
        """Return the codec with its encoder's matrix products and convolutions in bf16, by autocast.

        Raises:
            ValueError: on a test sound less than 99 % of the codes stay as they are in float32.
        """
        other = copy.copy(self)
        other.precision = torch.bfloat16
        # Where only a plan is made there may be no GPU: then a CPU, which rounds as often, decides.
        probed = [copy.copy(one) for one in (self, other)]
        for one in probed:
            is_here = torch.device(self.device).type != "cuda" or torch.cuda.is_available()
            one.device = self.device if is_here else "cpu"
        sound = _test_sound(self.rate_hz)
        exact, found = (one.encode(sound) for one in probed)
        equal = float((exact == found).mean())
        if equal < LEAST_EQUAL:
            raise ValueError(
                f"codec {self.name}: in bf16 only {equal:.1%} of the codes of a test sound are those of float32, and "
                f"{LEAST_EQUAL:.0%} are needed; use --encode.precision float32"
            )
        return other

    def codes_of(self, output: Any, frames: int) -> NDArray[np.uint16]:
        """Return codes (B, K, T), T being `frames`, from the library's output."""
        codes = output.audio_codes
        if codes.ndim == 4:  # EnCodec's first axis is chunks
            codes = codes[0]
        if codes.ndim == 2:
            codes = codes[:, None]
        if codes.shape[-1] < frames:
            raise ValueError(f"codec {self.name} returned {codes.shape[-1]} frames instead of {frames}")
        return np.asarray(codes[:, : self.num_codebooks, :frames].cpu().numpy(), dtype=np.uint16)

    def _padded(self, wav: NDArray[np.float32]) -> NDArray[np.float32]:
        if wav.ndim != 1:
            raise ValueError(f"{self.name} takes one channel (N,), not {wav.shape}")
        if not np.isfinite(wav).all():
            raise ValueError("the waveform holds NaN or infinity")
        return np.pad(wav.astype(np.float32), (0, self.num_frames(len(wav)) * self.hop_samples - len(wav)))

    def encode(self, wav: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return codes (K, T) of a waveform (N,) in [-1, 1] at the codec's rate; T is ceil(N / hop).

        Raises:
            ValueError: the waveform is not one-dimensional, or holds NaN or infinity.
        """
        padded, frames = self._padded(wav), self.num_frames(len(wav))
        if not frames:
            return np.zeros((self.num_codebooks, 0), np.uint16)
        piece = max(1, round(PIECE_S * self.rate_hz / self.hop_samples))
        if frames > piece:
            return np.asarray(self.encode_pieces(padded[None], frames, piece)[0])
        return np.asarray(self.codes_of(self.encoded(padded[None]), frames)[0])

    def encode_many(self, wavs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
        """Return the codes (K, T) of each waveform (N,) in [-1, 1], batched only where that cannot change a code.

        Codes of a causal codec do not depend on the silence that pads a shorter waveform; other codecs are batched only
        where all lengths in hops are equal.
        """
        lengths = [self.num_frames(len(wav)) for wav in wavs]
        longest, hop = max(lengths, default=0), self.hop_samples
        can_batch = self.is_causal or len(set(lengths)) == 1
        if not can_batch or not min(lengths, default=0):
            return [self.encode(wav) for wav in wavs]
        rows = np.stack(
            [np.pad(self._padded(wav), (0, (longest - n) * hop)) for wav, n in zip(wavs, lengths, strict=True)]
        )
        piece = max(1, round(PIECE_S * self.rate_hz / hop))
        if longest > piece >= min(lengths):  # alone, the shorter ones are not cut
            return [self.encode(wav) for wav in wavs]
        if longest > piece:
            codes = self.encode_pieces(rows, longest, piece)
        else:
            codes = self.codes_of(self.encoded(rows), longest)
        return [one[:, :number] for one, number in zip(codes, lengths, strict=True)]

    @torch.no_grad()
    def decode(self, codes: NDArray[np.uint16], num_samples: int) -> NDArray[np.float32]:
        """Return the waveform (num_samples,), at the rate of the input, of codes (K, T).

        Raises:
            ValueError: a code is not an entry of the codebook.
        """
        if codes.size and int(codes.max()) >= self.codebook_size:
            raise ValueError(
                f"codec {self.name}: its codebooks have {self.codebook_size} entries, but a code is {int(codes.max())}"
            )
        if not codes.shape[1]:
            return np.zeros(num_samples, np.float32)
        self.model.to(self.device)
        waveform = self.run_decoder(torch.from_numpy(codes.astype(np.int64))[None].to(self.device))
        wav = waveform.reshape(-1).float().cpu().numpy()
        out_hz = int(getattr(self.model.config, "output_sampling_rate", 0) or self.rate_hz)
        if out_hz != self.rate_hz:
            wav = soxr.resample(wav, out_hz, self.rate_hz, quality="HQ")
        return np.asarray(np.pad(wav, (0, max(0, num_samples - len(wav))))[:num_samples], dtype=np.float32)


def _test_sound(rate_hz: int) -> NDArray[np.float32]:
    """Return two seconds (N,) of a gliding tone with overtones, in noise: what a codec's precision is tested on."""
    times = np.arange(2 * rate_hz) / rate_hz
    phase = 2 * np.pi * (120 * times + 40 * times**2)
    tone = sum(np.sin(number * phase) / number for number in range(1, 12))
    noise = np.random.Generator(np.random.Philox(key=0)).standard_normal(len(times))
    loudness = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * times)
    return np.asarray(0.1 * loudness * tone + 0.01 * noise, dtype=np.float32)


def _check_weights(name: str, weights: str) -> bool:
    """Return whether weights are a local folder, rather than a hub id.

    Raises:
        ValueError: the folder does not exist or lacks a file.
    """
    folder = Path(weights)
    local = folder.is_dir()
    if local and not (folder / "config.json").is_file():
        raise ValueError(f"codec {name}: {folder} lacks config.json; give a folder that save_pretrained wrote")
    if local and not list(folder.glob("*.safetensors")):
        raise ValueError(f"codec {name}: {folder} lacks model.safetensors (pickled weights are not read)")
    if not local and (folder.is_absolute() or weights.startswith(".")):
        raise ValueError(f"codec {name}: folder {folder} does not exist")
    return local


class SemanticCodec(TransformersCodec):
    """A codec with one codebook that also encodes the input features of w2v-BERT (X-Codec 2, NeuCodec)."""

    margin_hops: ClassVar[float] = 0.0
    """Hops of silence added to either side before the features are computed."""

    @property
    def available_codebooks(self) -> int:
        """1."""
        return 1

    @cached_property
    def features(self) -> Any:
        """The input features of w2v-BERT.

        transformers' own extractors for these codecs compute the same with torchaudio, which does not load with current
        torch; this one, in numpy, is the one that the codecs' authors used.
        """
        import transformers

        return transformers.SeamlessM4TFeatureExtractor()

    @torch.no_grad()
    def run_encoder(self, batch: torch.Tensor, **state: Any) -> Any:  # noqa: ARG002
        """Return what the library's `encode` returns for waveforms (B, 1, N)."""
        batch = torch.nn.functional.pad(batch, (0, self.hop_samples))  # one more hop, as the library's extractors do
        margin = int(self.margin_hops * self.hop_samples)
        wavs = [np.pad(wav[0].cpu().numpy(), margin) for wav in batch]
        features = self.features(wavs, sampling_rate=self.rate_hz, return_tensors="pt")["input_features"]
        return self.model.encode(batch, input_features=features.to(self.device))


def small_semantic_config() -> dict[str, Any]:
    """Return the configuration of a small X-Codec 2 or NeuCodec for the contract test."""
    bert = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "feature_projection_input_dim": 160,
        "model_type": "wav2vec2-bert",
        "conv_depthwise_kernel_size": 3,
    }
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "encoder_hidden_size": 4,
        "quantization_dim": 64,
        "semantic_model_config": bert,
    }
