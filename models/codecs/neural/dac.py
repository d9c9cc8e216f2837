"""DAC: the Descript Audio Codec.

Source: Kumar et al. 2023, "High-Fidelity Audio Compression with Improved RVQGAN", arXiv:2306.06546.
"""

from pathlib import Path
from typing import Any

import torch

from models.codecs.codec import CodecEntry
from models.codecs.neural.transformers_codec import TransformersCodec


class Dac(TransformersCodec):
    """Convolutions only: few codes of pieces with context differ from those of the whole recording."""

    name = "dac"
    class_name = "DacModel"

    @property
    def available_codebooks(self) -> int:
        """Number of codebooks of the model."""
        return int(self.model.config.n_codebooks)

    def run_decoder(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the library's waveforms for codes (1, K, T)."""
        waveforms: torch.Tensor = self.model.decode(audio_codes=codes).audio_values
        return waveforms


def small_dac_config() -> dict[str, Any]:
    """Return the configuration of a small DAC for the contract test."""
    return {
        "encoder_hidden_size": 8,
        "decoder_hidden_size": 32,
        "n_codebooks": 3,
        "codebook_size": 32,
        "codebook_dim": 4,
    }


def _example(folder: Path) -> str:
    import transformers

    torch.manual_seed(0)
    transformers.DacModel(transformers.DacConfig(**small_dac_config())).save_pretrained(folder)
    return str(folder)


CODEC = CodecEntry(
    load=Dac,
    about="DAC, through transformers",
    has_codebook_choice=True,
    runs_on_gpu=True,
    package="transformers",
    example=_example,
)
