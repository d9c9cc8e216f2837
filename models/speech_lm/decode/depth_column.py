"""The cells of one column by the depth transformer, one after the other, each computed once."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from models.speech_lm.depth import DepthTransformer
from models.speech_lm.transformer import Block, rotary

Choose = Callable[[int, torch.Tensor], torch.Tensor]
"""What stream, and its logits (B, V), to its cells (B,)."""


def depth_cells(head: DepthTransformer, hidden: torch.Tensor, choose: Choose) -> torch.Tensor:
    """Return the cells (B, S) of a column from its states (B, d), stream by stream as `DepthTransformer.states`."""
    streams = torch.arange(head.num_streams, device=hidden.device)
    cos, sin = rotary(streams, head.shape)
    base = head.from_state(hidden)[:, None] + head.start(streams)[None]  # (B, S, w)
    matrices = head.head.weight.view(head.num_streams, head.size, -1)
    past: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = [([], []) for _ in head.blocks]
    cells: list[torch.Tensor] = []
    for stream in range(head.num_streams):
        x = base[:, stream]
        if cells:
            x = x + head.embedding(cells[-1] + (stream - 1) * (head.size + 1))
        for block, (keys, values) in zip(head.blocks, past, strict=True):
            assert isinstance(block, Block)
            q, k, v = block.begin(x, cos[stream], sin[stream])
            keys.append(k)
            values.append(v)
            seen = torch.stack(keys, dim=2), torch.stack(values, dim=2)  # (B, H, stream + 1, D)
            x = block.finish(x, F.scaled_dot_product_attention(q[:, :, None], *seen)[:, :, 0])
        cells.append(choose(stream, head.norm(x) @ matrices[stream].T))
    return torch.stack(cells, dim=1)
