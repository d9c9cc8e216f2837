"""NeuCodec: one codebook of finite scalar quantization; its output has a higher sample rate than its input.

Source: Julian et al. 2025, "Finite Scalar Quantization Enables Redundant and Transmission-Robust Neural Audio
Compression at Low Bit-rates", arXiv:2509.09550.
"""

from pathlib import Path

from models.codecs.codec import CodecEntry
from models.codecs.neural.transformers_codec import SemanticCodec, small_semantic_config


class NeuCodec(SemanticCodec):
    """Decodes at 24 kHz; the waveform is resampled to the input's rate."""

    name = "neucodec"
    class_name = "NeuCodecModel"

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next, at the input's rate."""
        return int(self.model.config.encoder_hop_length)


def _example(folder: Path) -> str:
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.NeuCodecModel(transformers.NeuCodecConfig(**small_semantic_config())).save_pretrained(folder)
    return str(folder)


CODEC = CodecEntry(
    load=NeuCodec,
    about="NeuCodec, one codebook, 50 frames/s, through transformers",
    runs_on_gpu=True,
    package="transformers",
    example=_example,
)
