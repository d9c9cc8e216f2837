"""One step of decoding: a column for every slot. No shape, storage or decision depends on what is decoded."""

import torch

from models.kernels import fused, plain
from models.speech_lm.decode.attention import attend, bias_of, kernel_for
from models.speech_lm.decode.cache import StaticCache
from models.speech_lm.model import SpeechLM
from models.speech_lm.transformer import Block


def append_column(
    model: SpeechLM, cache: StaticCache, text: torch.Tensor, audio: torch.Tensor | None, window: int
) -> torch.Tensor:
    """Append one column to every slot; return its states (B, d). The cache's lengths are left to the caller.

    Args:
        model: the speech-LLM.
        cache: columns so far.
        text: (B,) text cells.
        audio: (B, S) audio cells, where the columns are of audio.
        window: columns, from the first, that are attended to: more than any slot in use has.
    """
    x = model.embed_column(text, audio)
    cos, sin = cache.cos.index_select(0, cache.lengths), cache.sin.index_select(0, cache.lengths)
    bias: torch.Tensor | None = None
    for block, keys, values in zip(model.blocks, cache.keys, cache.values, strict=True):
        assert isinstance(block, Block)
        q, k, v = block.begin(x, cos, sin)
        seen = keys[:, :window], values[:, :window]
        if kernel := kernel_for(q, keys):
            attended = kernel(q, k, v, *seen, cache.lengths)
        else:
            keys[cache.rows, cache.lengths], values[cache.rows, cache.lengths] = k, v
            if bias is None:  # SDPA would make one of a mask of truth values in each layer
                bias = bias_of(cache.lengths, window, q.dtype)
            attended = attend(q, *seen, bias, folded=q.device.type == "cuda")
        x = finish_in_place(block, x, attended) if x.device.type == "cuda" else block.finish(x, attended)
    out: torch.Tensor = model.norm(x)
    return out


def finish_in_place(block: Block, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """Do what `Block.finish` does, on states (B, d) themselves: both sums are made by the products, not after them."""
    x.addmm_(attended.flatten(-2), block.attention.out.weight.T)
    gate_up = block.ffn.gate_up(block.ffn_norm(x))
    ops = fused if fused.is_supported(gate_up, "swiglu") else plain
    return x.addmm_(ops.swiglu(gate_up), block.ffn.down.weight.T)
