"""EnCodec: residual vector quantization, the mono model.

Source: Défossez et al. 2022, "High Fidelity Neural Audio Compression", arXiv:2210.13438.
"""

import math
from pathlib import Path
from typing import Any

import torch

from models.codecs.codec import CodecEntry
from models.codecs.neural.transformers_codec import TransformersCodec


class Encodec(TransformersCodec):
    """Encodes at the model's highest bandwidth; with fewer codebooks, the first ones are used."""

    name = "encodec"
    class_name = "EncodecModel"

    def _check_config(self) -> None:
        config = self.model.config
        if config.normalize or config.chunk_length_s is not None or config.audio_channels != 1:
            raise ValueError(
                "codec encodec: the stereo model, which normalizes chunks, is not supported; use the mono model"
            )

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return int(math.prod(self.model.config.upsampling_ratios))

    @property
    def is_causal(self) -> bool:
        """Whether the model's convolutions are causal."""
        return bool(self.model.config.use_causal_conv)

    @torch.no_grad()
    def run_encoder(self, batch: torch.Tensor, **state: Any) -> Any:
        """Return what the library's `encode` returns for waveforms (B, 1, N)."""
        return self.model.encode(batch, bandwidth=self.model.config.target_bandwidths[-1], **state)

    def run_decoder(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the library's waveforms for codes (1, K, T)."""
        waveforms: torch.Tensor = self.model.decode(codes[None], [None]).audio_values
        return waveforms


def _example(folder: Path) -> str:
    import transformers

    torch.manual_seed(0)
    config = transformers.EncodecConfig(
        num_filters=4, hidden_size=16, codebook_size=32, num_lstm_layers=1, target_bandwidths=[1.5, 3.0]
    )
    transformers.EncodecModel(config).save_pretrained(folder)
    return str(folder)


CODEC = CodecEntry(
    load=Encodec,
    about="EnCodec's mono model, 75 frames/s, through transformers",
    has_codebook_choice=True,
    runs_on_gpu=True,
    package="transformers",
    example=_example,
)
