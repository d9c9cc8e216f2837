"""What a training step costs in floating-point operations, and the share of a device's peak that it reaches (MFU).

Counted: two operations a multiply-add; matrices and attention forward once and backward twice; attention only
between columns that see each other. Not counted: norms, activations, the optimizer, and what is computed again.
Source: Chowdhery et al. 2022, "PaLM", arXiv:2204.02311, appendix B; attention by documents, causally.
"""

import itertools

import torch

from models.config.shape import Shape, Vocabulary
from models.sequence.batch import Batch

PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}
"""Dense bf16 of devices, from their data sheets, by a part of their name."""


def block_parameters(shape: Shape) -> int:
    """Return the values in the matrices of one block.

    >>> block_parameters(Shape(dim=8, num_heads=2, num_kv_heads=1, ffn_dim=16))
    576
    """
    heads = shape.num_heads * shape.head_dim
    kept = shape.num_kv_heads * shape.head_dim
    return shape.dim * (2 * heads + 2 * kept) + 3 * shape.dim * shape.ffn_dim


def attention_pairs(lengths: list[int], prompts: list[int] | None = None) -> int:
    """Return the pairs of columns of which one sees the other.

    >>> attention_pairs([3, 2]), attention_pairs([3, 2], [2, 1])
    (9, 10)
    """
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    return pairs + sum(p * (p - 1) // 2 for p in prompts or [])


def training_flops(shape: Shape, vocabulary: Vocabulary, batch: Batch) -> float:
    """Return the operations of one forward and backward pass over a batch."""
    lengths = [end - start for start, end in itertools.pairwise(batch.boundaries)]
    pairs = attention_pairs(lengths, list(batch.prompts) if shape.prompt_attention == "both" else None)
    # A frozen matrix passes gradients on, but gets none.
    passes = 4 if shape.lora_rank else 6
    flops = passes * block_parameters(shape) * shape.num_layers * len(batch.text)
    flops += 12 * shape.num_heads * shape.head_dim * shape.num_layers * pairs
    flops += 6 * shape.dim * vocabulary.text_size * len(batch.text_from)
    predicted = len(batch.audio_from)
    if vocabulary.depth:
        width, streams = shape.depth_dim or shape.dim // 2, vocabulary.num_streams
        each = shape.depth_layers * (4 * width * width + 9 * width * width) + width * vocabulary.codebook_size
        flops += 6 * predicted * (streams * each + shape.dim * width)
        flops += 12 * width * shape.depth_layers * predicted * streams * (streams + 1) // 2
    else:
        flops += 6 * shape.dim * vocabulary.num_streams * vocabulary.codebook_size * predicted
    return float(flops)


def peak_flops(device: torch.device) -> float | None:
    """Return a device's peak in bf16, where it is known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)
