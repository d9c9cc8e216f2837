"""Lyra V2 (SoundStream): a causal neural codec of 50 frames/s and up to 46 codebooks of 16 entries.

Source: github.com/google/lyra, `lyra/model_coeffs`; Zeghidour et al. 2021, "SoundStream", arXiv:2107.03312.
Its interpreters keep state that `reset_all_variables` does not clear, so that codes would depend on the previous
recording. A new interpreter for every waveform (3 ms) makes `encode` a function of its argument.
"""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs.codec import CodecEntry, CodecSpec

_FILES = ("soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite")


class Lyra:
    """Runs Lyra's three TFLite graphs from a local folder with LiteRT, on one thread."""

    DEFAULT_NUM_CODEBOOKS = 16  # 3.2 kbit/s
    MAX_NUM_CODEBOOKS = 46
    SAMPLE_RATE_HZ = 16_000
    HOP_SAMPLES = 320

    def __init__(self, weights: str, num_codebooks: int = DEFAULT_NUM_CODEBOOKS) -> None:
        """Check the folder and the runtime.

        Raises:
            ValueError: a weight file is missing, `ai-edge-litert` is not installed, or K is odd or out of range.
        """
        folder = Path(weights)
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"codec lyra: {folder} lacks {', '.join(missing)}")
        if not 2 <= num_codebooks <= self.MAX_NUM_CODEBOOKS or num_codebooks % 2:
            raise ValueError(f"codec lyra takes an even number of codebooks from 2 to 46, not {num_codebooks}")
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ValueError("codec lyra needs a package: pip install 'hubbub[lyra]'") from error
        self._interpreter_class: Any = Interpreter
        self._graphs = {name: (folder / name).read_bytes() for name in _FILES}
        self._num_codebooks = num_codebooks

    @cached_property
    def spec(self) -> CodecSpec:
        """The codec's fixed properties."""
        state = hashlib.blake2b(digest_size=32)
        for name in _FILES:
            state.update(self._graphs[name])
        return CodecSpec(
            name="lyra",
            sample_rate_hz=self.SAMPLE_RATE_HZ,
            hop_samples=self.HOP_SAMPLES,
            num_codebooks=self._num_codebooks,
            codebook_size=16,
            bits=4,
            ordinal=False,
            causal=True,
            licence="Apache-2.0",
            weights_digest=state.hexdigest(),
        )

    def num_frames(self, num_samples: int) -> int:
        """Return ceil(num_samples / 320)."""
        return -(-num_samples // self.HOP_SAMPLES)

    def _graph(self, name: str) -> Any:
        interpreter = self._interpreter_class(model_content=self._graphs[name], num_threads=1)
        interpreter.allocate_tensors()
        return interpreter

    def encode(self, wav: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return codes (K, T) of a 16 kHz waveform (N,) in [-1, 1]; the last hop is padded with silence.

        Raises:
            ValueError: the waveform is not one-dimensional, or holds NaN or infinity.
        """
        if wav.ndim != 1:
            raise ValueError(f"lyra takes one channel (N,), not {wav.shape}")
        if not np.isfinite(wav).all():
            raise ValueError("the waveform holds NaN or infinity")
        num_frames = self.num_frames(len(wav))
        hops = np.pad(wav.astype(np.float32), (0, num_frames * self.HOP_SAMPLES - len(wav)))
        encoder = self._graph("soundstream_encoder.tflite")
        quantize = self._graph("quantizer.tflite").get_signature_runner("encode")
        input_index = encoder.get_input_details()[0]["index"]
        output_index = encoder.get_output_details()[0]["index"]
        codes = np.empty((self._num_codebooks, num_frames), dtype=np.uint16)
        for t, hop in enumerate(hops.reshape(num_frames, self.HOP_SAMPLES)):
            encoder.set_tensor(input_index, hop[None])
            encoder.invoke()
            quantized = quantize(
                input_frames=encoder.get_tensor(output_index),
                num_quantizers=np.array(self._num_codebooks, dtype=np.int32),
            )
            codes[:, t] = quantized["output_0"].reshape(-1)[: self._num_codebooks]
        return codes

    def decode(self, codes: NDArray[np.uint16], num_samples: int) -> NDArray[np.float32]:
        """Return the waveform (num_samples,) at 16 kHz of codes (K, T)."""
        generator = self._graph("lyragan.tflite")
        dequantize = self._graph("quantizer.tflite").get_signature_runner("decode")
        input_index = generator.get_input_details()[0]["index"]
        output_index = generator.get_output_details()[0]["index"]
        wav = np.zeros((codes.shape[1], self.HOP_SAMPLES), dtype=np.float32)
        indices = np.full((self.MAX_NUM_CODEBOOKS, 1, 1), -1, dtype=np.int32)  # -1: unused codebook
        for t in range(codes.shape[1]):
            indices[: self._num_codebooks, 0, 0] = codes[:, t]
            features = dequantize(encoding_indices=indices)["output_0"]
            generator.set_tensor(input_index, features.reshape(1, 1, 64))
            generator.invoke()
            wav[t] = generator.get_tensor(output_index).reshape(-1)
        flat = wav.reshape(-1)
        return np.pad(flat, (0, max(0, num_samples - len(flat))))[:num_samples]


CODEC = CodecEntry(
    load=lambda weights, num_codebooks, _: Lyra(weights, num_codebooks or Lyra.DEFAULT_NUM_CODEBOOKS),
    about="Lyra V2 (SoundStream), 50 frames/s, up to 46 codebooks of 16",
    has_codebook_choice=True,
    package="ai_edge_litert",
    shared_weights="lyra_v2",
)
