"""depth: the grid of the parallel layout, each column predicted cell by cell by a small transformer."""

from dataclasses import dataclass

from models.layouts.parallel import Parallel


@dataclass(frozen=True)
class Depth(Parallel):
    """The grid of `Parallel`; the cells of a column are predicted in turn by a small transformer over the streams.

    Sources: Lee et al. 2022, "Autoregressive image generation using residual quantization", arXiv:2203.01941, section
    3.2.2 (RQ-Transformer); Défossez et al. 2024, "Moshi", arXiv:2410.00037, section 3.4.1.
    """

    is_depth = True
