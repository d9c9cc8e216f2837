"""Layouts: one table from a layout's name to its class, which knows its own length, ids and groups.

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
"""Class of each layout: takes the number of codebooks, their size and, where it has groups, frames per column."""

if TYPE_CHECKING:
    LayoutName = str
else:
    LayoutName = Literal[tuple(LAYOUTS)]  # the choices of `--compose.layout` follow from the table


def make_layout(name: str, num_codebooks: int, codebook_size: int, group: int = 1) -> Layout:
    """Return a layout by its name.

    Args:
        name: a key of `LAYOUTS`.
        num_codebooks: K.
        codebook_size: values of a code.
        group: frames in a column, for layouts that have groups.

    Raises:
        ValueError: the name is unknown, or frames are to be grouped where the layout has no groups.
    """
    if name not in LAYOUTS:
        raise ValueError(f"there is no layout {name!r}; choose from {', '.join(LAYOUTS)}")
    kind = LAYOUTS[name]
    if kind.has_groups:
        made: Layout = kind(num_codebooks, codebook_size, group)
        return made
    if group != 1:
        grouped = " and ".join(one for one in LAYOUTS if LAYOUTS[one].has_groups)
        raise ValueError(f"layout {name} has no groups of frames; {grouped} have")
    ungrouped: Layout = kind(num_codebooks, codebook_size)
    return ungrouped
