"""The depth transformer: a column's cells of audio, one after the other."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.config.shape import Shape, Vocabulary
from models.kernels.loss import by_cell
from models.speech_lm.transformer import Block, RMSNorm, rotary


class DepthTransformer(nn.Module):
    """Predicts the cells of one column from its state, each from those above it.

    Source: Défossez et al. 2024, "Moshi", arXiv:2410.00037, section 3.4.1: z is the temporal state, and stream k sees z
    and the cells of streams below k.
    """

    CHUNK = 1024
    """Columns whose cells are predicted at a time; the rest is made again in the backward pass."""

    def __init__(self, shape: Shape, vocabulary: Vocabulary) -> None:
        super().__init__()
        width = shape.depth_dim or shape.dim // 2
        heads = max(1, width // 64)
        small = Shape(
            dim=width,
            num_layers=shape.depth_layers,
            num_heads=heads,
            num_kv_heads=heads,
            ffn_dim=3 * width,
            rope_theta=shape.rope_theta,
            qk_norm=shape.qk_norm,
        )
        self.num_streams, self.size, self.shape = vocabulary.num_streams, vocabulary.codebook_size, small
        self.from_state = nn.Linear(shape.dim, width, bias=False)
        # Cell k - 1 is what stream k sees: the same table as for columns, one row of pad a stream.
        self.embedding = nn.Embedding(vocabulary.num_streams * (vocabulary.codebook_size + 1), width)
        self.start = nn.Embedding(vocabulary.num_streams, width)
        self.blocks = nn.ModuleList(Block(small) for _ in range(shape.depth_layers))
        self.norm = RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, vocabulary.num_streams * vocabulary.codebook_size, bias=False)

    def states(self, hidden: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Return what each stream's cell is predicted from (P, S', w).

        Args:
            hidden: (P, d) the columns' states.
            cells: (P, S' - 1) the cells above, from the first stream on; pad is `codebook_size`.
        """
        number = cells.shape[1] + 1
        streams = torch.arange(number, device=hidden.device)
        x = self.from_state(hidden)[:, None] + self.start(streams)[None]
        above = self.embedding(cells + streams[:-1] * (self.size + 1))
        x = torch.cat((x[:, :1], x[:, 1:] + above), dim=1)
        cos, sin = rotary(streams, self.shape)

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (P, H, S', D)
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

        for block in self.blocks:
            x, _, _ = block(x, cos, sin, attend)
        out: torch.Tensor = self.norm(x)
        return out

    def _chunk_loss(self, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        states = self.states(hidden, targets[:, :-1])
        head = self.head.weight.view(self.num_streams, self.size, -1)
        logits = torch.einsum("psw,svw->psv", states, head)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=self.size, reduction="none")
        return (losses.view(targets.shape) * by_cell(weights)).sum()

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of the cross-entropies of columns' cells (P, S); pads count for nothing.

        Weights are of columns (P,) or of cells (P, S).
        """
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for start in range(0, len(hidden), self.CHUNK):
            rows = slice(start, start + self.CHUNK)
            total = total + checkpoint(
                self._chunk_loss, hidden[rows], targets[rows], weights[rows], use_reentrant=False
            )
        return total
