"""What a training step costs in floating-point operations, and the share of a device's peak that it reaches (MFU).

Counted: two operations a multiply-add; matrices and attention forward once and backward twice; attention only
between columns that see each other. Not counted: norms, activations, the optimizer, and what is computed again.
Source: Chowdhery et al. 2022, "PaLM", arXiv:2204.02311, appendix B; attention by documents, causally.
"""

import itertools

import torch

from models.codecs.pcm import FRAMES_PER_COLUMN
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


def _whisper_flops(shape: Shape, batch: Batch) -> float:
    """Return the operations of Whisper's blocks over a batch: text reads itself, and attends across to frames."""
    documents = len(batch.boundaries) - 1
    of_audio = torch.searchsorted(batch.cu_seqlens[1:].to(torch.int64), batch.audio_columns, right=True)
    audio = torch.bincount(of_audio, minlength=documents)
    text = batch.cu_seqlens.diff() - audio + len(shape.prefix)
    frames = audio * FRAMES_PER_COLUMN
    width, passes = shape.dim, 4 if shape.lora_rank else 6
    of_text = passes * (6 * width * width + 2 * width * shape.ffn_dim) * int(text.sum())
    # Nothing before the frames is trained, where the encoder is frozen: no gradient is passed on to them.
    is_frozen = not shape.encoder_rank and shape.diarization == "none"
    of_frames = (passes - 2 * is_frozen) * 2 * width * width * int(frames.sum())
    pairs = attention_pairs(text.tolist()) + int((text * frames).sum())
    return float(shape.num_layers * (of_text + of_frames + 12 * width * pairs))


def training_flops(shape: Shape, vocabulary: Vocabulary, batch: Batch) -> float:
    """Return the operations of one forward and backward pass over a batch; those of an encoder are not counted."""
    if shape.decoder == "whisper":
        return _whisper_flops(shape, batch) + 6.0 * shape.dim * vocabulary.text_size * len(batch.text_from)
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
