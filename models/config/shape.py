"""The shape of a model, named sizes, and the vocabulary that it must cover. Free of torch."""

from dataclasses import dataclass, field
from typing import Literal

from models.config.settings import BY_CONTENT


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Size of the transformer."""

    dim: int = 128
    """Width of the residual stream (d)."""
    num_layers: int = 4
    """Blocks."""
    num_heads: int = 4
    """Query heads."""
    num_kv_heads: int = 2
    """Key and value heads; divides num_heads."""
    ffn_dim: int = 384
    """Width inside SwiGLU."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    qk_norm: bool = True
    """Whether queries and keys are normalized per head."""
    prompt_attention: Literal["causal", "both"] = "causal"
    """Whether the columns before the first predicted one see each other in both directions (a prefix LM)."""
    depth_dim: int = 0
    """Width of the depth transformer, where the layout has one; half of dim where 0."""
    depth_layers: int = 2
    """Its blocks."""
    head_width: int = 0
    """Width of a head; dim / num_heads where 0."""
    norm_eps: float = 1e-6
    """What keeps RMSNorm from dividing by zero."""
    qkv_bias: bool = False
    """Whether queries, keys and values have a bias (Qwen2)."""
    tie_text: bool = False
    """Whether text is predicted by its embeddings, transposed."""
    rope_scaling: tuple[float, ...] = ()
    """Llama 3's stretch of the slow rotary frequencies: factor, low and high frequency factor, original length."""
    encoder: str | None = field(default=None, metadata=BY_CONTENT)
    """Speech encoder (folder or hub id) for audio of codec pcm (`models.speech_lm.front_end`)."""
    projector: Literal["mlp", "queries"] = "mlp"
    """What makes columns of the encoder's frames: stacked frames and two layers, or queries over windows."""
    encoder_rank: int = 0
    """Above 0, the encoder's attention gets trained updates of this rank; else it is frozen."""
    lora_rank: int = 0
    """Above 0, the blocks are frozen and their matrices get trained updates of this rank (`models.speech_lm.lora`)."""
    lora_alpha: float = 32.0
    """Updates are scaled by lora_alpha / lora_rank."""

    def __post_init__(self) -> None:
        """Check that the heads divide the width."""
        if (not self.head_width and self.dim % self.num_heads) or self.num_heads % self.num_kv_heads:
            raise ValueError("model: num_heads must divide dim, and num_kv_heads must divide num_heads")
        if self.head_dim % 2:
            raise ValueError(f"model: a head of width {self.head_dim} cannot be rotated in pairs")
        if self.rope_scaling and len(self.rope_scaling) != 4:
            raise ValueError("model.rope_scaling takes four numbers, or none")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.head_width or self.dim // self.num_heads


# Named sizes, fixed so that everyone means the same; parameters without embeddings and heads.
SIZES: dict[str, Shape] = {
    "tiny": Shape(dim=128, num_layers=4, num_heads=4, num_kv_heads=2, ffn_dim=448),  # 0.9M
    "small": Shape(dim=256, num_layers=6, num_heads=4, num_kv_heads=2, ffn_dim=768),  # 4.7M
    "base": Shape(dim=768, num_layers=12, num_heads=12, num_kv_heads=4, ffn_dim=2304),  # 83M + heads
    "0.6b": Shape(dim=1024, num_layers=28, num_heads=16, num_kv_heads=8, ffn_dim=3584, rope_theta=1e6),
    "1b": Shape(dim=2048, num_layers=16, num_heads=32, num_kv_heads=8, ffn_dim=8192, rope_theta=5e5),
    "7b": Shape(dim=4096, num_layers=32, num_heads=32, num_kv_heads=8, ffn_dim=11008, rope_theta=5e5),
}


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What the embeddings and heads must cover; follows from tokenizer, codec and layout."""

    text_size: int
    num_streams: int
    codebook_size: int
    ordinal: bool
    """Whether neighboring codes mean neighboring values."""
    encoder_digest: str = ""
    """Digest of the speech encoder's weights, where there is one."""
    depth: bool = False
    """Whether a column's audio cells are predicted one after the other, by a small transformer over the streams."""
