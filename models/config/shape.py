"""The shape of a model, named sizes, and the vocabulary that it covers. Does not import torch."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from models.codecs.pcm import FRAMES_PER_COLUMN
from models.config.settings import BY_CONTENT
from models.config.values import Checked, within


@dataclass(frozen=True, kw_only=True)
class Shape(Checked, section="model"):
    """Architecture and size of the transformer."""

    dim: int = field(default=128, metadata=within(1, 65_536))
    """Width of the residual stream (d)."""
    num_layers: int = field(default=4, metadata=within(1, 1000))
    """Transformer blocks."""
    num_heads: int = field(default=4, metadata=within(1, 1024))
    """Query heads."""
    num_kv_heads: int = field(default=2, metadata=within(1, 1024))
    """Key and value heads; must divide num_heads."""
    ffn_dim: int = field(default=384, metadata=within(1, 2**20))
    """Width of the feed-forward layer (SwiGLU)."""
    rope_theta: float = field(default=10_000.0, metadata=within(1, 1e12))
    """Base of the frequencies of rotary position embedding (RoPE)."""
    qk_norm: bool = True
    """Whether queries and keys are normalized per head."""
    prompt_attention: Literal["causal", "both"] = "causal"
    """both: the columns before the first predicted one attend to each other in both directions (prefix LM)."""
    depth_dim: int = field(default=0, metadata=within(0, 65_536))
    """Width of the depth transformer, in layouts that have one; 0 for half of dim."""
    depth_layers: int = field(default=2, metadata=within(1, 1000))
    """Blocks of the depth transformer."""
    head_width: int = field(default=0, metadata=within(0, 8192))
    """Width of a head; 0 for dim / num_heads."""
    norm_eps: float = field(default=1e-6, metadata=within(0, 1, open_at="low"))
    """Epsilon of RMSNorm."""
    qkv_bias: bool = False
    """Whether queries, keys and values have a bias (Qwen2)."""
    tie_text: bool = False
    """Whether the text head shares its weights with the text embeddings."""
    rope_scaling: tuple[float, ...] = field(default=(), metadata=within(0, 1e9, open_at="low"))
    """Llama 3's scaling of the low RoPE frequencies: factor, low and high frequency factor, original length."""
    decoder: Literal["llama", "whisper"] = "llama"
    """What the blocks are: those of a text LLM, which read sound as columns, or those of Whisper's decoder, which
    attend to the encoder's frames across. Set by the weights that a training starts from."""
    num_positions: int = field(default=0, metadata=within(0, 1_000_000))
    """Learned positions of Whisper's decoder: the most tokens of a document. Set by the weights."""
    prefix: tuple[int, ...] = field(default=(), metadata=within(0, 10_000_000))
    """Text tokens that stand in front of every document of Whisper's decoder. Set by the weights."""
    language: str = "en"
    """Language, as a code, that a multilingual Whisper is told to write."""
    encoder: str | None = field(default=None, metadata=BY_CONTENT)
    """Pretrained speech encoder (folder or hub id) for audio of codec pcm."""
    projector: Literal["mlp", "queries"] = "mlp"
    """What turns the encoder's frames into columns: two layers on stacked frames, or queries that attend to windows."""
    stack: int = field(default=FRAMES_PER_COLUMN, metadata=within(4, 16, "frames"))
    """The encoder's frames in one column that the blocks read: 4 (80 ms), 8 or 16."""
    compress: Literal["none", "ctc"] = "none"
    """ctc: columns of audio whose likeliest token by CTC is the blank are left out before the blocks, and neighbours
    with the same token are averaged. Needs a CTC loss at the projector (train.ctc_at)."""
    encoder_rank: int = field(default=0, metadata=within(0, 65_536))
    """Above 0, rank of trained low-rank updates (LoRA) of the encoder's attention; with 0 the encoder is frozen."""
    encoder_window: Literal["content", "full"] = "content"
    """What Whisper encodes: the sound alone, or, as it was trained, the sound padded with silence to 30 s."""
    encoder_tail_s: float = field(default=0.0, metadata=within(0, 30, "s"))
    """Silence that Whisper's decoder hears behind each stretch of sound, by which it knows the end; in seconds."""
    diarization: Literal["none", "frames", "encoder"] = "none"
    """How the model is told whom to hear in task asr_talker, by transformations of frames of silence, of the asked
    talker, of others and of overlap: of the encoder's output (frames), which can be stored, or before each layer of
    Whisper's encoder (DiCoW), which then runs in every step."""
    encoder_layers: tuple[int, ...] = field(default=(), metadata=within(0, 1000))
    """Layers of the encoder whose states are heard, 0 for what enters the first; the last one's where none is named."""
    encoder_mix: Literal["concat", "sum"] = "concat"
    """How several layers are put together: side by side, or in a sum with learned weights."""
    lora_rank: int = field(default=0, metadata=within(0, 65_536))
    """Above 0, the blocks are frozen, and this is the rank of trained low-rank updates (LoRA) of their matrices."""
    lora_alpha: float = field(default=32.0, metadata=within(0, 1e6, open_at="low"))
    """LoRA updates are scaled by lora_alpha / lora_rank."""

    def rules(self) -> Iterator[str]:
        """Check that widths and heads fit together."""
        if (not self.head_width and self.dim % self.num_heads) or self.num_heads % self.num_kv_heads:
            yield "model: num_heads must divide dim, and num_kv_heads must divide num_heads"
        elif self.head_dim % 2 or not self.head_dim:
            yield f"model: the width of a head must be even for rotary embedding, not {self.head_dim}"
        if self.decoder == "whisper" and (self.encoder is None or not self.num_positions):
            yield "model.decoder whisper is what weights of Whisper bring along: --model.from-whisper FOLDER"
        if self.diarization != "none" and self.encoder is None:
            yield "model.diarization transforms a speech encoder's frames: --encode.codec pcm --model.encoder FOLDER"
        if self.decoder != "whisper" and self.encoder_tail_s:
            yield "model.encoder_tail_s is for Whisper's decoder: --model.from-whisper FOLDER, or 0"
        if self.rope_scaling and len(self.rope_scaling) != 4:
            yield f"model.rope_scaling takes four numbers or none, not {len(self.rope_scaling)}"
        if self.stack not in (4, 8, 16):
            yield f"model.stack is {self.stack}; it must be 4, 8 or 16 frames"
        if self.drops_columns and self.encoder is None:
            yield "model.stack and model.compress are for audio that goes through an encoder: --model.encoder FOLDER"

    @property
    def drops_columns(self) -> bool:
        """Whether the blocks read fewer columns than packs hold."""
        return self.stack > FRAMES_PER_COLUMN or self.compress != "none"

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.head_width or self.dim // self.num_heads


SIZES: dict[str, Shape] = {
    "tiny": Shape(dim=128, num_layers=4, num_heads=4, num_kv_heads=2, ffn_dim=448),  # 0.9M
    "small": Shape(dim=256, num_layers=6, num_heads=4, num_kv_heads=2, ffn_dim=768),  # 4.7M
    "base": Shape(dim=768, num_layers=12, num_heads=12, num_kv_heads=4, ffn_dim=2304),  # 83M + heads
    "0.6b": Shape(dim=1024, num_layers=28, num_heads=16, num_kv_heads=8, ffn_dim=3584, rope_theta=1e6),
    "1b": Shape(dim=2048, num_layers=16, num_heads=32, num_kv_heads=8, ffn_dim=8192, rope_theta=5e5),
    "7b": Shape(dim=4096, num_layers=32, num_heads=32, num_kv_heads=8, ffn_dim=11008, rope_theta=5e5),
}
"""Named sizes; comments give the number of parameters without embeddings and heads."""

_SIZE_FIELDS = ("dim", "num_layers", "num_heads", "num_kv_heads", "ffn_dim", "rope_theta", "head_width")


def sized(shape: Shape, size: str) -> Shape:
    """Return a shape with the widths and depths of a named size; everything else stays as it is.

    >>> sized(Shape(qkv_bias=True), "base") == Shape(**{**vars(SIZES["base"]), "qkv_bias": True})
    True
    """
    return replace(shape, **{name: getattr(SIZES[size], name) for name in _SIZE_FIELDS})


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What the embeddings and heads cover; follows from tokenizer, codec and layout."""

    text_size: int
    """Number of text tokens."""
    num_streams: int
    """Audio cells in a column (S)."""
    codebook_size: int
    """Number of ids of an audio cell in the layout, without padding (V)."""
    ordinal: bool
    """Whether neighboring codes stand for neighboring values."""
    encoder_digest: str = ""
    """Digest of the speech encoder's weights; empty without an encoder."""
    depth: bool = False
    """Whether a column's audio cells are predicted in turn, by a small transformer over the streams."""
