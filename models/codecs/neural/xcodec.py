"""X-Codec: acoustic and semantic features share one residual quantizer.

Source: Ye et al. 2024, "Codec Does Matter", arXiv:2408.17175.
"""

from pathlib import Path
from typing import Any

import torch

from models.codecs.codec import CodecEntry
from models.codecs.neural.dac import small_dac_config
from models.codecs.neural.transformers_codec import TransformersCodec


class XCodec(TransformersCodec):
    """Encodes at the model's highest bandwidth; its semantic encoder attends to the whole recording."""

    name = "xcodec"
    class_name = "XcodecModel"

    @torch.no_grad()
    def run_encoder(self, batch: torch.Tensor, **state: Any) -> Any:
        """Return what the library's `encode` returns for waveforms (B, 1, N)."""
        return self.model.encode(batch, bandwidth=self.model.config.target_bandwidths[-1], **state)


def _example(folder: Path) -> str:
    import transformers

    torch.manual_seed(0)
    hubert = transformers.HubertConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    ratios = {"downsampling_ratios": [8, 5, 4, 2], "upsampling_ratios": [8, 5, 4, 2], "hidden_size": 32}
    config = transformers.XcodecConfig(
        codebook_size=32,
        semantic_model_config=hubert.to_dict(),
        acoustic_model_config=transformers.DacConfig(**small_dac_config(), **ratios).to_dict(),
    )
    transformers.XcodecModel(config).save_pretrained(folder)
    return str(folder)


CODEC = CodecEntry(
    load=XCodec,
    about="X-Codec, 50 frames/s, through transformers",
    has_codebook_choice=True,
    runs_on_gpu=True,
    package="transformers",
    example=_example,
)
