"""Mimi: a streaming codec of 12.5 frames/s whose first codebook is semantic.

Source: Défossez et al. 2024, "Moshi", arXiv:2410.00037, section 3.3.
"""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs.codec import CodecEntry
from models.codecs.neural.transformers_codec import TransformersCodec


class Mimi(TransformersCodec):
    """Convolutions and attention keep their state from one piece to the next, so that seams are exact."""

    name = "mimi"
    class_name = "MimiModel"

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return int(round(self.model.config.sampling_rate / self.model.config.frame_rate))  # noqa: RUF046 - Any

    @property
    def is_causal(self) -> bool:
        """True."""
        return True

    def encode_pieces(self, padded: NDArray[np.float32], frames: int, piece: int) -> NDArray[np.uint16]:
        """Return codes (B, K, T) of waveforms (B, T hop) longer than `piece` frames, encoded in pieces with state."""
        # transformers 5.24 renamed the transformer's cache
        names = inspect.signature(self.model.encode).parameters
        cache = "encoder_cache" if "encoder_cache" in names else "encoder_past_key_values"
        pieces: list[NDArray[np.uint16]] = []
        state: dict[str, Any] = {cache: None, "padding_cache": None}
        hop = self.hop_samples
        for start in range(0, frames, piece):
            end = min(frames, start + piece)
            out = self.encoded(padded[:, start * hop : end * hop], use_streaming=True, **state)
            state = {name: out[name] for name in state}
            pieces.append(self.codes_of(out, end - start))
        return np.concatenate(pieces, axis=2)


def _example(folder: Path) -> str:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.MimiConfig(
        hidden_size=32,
        num_filters=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=64,
        codebook_dim=16,
        codebook_size=32,
        num_quantizers=4,
        vector_quantization_hidden_dimension=16,
        upsample_groups=32,
    )
    transformers.MimiModel(config).save_pretrained(folder)
    return str(folder)


CODEC = CodecEntry(
    load=Mimi,
    about="Mimi, 12.5 frames/s, causal, through transformers",
    has_codebook_choice=True,
    runs_on_gpu=True,
    package="transformers",
    example=_example,
)
