"""X-Codec 2: one codebook of finite scalar quantization.

Source: Ye et al. 2025, "Llasa", arXiv:2502.04128, section 3.1.
"""

from pathlib import Path

from models.codecs.codec import CodecEntry
from models.codecs.neural.transformers_codec import SemanticCodec, small_semantic_config


class XCodec2(SemanticCodec):
    """Its features also cover half a hop of silence on either side."""

    name = "xcodec2"
    class_name = "Xcodec2Model"
    margin_hops = 0.5


def _example(folder: Path) -> str:
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.Xcodec2Model(transformers.Xcodec2Config(**small_semantic_config())).save_pretrained(folder)
    return str(folder)


CODEC = CodecEntry(
    load=XCodec2,
    about="X-Codec 2, one codebook, 50 frames/s, through transformers",
    runs_on_gpu=True,
    package="transformers",
    example=_example,
)
