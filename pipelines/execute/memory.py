"""A node without memory: Ray ends the worker that came last, tries again, and after that it is the user's to fix."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from operators.errors import InputError

_SIGNS = re.compile(r"running low on memory|OutOfMemory|out of memory|memory pressure", re.IGNORECASE)
_NODE = re.compile(r"(?:node \(IP: |IP: |-ip )([0-9a-fA-F.:]+)")


def memory_fault(error: BaseException | None) -> str | None:
    """Return that memory ran out, and on which node, if an error came from that; else None.

    >>> memory_fault(RuntimeError("Task was killed due to the node running low on memory. ... `ray logs -ip 10.0.0.7`"))
    'the memory of node 10.0.0.7 ran out'
    >>> memory_fault(ValueError("something else"))
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = f"{type(error).__name__} {error}"
        if isinstance(error, MemoryError) or _SIGNS.search(text):
            node = _NODE.search(text)
            return f"the memory of node {node[1].rstrip('.')} ran out" if node else "the memory of a node ran out"
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def refused_memory(advice: str) -> Iterator[None]:
    """Turn an error that came from a node without memory into one line with advice.

    Raises:
        InputError: memory ran out within the block.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if (fault := memory_fault(error)) is None:
            raise
        raise InputError(
            f"{fault}, each time that it was tried; {advice}; what is made stays, run again to continue"
        ) from error
