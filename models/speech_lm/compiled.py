"""Blocks compiled for a device, and the few lengths that graphs of it are captured for."""

import torch

from models.config.options import Compile
from models.sequence.batch import Batch
from models.speech_lm.model import SpeechLM


def bucket(length: int) -> int:
    """Return the length that a batch of columns is padded to: one of eight for each doubling, and at least 128.

    Packs are filled nearly to their capacity, so a training has one length, and a few for the last packs of its shards.

    >>> [bucket(length) for length in (1, 128, 129, 8_000, 8_192, 8_193)]
    [128, 128, 144, 8192, 8192, 9216]
    """
    if length <= 128:
        return 128
    step = 1 << ((length - 1).bit_length() - 4)
    return -(-length // step) * step


def compile_blocks(model: SpeechLM, how: Compile) -> None:
    """Compile each block before and after its attention, which is left out so that no length is compiled again.

    With graphs, each length is compiled by itself, and its kernels are captured and launched as one CUDA graph
    (`torch.compile(mode="reduce-overhead")`): batches must come in the lengths that `in_a_bucket` gives them.
    """
    if how == "none":
        return
    options = {"dynamic": True} if how == "blocks" else {"dynamic": False, "mode": "reduce-overhead"}
    for block in model.blocks:
        for name in _PARTS:
            setattr(block, name, torch.compile(getattr(block, name), **options))


_PARTS = ("begin", "finish")


def uncompile_blocks(model: SpeechLM) -> None:
    """Give blocks that were copied from compiled ones their own functions: what is compiled stays with its weights."""
    for block in model.blocks:
        for name in _PARTS:
            vars(block).pop(name, None)


def in_a_bucket(batch: Batch, how: Compile) -> Batch:
    """Return the batch in the length that the model's blocks are compiled for, at the beginning of a pass."""
    if how != "graphs":
        return batch
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
    return batch.padded(bucket(len(batch.text)))
