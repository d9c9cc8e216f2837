"""pack --compare: what every packer would make of a recipe's documents, side by side; written is only a table."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.training.loader import step_cost
from operators.packing import counts, related
from operators.packing.packer import settled
from operators.packing.packers import PACKERS
from operators.packing.packers.best_fit import best_fit
from operators.packing.plan import Plan, merged
from operators.store.dataset import Dataset, Snapshot
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console
from pipelines.stages.upstream import seeded_compose

RANKS = 8


@dataclass(frozen=True)
class Compared:
    """What one packer makes of the documents."""

    packer: str
    packs: int
    over_bound: float
    """Share of packs above a number that no packing without cuts can go below."""
    fill: float
    cut_documents: int
    imbalance: float | None
    """Costliest rank over the mean, 8 ranks of one pack each in random order, mean over steps."""
    cpu_s: float
    peak_mb: float | None
    """Memory while planning, above what was there before."""


def compare(recipe: Recipe, codes: Dataset, snapshot: Snapshot) -> list[Compared]:
    """Plan the training documents of a codes data set with every packer.

    Args:
        recipe: its `compose` makes the documents, its `pack` sets capacity and windows.
        codes: where the codes are.
        snapshot: which partitions of them.
    """
    lengths, relation = _documents(recipe, codes, snapshot)
    fits = lengths <= recipe.pack.capacity
    lengths, relation = lengths[fits], [value for value, keep in zip(relation, fits.tolist(), strict=True) if keep]
    capacity, bound = recipe.pack.capacity, counts.lower_bound(lengths, recipe.pack.capacity)
    planners: dict[str, Callable[[], Plan]] = {
        **{name: partial(packer.plan, lengths, capacity) for name, packer in PACKERS.items()},
        "best_fit": lambda: in_windows(lengths, capacity, recipe.pack.window_documents),
        "best_fit, all at once": lambda: best_fit(lengths, capacity),
        "together": lambda: related.together(lengths, capacity, relation),
        "apart": lambda: related.apart(lengths, capacity, relation),
    }
    found = []
    for name, planner in planners.items():
        planner()  # compiled before it is timed
        with_peak = _PeakMemory()
        started = time.process_time()
        plan = planner()
        seconds, peak_mb = time.process_time() - started, with_peak.increase_mb()
        found.append(
            _row(
                name,
                len(plan),
                0,
                _imbalance(plan, lengths, recipe.model.dim),
                lengths,
                capacity,
                bound,
                seconds,
                peak_mb,
            )
        )
    by_length = np.bincount(lengths, minlength=capacity + 1)
    counts.histogram(by_length, capacity)
    started = time.process_time()
    number = sum(packs for _, packs in counts.histogram(by_length, capacity))
    seconds = time.process_time() - started
    found.append(_row("histogram, counts only", number, 0, None, lengths, capacity, bound, seconds, None))
    started = time.process_time()
    number, cut = counts.concatenate(lengths, capacity)
    seconds = time.process_time() - started
    found.append(_row("end to end, cut at borders", number, cut, None, lengths, capacity, bound, seconds, None))
    return found


def in_windows(lengths: NDArray[np.int32], capacity: int, window: int) -> Plan:
    """Plan documents of lengths (N,), in columns, as `operators.packing.pack.Pack` streams: window by window."""
    held, at, plans = np.zeros(0, np.int64), 0, []
    while at < len(lengths) or len(held):
        coming = np.arange(at, min(len(lengths), at + window - len(held)))
        at += len(coming)
        held = np.concatenate([held, coming])
        plan = best_fit(lengths[held], capacity)
        go = settled(plan, lengths[held], capacity)
        if at >= len(lengths):
            go[:] = True
        gone = plan.take(np.flatnonzero(go))
        plans.append(Plan(gone.offsets, held[gone.rows].astype(np.int32)))
        held = held[np.sort(plan.take(np.flatnonzero(~go)).rows)]
    return merged(plans)


def show(found: list[Compared], path: Path) -> None:
    """Print the table, and write it as JSON."""
    rows = [
        [
            one.packer,
            console.count(one.packs),
            f"{one.over_bound:+.3%}",
            f"{one.fill:.3%}",
            console.count(one.cut_documents),
            "" if one.imbalance is None else f"{one.imbalance:.3f}",
            f"{one.cpu_s * 1e3:.1f}",
            "" if one.peak_mb is None else f"{one.peak_mb:.1f}",
        ]
        for one in found
    ]
    header = ["packer", "packs", "over bound", "fill", "cut", f"cost max/mean, {RANKS} ranks", "CPU ms", "MB"]
    console.table("", header, rows)
    path.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")
    console.line("written", str(path))


def _documents(recipe: Recipe, codes: Dataset, snapshot: Snapshot) -> tuple[NDArray[np.int32], list[str]]:
    lengths: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    relation: list[str] = []
    column = {"conversation": "conversation_id", "speakers": "speakers"}[recipe.pack.related_by]
    for table in _composed(recipe, codes, snapshot):
        lengths.append(table["num_columns"].to_numpy().astype(np.int32))
        relation += [str(value) for value in table[column].to_pylist()]
    return np.concatenate(lengths), relation


def _composed(recipe: Recipe, codes: Dataset, snapshot: Snapshot) -> Iterator[Any]:
    compose = seeded_compose(recipe)
    for receipt in snapshot.receipts:
        for batch in codes.batches(receipt):
            yield compose(batch.filter(pc.equal(batch["split"], "train")))


def _imbalance(plan: Plan, lengths: NDArray[np.int32], dim: int) -> float | None:
    sums, squares = plan.sums(lengths).tolist(), plan.sums(lengths.astype(np.int64) ** 2).tolist()
    costs = np.array([step_cost(n, s, dim) for n, s in zip(sums, squares, strict=True)])
    costs = np.random.default_rng(0).permutation(costs)[: len(costs) // RANKS * RANKS].reshape(-1, RANKS)
    return float((costs.max(1) / costs.mean(1)).mean()) if costs.size else None


def _row(
    packer: str,
    packs: int,
    cut: int,
    imbalance: float | None,
    lengths: NDArray[np.int32],
    capacity: int,
    bound: int,
    cpu_s: float,
    peak_mb: float | None,
) -> Compared:
    columns = int(lengths.sum(dtype=np.int64))
    return Compared(
        packer=packer,
        packs=packs,
        over_bound=packs / max(1, bound) - 1,
        fill=columns / max(1, packs * capacity),
        cut_documents=cut,
        imbalance=imbalance,
        cpu_s=cpu_s,
        peak_mb=peak_mb,
    )


class _PeakMemory:
    """How far this process's memory rises from now on, where Linux tells."""

    def __init__(self) -> None:
        try:
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")
            self._before: float | None = self._mb("VmRSS")
        except OSError:
            self._before = None

    @staticmethod
    def _mb(name: str) -> float:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))

    def increase_mb(self) -> float | None:
        return None if self._before is None else max(0.0, self._mb("VmHWM") - self._before)
