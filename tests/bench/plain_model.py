"""The speech-LLM's arithmetic written down plainly, with the same weights: no module, no chunk, no cache.

One function for documents packed in a row, one for a padded rectangle; both as anybody would write them first.
"""

import torch
import torch.nn.functional as F


def turned(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def embedded(model, text, audio, audio_columns):
    x = F.embedding(text, model.text_embedding.weight, padding_idx=0)
    pad = audio == model.vocabulary.codebook_size
    summed = F.embedding_bag(
        audio + model.stream_offsets,
        model.audio_embedding.weight,
        mode="sum",
        per_sample_weights=(~pad).to(torch.float32),
    )
    return x.index_add(0, audio_columns, F.rms_norm(summed, (x.shape[1],), model.audio_norm.weight, 1e-6))


def blocks(model, x, positions, attend):
    """All blocks over states (..., d), of positions (...)."""
    shape = model.shape
    width = shape.head_dim
    angles = positions[..., None, None] * shape.rope_theta ** (-torch.arange(0, width, 2) / width)
    cos, sin = angles.cos(), angles.sin()
    sizes = [shape.num_heads * width, shape.num_kv_heads * width, shape.num_kv_heads * width]
    for block in model.blocks:
        a = block.attention
        h = F.rms_norm(x, (shape.dim,), block.attention_norm.weight, 1e-6)
        q, k, v = (p.unflatten(-1, (-1, width)) for p in F.linear(h, a.qkv.weight).split(sizes, dim=-1))
        if shape.qk_norm:
            q = F.rms_norm(q, (width,), a.q_norm.weight, 1e-6)
            k = F.rms_norm(k, (width,), a.k_norm.weight, 1e-6)
        out = attend(turned(q, cos, sin), turned(k, cos, sin), v)
        x = x + F.linear(out.flatten(-2), a.out.weight)
        h = F.rms_norm(x, (shape.dim,), block.ffn_norm.weight, 1e-6)
        gate, up = F.linear(h, block.ffn.gate_up.weight).chunk(2, dim=-1)
        x = x + F.linear(F.silu(gate) * up, block.ffn.down.weight)
    return F.rms_norm(x, (shape.dim,), model.norm.weight, 1e-6)


def text_loss(model, states, targets, weights):
    logits = F.linear(states, model.text_head.weight)
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()


def packed_loss(model, batch):
    """Summed loss of a packed batch, one SDPA a document."""
    lengths = batch.cu_seqlens.diff().tolist()

    def attend(q, k, v):
        parts = []
        for document in zip(*(x.split(lengths) for x in (q, k, v)), strict=True):
            one = [x.transpose(0, 1)[None] for x in document]
            out = F.scaled_dot_product_attention(*one, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
            parts.append(out[0].transpose(0, 1))
        return torch.cat(parts)

    x = embedded(model, batch.text, batch.audio, batch.audio_columns)
    hidden = blocks(model, x, batch.positions.float(), attend)
    total = text_loss(model, hidden[batch.text_from], batch.text_targets, batch.text_weights)
    streams, size = model.vocabulary.num_streams, model.vocabulary.codebook_size
    if len(batch.audio_from):
        logits = F.linear(hidden[batch.audio_from], model.audio_head.weight).view(-1, streams, size)
        losses = F.cross_entropy(
            logits.flatten(0, 1), batch.audio_targets.flatten(), ignore_index=size, reduction="none"
        )
        total = total + (losses.view(-1, streams) * batch.audio_weights[:, None]).sum()
    return total


def padded_loss(model, batch):
    """Summed loss of the same documents, each filled up to the longest: (B, L) and one causal SDPA."""
    lengths = batch.cu_seqlens.diff().to(torch.int64)
    number, longest = len(lengths), int(lengths.max())
    row = torch.repeat_interleave(torch.arange(number), lengths)
    at = row * longest + batch.positions  # of each column in the rectangle
    text = torch.zeros(number * longest, dtype=torch.int64)
    text[at] = batch.text
    x = embedded(model, text, batch.audio, at[batch.audio_columns]).view(number, longest, -1)

    def attend(q, k, v):
        one = [part.transpose(1, 2) for part in (q, k, v)]
        out = F.scaled_dot_product_attention(*one, is_causal=True, enable_gqa=q.shape[2] != k.shape[2])
        return out.transpose(1, 2)

    hidden = blocks(model, x, torch.arange(longest).float().expand(number, longest), attend).flatten(0, 1)
    return text_loss(model, hidden[at[batch.text_from]], batch.text_targets, batch.text_weights)
