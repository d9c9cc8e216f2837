"""Terminal output: progress with rates, lines, notices, tables and trees."""

import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.tree import Tree

from models.config.secrets import masked

_WIDTH = None if sys.stdout.isatty() else 140  # a log file has no edge to fold at
OUT = Console(width=_WIDTH, highlight=False)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)


FIRST_LOG_S = 5.0
LOG_EVERY_S = 30.0
"""Until the first line of progress where there is no terminal, and between two of them."""


def shown(text: str) -> str:
    """Return a text as it may be printed: without secrets, and with brackets that are no markup."""
    return escape(masked(text))


class Bar:
    """Progress of one stage, with a rate."""

    def __init__(self, description: str, total: int, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total, rate="")

    def to(self, completed: float, rate: str = "") -> None:
        """Show how much is completed, and a rate."""
        self._progress.update(self._task, completed=completed, rate=rate)

    def words(self) -> str:
        """Return one line for a log: how much is completed, the rate, the time so far and what is left of it."""
        (task,) = self._progress.tasks
        text = f"{task.description:<9} {count(task.completed)} of {count(task.total or 0)}"
        text += f", {rate}" if (rate := task.fields["rate"]) else ""
        text += f", {duration(task.elapsed or 0)}"
        return text + (f", about {duration(left)} left" if (left := task.time_remaining) is not None else "")


@contextmanager
def bar(description: str, total: int) -> Iterator[Bar]:
    """Show progress for the duration of the block: a bar on a terminal, else a line on standard error now and then."""
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    is_terminal = sys.stderr.isatty()
    with Progress(*columns, console=ERR, transient=True, disable=not is_terminal) as progress:
        made = Bar(description, total, progress)
        if is_terminal:
            yield made
            return
        ended = threading.Event()
        thread = threading.Thread(target=_log, args=(made, ended), daemon=True)
        thread.start()
        try:
            yield made
        finally:
            ended.set()
            thread.join()


def _log(shown_bar: Bar, ended: threading.Event) -> None:
    """Print a bar's line every `LOG_EVERY_S` until it ends."""
    wait_s = FIRST_LOG_S
    while not ended.wait(wait_s):
        ERR.print(shown(shown_bar.words()))
        wait_s = LOG_EVERY_S


def line(stage: str, text: str) -> None:
    """Print one line with a label."""
    OUT.print(f"[bold]{stage:<9}[/bold] {shown(text)}", soft_wrap=True)


def notice(text: str) -> None:
    """Print what a user should know but need not act on."""
    OUT.print(f"[yellow]note[/yellow]      {shown(text)}", soft_wrap=True)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    made = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for name in header:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*map(shown, row))
    OUT.print(made)


def tree(node: dict[str, Any]) -> None:
    """Print a chain of lineage."""
    OUT.print(_branch(node, None))


def _branch(node: dict[str, Any], parent: Tree | None) -> Tree:
    facts = {k: v for k, v in node.items() if k not in ("kind", "id", "from", "to", "path")}
    label = f"[bold]{shown(str(node['kind']))}[/bold] {shown(str(node['id'])[:32])}"
    if "path" in node:
        label += f"  [dim]{shown(str(node['path']))}[/dim]"
    branch = parent.add(label) if parent else Tree(label)
    for key, value in facts.items():
        words = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        branch.add(f"[dim]{key}[/dim] {shown(str(words))}")
    for child in [*node["from"], *node.get("to", ())]:
        _branch(child, branch)
    return branch


def program(name: str) -> str:
    """Return how to call a program of this installation from here: its name if it is on the path."""
    if shutil.which(name):
        return name
    path = Path(sys.executable).parent / name
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def hours(seconds: float) -> str:
    """Write a length of audio.

    >>> hours(90), hours(7200)
    ('1.5 min', '2.0 h')
    """
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def duration(seconds: float) -> str:
    """Write a time that something takes.

    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def count(value: float) -> str:
    """Write a number with thin groups.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{value:,.0f}"
