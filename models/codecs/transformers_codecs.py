"""Neural codecs through transformers: Mimi, EnCodec, DAC, X-Codec, X-Codec 2 and NeuCodec, from a folder or a hub id.

What is common to all: a waveform is filled up with silence to whole hops, so that N samples make exactly
ceil(N / hop) frames (DAC alone would leave its tail out, Mimi round up, each in its own way), codes are `(K, T)`, and
decoding is cut to the length asked for. Long recordings go through in pieces: Mimi's convolutions and attention keep
their state, so that seams are exact; for the others each piece is heard with some of what is before and after it.
"""

import hashlib
import inspect
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from models.codecs.codec import CodecSpec

NAMES = ("mimi", "encodec", "dac", "xcodec", "xcodec2", "neucodec")
_CLASSES = {
    "mimi": "MimiModel", "encodec": "EncodecModel", "dac": "DacModel", "xcodec": "XcodecModel",
    "xcodec2": "Xcodec2Model", "neucodec": "NeuCodecModel",
}  # fmt: skip
PIECE_S = 60.0
"""Longer recordings go through in pieces of this length."""
CONTEXT_S = 4.0
"""What is heard on either side of a piece, of codecs that keep no state."""


class TransformersCodec:
    """One pretrained codec; weights are read from a local folder unless a hub id is named."""

    def __init__(self, name: str, weights: str, num_codebooks: int | None = None, device: str = "cpu") -> None:
        """Load the weights.

        Raises:
            ValueError: the package or the weights are missing, or the codec has not so many codebooks.
        """
        try:
            import transformers
        except ImportError as error:
            raise ValueError(f"codec {name} needs a package: pip install 'hubbub[codecs]'") from error
        folder = Path(weights)
        local = folder.is_dir()
        if local and not (folder / "config.json").is_file():
            raise ValueError(f"codec {name}: {folder} lacks config.json; it takes a folder that save_pretrained wrote")
        if local and not list(folder.glob("*.safetensors")):
            raise ValueError(f"codec {name}: {folder} lacks model.safetensors (pickled weights are not read)")
        if not local and (folder.is_absolute() or weights.startswith(".")):
            raise ValueError(f"codec {name}: there is no folder {folder}")
        try:
            kind = getattr(transformers, _CLASSES[name])
            self.model: Any = kind.from_pretrained(weights, use_safetensors=True, local_files_only=local)
            self.model.eval().to(device)
        except (OSError, ValueError) as error:
            raise ValueError(f"codec {name}: {weights} does not load: {str(error).splitlines()[0]}") from error
        self.name, self.device, self.weights = name, device, weights
        # What w2v-BERT hears. transformers' own extractors for the two codecs do the same by torchaudio, which does not
        # load beside current torch; this one, in numpy, is what the codecs' authors used.
        self.features: Any = transformers.SeamlessM4TFeatureExtractor() if name in ("xcodec2", "neucodec") else None
        config = self.model.config
        if name == "encodec" and (config.normalize or config.chunk_length_s is not None or config.audio_channels != 1):
            raise ValueError("codec encodec: the stereo model that rescales chunks is not supported; use the mono one")
        available = self._codebooks()
        self.num_codebooks = num_codebooks or available
        if not 1 <= self.num_codebooks <= available:
            raise ValueError(f"codec {name} at {weights} has 1 to {available} codebooks; not {num_codebooks}")

    def _codebooks(self) -> int:
        config = self.model.config
        match self.name:
            case "mimi":
                return int(config.num_quantizers)
            case "encodec":
                return int(config.num_quantizers)
            case "dac":
                return int(config.n_codebooks)
            case "xcodec":
                return int(config.num_quantizers)
        return 1

    @property
    def _rate_hz(self) -> int:
        config = self.model.config
        names = ("input_sampling_rate", "sampling_rate", "sample_rate")
        return int(next(value for name in names if (value := getattr(config, name, 0))))

    @property
    def _hop(self) -> int:
        config = self.model.config
        match self.name:
            case "mimi":
                return int(round(config.sampling_rate / config.frame_rate))  # noqa: RUF046 - Any
            case "encodec":
                return int(math.prod(config.upsampling_ratios))
            case "neucodec":
                return int(config.encoder_hop_length)
        return int(config.hop_length)

    @property
    def _size(self) -> int:
        config = self.model.config
        levels = getattr(config, "quantization_levels", None)
        return math.prod(levels) if levels else int(config.codebook_size)

    @cached_property
    def spec(self) -> CodecSpec:
        """The codec's fixed properties."""
        state = hashlib.blake2b(digest_size=32)
        for name, tensor in sorted(self.model.state_dict().items()):
            state.update(name.encode())
            state.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return CodecSpec(
            name=self.name,
            sample_rate_hz=self._rate_hz,
            hop_samples=self._hop,
            num_codebooks=self.num_codebooks,
            codebook_size=self._size,
            bits=8 if self._size <= 256 else 16,
            ordinal=False,
            causal=self.name == "mimi" or (self.name == "encodec" and bool(self.model.config.use_causal_conv)),
            licence=f"see the model card of {Path(self.weights).name}",
            weights_digest=state.hexdigest(),
        )

    def num_frames(self, num_samples: int) -> int:
        """Return ceil(num_samples / hop)."""
        return -(-num_samples // self._hop)

    def _padded(self, wav: NDArray[np.float32]) -> NDArray[np.float32]:
        if wav.ndim != 1:
            raise ValueError(f"{self.name} takes one channel (N,), not {wav.shape}")
        if not np.isfinite(wav).all():
            raise ValueError("the waveform holds NaN or infinity")
        return np.pad(wav.astype(np.float32), (0, self.num_frames(len(wav)) * self._hop - len(wav)))

    @torch.no_grad()
    def _forward(self, batch: torch.Tensor, **state: Any) -> Any:
        """Return what the library's `encode` returns for waveforms (B, 1, N)."""
        if self.features is not None:
            # One hop more than there is, as the library's extractors have it; X-Codec 2 also hears half a hop around.
            batch = torch.nn.functional.pad(batch, (0, self._hop))
            around = self._hop // 2 if self.name == "xcodec2" else 0
            wavs = [np.pad(one[0].cpu().numpy(), around) for one in batch]
            given = self.features(wavs, sampling_rate=self._rate_hz, return_tensors="pt")["input_features"]
            return self.model.encode(batch, input_features=given.to(self.device))
        if self.name in ("encodec", "xcodec"):
            return self.model.encode(batch, bandwidth=self.model.config.target_bandwidths[-1], **state)
        return self.model.encode(batch, **state)

    def _codes(self, made: Any, frames: int) -> NDArray[np.uint16]:
        """Return codes (B, K, T) of what the library made."""
        codes = made.audio_codes
        if codes.ndim == 4:  # EnCodec has an axis of chunks in front
            codes = codes[0]
        if codes.ndim == 2:
            codes = codes[:, None]
        if codes.shape[-1] < frames:
            raise ValueError(f"{self.name} made {codes.shape[-1]} frames where {frames} were expected")
        return np.asarray(codes[:, : self.num_codebooks, :frames].cpu().numpy(), dtype=np.uint16)

    def encode(self, wav: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return codes (K, T) of a waveform (N,) in [-1, 1] at the codec's rate; T is ceil(N / hop).

        Raises:
            ValueError: the waveform is not one-dimensional, or holds NaN or infinity.
        """
        padded, frames = self._padded(wav), self.num_frames(len(wav))
        if not frames:
            return np.zeros((self.num_codebooks, 0), np.uint16)
        piece = max(1, round(PIECE_S * self._rate_hz / self._hop))
        if frames <= piece:
            return np.asarray(self._codes(self._forward(self._tensor(padded)), frames)[0])
        if self.name == "mimi":
            return self._streamed(padded, frames, piece)
        context = round(CONTEXT_S * self._rate_hz / self._hop)
        made = []
        for start in range(0, frames, piece):
            low, high = max(0, start - context), min(frames, start + piece + context)
            codes = self._codes(self._forward(self._tensor(padded[low * self._hop : high * self._hop])), high - low)[0]
            made.append(codes[:, start - low : min(frames, start + piece) - low])
        return np.concatenate(made, axis=1)

    def _streamed(self, padded: NDArray[np.float32], frames: int, piece: int) -> NDArray[np.uint16]:
        # transformers 5.24 gave the transformer's cache another name
        names = inspect.signature(self.model.encode).parameters
        cache = "encoder_cache" if "encoder_cache" in names else "encoder_past_key_values"
        made: list[NDArray[np.uint16]] = []
        state: dict[str, Any] = {cache: None, "padding_cache": None}
        for start in range(0, frames, piece):
            end = min(frames, start + piece)
            out = self._forward(self._tensor(padded[start * self._hop : end * self._hop]), use_streaming=True, **state)
            state = {name: out[name] for name in state}
            made.append(self._codes(out, end - start)[0])
        return np.concatenate(made, axis=1)

    def encode_many(self, wavs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
        """Return each waveform's codes; several at once only where that cannot change one.

        A causal codec's codes do not see the silence behind a shorter waveform; the others are batched where lengths
        in hops are equal.
        """
        lengths = [self.num_frames(len(wav)) for wav in wavs]
        longest = max(lengths, default=0)
        alike = self.spec.causal or len(set(lengths)) == 1
        if not alike or longest * self._hop > PIECE_S * self._rate_hz or not min(lengths, default=0):
            return [self.encode(wav) for wav in wavs]
        rows = [np.pad(self._padded(wav), (0, (longest - n) * self._hop)) for wav, n in zip(wavs, lengths, strict=True)]
        codes = self._codes(self._forward(torch.from_numpy(np.stack(rows))[:, None].to(self.device)), longest)
        return [one[:, :number] for one, number in zip(codes, lengths, strict=True)]

    def _tensor(self, wav: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(wav)[None, None].to(self.device)

    @torch.no_grad()
    def decode(self, codes: NDArray[np.uint16], num_samples: int) -> NDArray[np.float32]:
        """Return the waveform (num_samples,) of codes (K, T).

        Raises:
            ValueError: a code is none of the codebook's.
        """
        if codes.size and int(codes.max()) >= self._size:
            raise ValueError(f"{self.name}: a code is {int(codes.max())}, but its codebooks have {self._size} entries")
        if not codes.shape[1]:
            return np.zeros(num_samples, np.float32)
        given = torch.from_numpy(codes.astype(np.int64))[None].to(self.device)
        match self.name:
            case "encodec":
                made = self.model.decode(given[None], [None]).audio_values
            case "dac":
                made = self.model.decode(audio_codes=given).audio_values
            case _:
                made = self.model.decode(given).audio_values
        wav = made.reshape(-1).float().cpu().numpy()
        out_hz = int(getattr(self.model.config, "output_sampling_rate", 0) or self._rate_hz)
        if out_hz != self._rate_hz:
            wav = soxr.resample(wav, out_hz, self._rate_hz, quality="HQ")
        return np.asarray(np.pad(wav, (0, max(0, num_samples - len(wav))))[:num_samples], dtype=np.float32)
