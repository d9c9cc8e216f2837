"""Layouts: one table from a layout's name to its class (`models.layouts.layout` is the contract).

A new layout is one file with its class, and one line in `LAYOUTS` (docs/extending.md).
"""

from typing import TYPE_CHECKING, Any, Literal

from models.layouts.coarse_first import CoarseFirst
from models.layouts.delay import Delay
from models.layouts.depth import Depth
from models.layouts.flat import Flat
from models.layouts.layout import Layout
from models.layouts.parallel import Parallel

LAYOUTS: dict[str, Any] = {
    "parallel": Parallel,
    "delay": Delay,
    "flat": Flat,
    "coarse_first": CoarseFirst,
    "depth": Depth,
}
"""Class of each layout; called with K, the codebook size and, where it has groups, the frames per column."""

if TYPE_CHECKING:
    LayoutName = str
else:
    LayoutName = Literal[tuple(LAYOUTS)]  # the choices of `--compose.layout` follow from the table


def make_layout(name: str, num_codebooks: int, codebook_size: int, group: int = 1) -> Layout:
    """Return a layout by its name.

    Args:
        name: a key of `LAYOUTS`.
        num_codebooks: K.
        codebook_size: number of values of a code (V).
        group: frames per column, for layouts that have groups.

    Raises:
        ValueError: the name is unknown, or `group` is not 1 and the layout has no groups.
    """
    if name not in LAYOUTS:
        raise ValueError(f"unknown layout {name!r}; choose from {', '.join(LAYOUTS)}")
    kind = LAYOUTS[name]
    if kind.has_groups:
        grouped: Layout = kind(num_codebooks, codebook_size, group)
        return grouped
    if group != 1:
        others = ", ".join(one for one in LAYOUTS if LAYOUTS[one].has_groups)
        raise ValueError(f"layout {name} has no groups of frames; use group 1, or one of {others}")
    ungrouped: Layout = kind(num_codebooks, codebook_size)
    return ungrouped
