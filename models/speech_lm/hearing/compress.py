"""Fewer columns than a pack holds: several stacked to one, or those that CTC finds nothing new in left out.

Packs are made before a model knows what is in the audio, so columns are taken out inside the model, after its projector
and before its blocks. Text, positions and what is predicted move together (`Batch.without_columns`).
Sources: Gaido et al. 2021, "CTC-based Compression for Direct Speech Translation", arXiv:2102.01578, section 3 (equal
neighbours are averaged); Wu et al. 2023, "On decoder-only architecture for speech-to-text and large language model
integration", arXiv:2307.03917, section 3.2 (blanks are removed).
"""

import itertools
from collections.abc import Iterator, Sequence

import torch

from models.codecs.pcm import FRAMES_PER_COLUMN
from models.config.shape import Shape
from models.sequence.batch import Batch


def stretches(columns: torch.Tensor) -> Iterator[tuple[int, int]]:
    """Yield the ranges of rows whose columns follow each other.

    >>> list(stretches(torch.tensor([3, 4, 5, 9, 10])))
    [(0, 3), (3, 5)]
    """
    breaks = (torch.nonzero(columns.diff() != 1).flatten() + 1).tolist()
    edges = [0, *breaks, len(columns)]
    yield from itertools.pairwise(edges)


def stretch_lengths(batch: Batch) -> Sequence[int]:
    """Return the columns of each stretch of audio of a batch."""
    if batch.features is not None:
        return batch.feature_columns
    if not len(batch.audio_columns):
        return ()
    return [end - first for first, end in stretches(batch.audio_columns)]


def stacked_lengths(lengths: Sequence[int], shape: Shape) -> list[int]:
    """Return the columns that are left of stretches of so many.

    >>> stacked_lengths([1, 4, 5], Shape(stack=8, encoder="x")), stacked_lengths([1, 4, 5], Shape())
    ([1, 2, 3], [1, 4, 5])
    """
    times = shape.stack // FRAMES_PER_COLUMN
    return [-(-length // times) for length in lengths]


def stacked(batch: Batch, shape: Shape) -> Batch:
    """Return the batch of the columns that a model's projector makes: of stacked ones the first."""
    times = shape.stack // FRAMES_PER_COLUMN
    if times == 1 or not len(batch.audio_columns):
        return batch
    places = torch.cat([torch.arange(length) for length in stretch_lengths(batch)])
    keep = (places % times == 0).to(batch.text.device, non_blocking=True)
    return batch.without_columns(batch.audio_columns[~keep])


def merge_runs(
    vectors: torch.Tensor, labels: torch.Tensor, lengths: Sequence[int], blank: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which columns stay (A,) bool, and their vectors (K, d): means of neighbours with one label, but no blanks.

    Of a stretch with blanks alone one column stays, the mean of all: something was heard, if only silence.

    Args:
        vectors: (A, d) of the columns of all stretches, one after the other.
        labels: (A,) likeliest token of each.
        lengths: columns of each stretch.
        blank: the label of columns that say nothing.

    >>> labels = torch.tensor([0, 7, 7, 0, 7, 8, 0, 0])
    >>> keep, means = merge_runs(torch.arange(8.0)[:, None], labels, [6, 2])
    >>> keep.nonzero().flatten().tolist(), means.flatten().tolist()
    ([1, 4, 5, 6], [1.5, 4.0, 5.0, 6.5])
    """
    device = labels.device
    number = torch.tensor(lengths).to(device, non_blocking=True)
    stretch = torch.repeat_interleave(torch.arange(len(lengths), device=device), number, output_size=len(labels))
    begins = torch.ones_like(labels, dtype=torch.bool)
    begins[1:] = (labels[1:] != labels[:-1]) | (stretch[1:] != stretch[:-1])
    first = torch.nonzero(begins).flatten()
    sizes = torch.cat([first, first.new_tensor([len(labels)])]).diff()
    says = labels[first] != blank
    is_heard = torch.zeros(len(lengths), dtype=torch.bool, device=device)
    is_heard[stretch[first[says]]] = True
    stays = says | ~is_heard[stretch[first]]
    # One sum after the other, in float32: an `index_add` of a GPU would add in an order of its own every time.
    means = torch.segment_reduce(vectors.float(), "mean", lengths=sizes, axis=0)
    keep = torch.zeros_like(begins)
    keep[first[stays]] = True
    return keep, means[stays].to(vectors.dtype)
