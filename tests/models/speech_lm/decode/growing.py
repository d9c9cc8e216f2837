"""Decoding as plainly as it can be written: a cache whose window grows, and the host decides column by column.

What `models.speech_lm.decode` must equal, and what `tests.bench.decode` measures it against.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from models.sequence.batch import collate
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.decode.sampling import Sampling
from models.speech_lm.depth import DepthTransformer
from models.speech_lm.generate import frames_in
from models.speech_lm.precision import in_precision_of_device
from models.speech_lm.transformer import rotary


@dataclass
class GrowingCache:
    keys: list  # per layer (B, L, G, D)
    values: list
    lengths: torch.Tensor  # (B,)


def prefill(model, batch, room):
    embedded = model._embed_batch(batch)
    hidden, kept, _ = model._run(embedded, model.backend(), keep=True)
    batch = embedded.batch
    lengths = batch.cu_seqlens.diff().to(torch.int64)
    size = (len(lengths), int(lengths.max()) + room, model.shape.num_kv_heads, model.shape.head_dim)
    row = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
    cache = GrowingCache([], [], lengths)
    for keys, values in kept:
        for rows, stored in ((keys, cache.keys), (values, cache.values)):
            padded = rows.new_zeros(size)
            padded[row, batch.positions] = rows
            stored.append(padded)
    return hidden[batch.cu_seqlens[1:].to(torch.int64) - 1], cache


def step(model, text, cache, audio=None):
    x = model._embed_text(text) if audio is None else model.embed(text, audio, torch.arange(len(text)).to(text.device))
    cos, sin = rotary(cache.lengths, model.shape)
    rows = torch.arange(len(text), device=x.device)
    longest = int(cache.lengths.max()) + 1
    seen = torch.arange(longest, device=x.device)[None] <= cache.lengths[:, None]
    for block, keys, values in zip(model.blocks, cache.keys, cache.values, strict=True):
        q, k, v = block.begin(x, cos, sin)
        keys[rows, cache.lengths], values[rows, cache.lengths] = k, v
        attended = F.scaled_dot_product_attention(
            q[:, :, None],
            keys[:, :longest].transpose(1, 2),
            values[:, :longest].transpose(1, 2),
            attn_mask=seen[:, None, None],
            enable_gqa=model.shape.num_heads != model.shape.num_kv_heads,
        )
        x = block.finish(x, attended[:, :, 0])
    cache.lengths = cache.lengths + 1
    return model.norm(x)


@torch.no_grad()
@in_precision_of_device
def greedy_text(model, prompts, grid, *, end, max_tokens, grammars=None):
    device = next(model.parameters()).device
    hidden, cache = prefill(model, collate(prompts, grid).to(device), max_tokens)
    answers = [[] for _ in prompts]
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)
    states = [grammar.start() for grammar in grammars or ()]
    for number in range(max_tokens):
        logits = model.text_logits(hidden).float()
        logits[:, 0] = -torch.inf
        if grammars:
            may = [grammar.mask(state) for grammar, state in zip(grammars, states, strict=True)]
            logits.masked_fill_(~torch.stack(may).to(device), -torch.inf)
        tokens = logits.argmax(dim=-1)
        running &= tokens != end
        if not bool(running.any()):
            break
        for answer, token, goes_on in zip(answers, tokens.tolist(), running.tolist(), strict=True):
            if goes_on:
                answer.append(token)
        if grammars:
            written = zip(grammars, states, tokens.tolist(), running.tolist(), strict=True)
            states = [g.advance(state, token) if goes_on else state for g, state, token, goes_on in written]
        if number + 1 < max_tokens:
            hidden = step(model, tokens, cache)
    return answers


@torch.no_grad()
@in_precision_of_device
def generate_audio(model, prompts, grid, *, max_frames, end, sampling=None, pad_weight=1.0):
    """Continue each prompt with audio of which nothing is given."""
    sampling, layout, device = sampling or Sampling(), grid.layout, next(model.parameters()).device
    most, generators = (
        layout.num_columns(max_frames),
        [torch.Generator().manual_seed(sampling.seed + number) for number in range(len(prompts))],
    )
    hidden, cache = prefill(model, collate(prompts, grid).to(device), most)
    made = torch.empty((len(prompts), layout.num_streams, most), dtype=torch.int64, device=device)
    lengths = torch.full((len(prompts),), most)
    running = torch.ones(len(prompts), dtype=torch.bool)
    zeros, other = (np.full((grid.num_codebooks, max_frames), value) for value in (0, 1))
    forced, differs = layout.to_grid(zeros), layout.to_grid(zeros) != layout.to_grid(other)
    for column in range(most):
        may_end = running & layout.is_open_ended
        uniforms = torch.stack([torch.rand((layout.num_streams + 1, 2), generator=one) for one in generators])
        uniforms = uniforms.to(device)
        if bool(may_end.any()):
            pair = model.text_logits(hidden)[:, [ByteTokenizer.PAD, end]].float()
            pair[:, 0] -= math.log(pad_weight)
            stops = sampling.draw(pair, uniforms[:, -1], None).bool().cpu() & may_end
            lengths[stops] = column
            running &= ~stops
            if not bool(running.any()):
                break
        low, high = layout.id_range(column, max_frames)
        window = sampling.repetition_window
        for stream in range(layout.num_streams):
            cells = torch.full((len(prompts),), int(forced[stream, column]), device=device)
            if differs[stream, column]:
                logits = logits_of(model, hidden, made[:, :stream, column], stream)[:, low:high].float()
                recent = made[:, stream, column - window : column] - low if 0 < window <= column else None
                cells = sampling.draw(logits, uniforms[:, stream], recent) + low
            made[:, stream, column] = cells
        if column + 1 < most:
            text = torch.zeros(len(prompts), dtype=torch.int64, device=device)
            hidden = step(model, text, cache, made[:, :, column])
    answers = []
    for row, length in zip(made.cpu().numpy(), lengths.tolist(), strict=True):
        frames = max_frames if length == most else frames_in(layout, length)
        answers.append(layout.from_grid(row[:, : layout.num_columns(frames)], frames).astype(np.uint16))
    return answers


def logits_of(model, hidden, above, stream):
    head, size = model.audio_head, model.vocabulary.codebook_size
    if isinstance(head, DepthTransformer):
        state = head.states(hidden, above)[:, -1]
        return state @ head.head.weight.view(-1, size, state.shape[1])[stream].T
    return head(hidden).view(len(hidden), -1, size)[:, stream]
