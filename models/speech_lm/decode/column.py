"""One step of decoding: a column for every slot. No shape, storage or decision depends on what is decoded."""

import torch
import torch.nn.functional as F

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
    seen = torch.arange(window, device=x.device)[None] <= cache.lengths[:, None]  # (B, W)
    bias: torch.Tensor | None = None
    for block, keys, values in zip(model.blocks, cache.keys, cache.values, strict=True):
        assert isinstance(block, Block)
        q, k, v = block.begin(x, cos, sin)
        keys[cache.rows, cache.lengths], values[cache.rows, cache.lengths] = k, v
        if bias is None:  # SDPA would make one of a mask of truth values in each layer
            bias = torch.zeros(seen.shape, dtype=q.dtype, device=q.device).masked_fill_(~seen, -torch.inf)
        attended = attend(q, keys[:, :window], values[:, :window], bias, folded=q.device.type == "cuda")
        x = block.finish(x, attended)
    out: torch.Tensor = model.norm(x)
    return out


def attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor, *, folded: bool
) -> torch.Tensor:
    """Return attention (B, H, D) of one query a head to a window of columns.

    Args:
        q: queries (B, H, D).
        keys: (B, W, G, D); every H / G query heads share one.
        values: (B, W, G, D).
        bias: (B, W), 0 or -inf.
        folded: whether heads that share keys are queries of one head: on a GPU no kernel that takes a bias knows shared
            keys, and they would be copied for every head and step.
    """
    groups = keys.shape[2]
    keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    if not folded:
        out = F.scaled_dot_product_attention(
            q[:, :, None], keys, values, attn_mask=bias[:, None, None], enable_gqa=q.shape[1] != groups
        )
        return out[:, :, 0]
    shared = q.view(len(q), groups, -1, q.shape[2])  # (B, G, H / G, D)
    return F.scaled_dot_product_attention(shared, keys, values, attn_mask=bias[:, None, None]).flatten(1, 2)
