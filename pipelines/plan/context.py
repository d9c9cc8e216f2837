"""The context of one run: its options, open connections, and what it has made so far."""

import fcntl
import json
import math
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.session import Session, connect
from models.config.secrets import masked
from models.config.values import OPTIONS, Checked, within
from operators.errors import InputError
from operators.store import storage
from operators.store.dataset import Dataset, Quarantined, Receipt, Snapshot
from pipelines.plan.output import Output
from pipelines.plan.preflight import check_cluster
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console
from pipelines.reporting.mlflow_client import warm
from pipelines.reporting.mlflow_runs import StageRun, Tracker


def resize_every_s() -> float:
    """Return the interval, in seconds, at which elastic training looks for more workers: HUBBUB_RESIZE_EVERY_S, or 60.

    Each change costs the steps since the last checkpoint.

    Raises:
        InputError: the variable is not a positive number.
    """
    text = os.environ.get("HUBBUB_RESIZE_EVERY_S", "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise InputError(f"HUBBUB_RESIZE_EVERY_S is {text!r}; it must be a positive number of seconds")
    return seconds


@dataclass(frozen=True, kw_only=True)
class RunOptions(Checked, section=OPTIONS, error=InputError):
    """How a recipe is run; none of it changes results."""

    output: Path
    """Folder for everything that is made; on a cluster, one that every node sees."""
    workers: int | None = field(default=None, metadata=within(1, 4096, "processes"))
    """Processes of a local Ray; one per core by default."""
    train_workers: int = field(default=1, metadata=within(1, 100_000))
    """Workers of Ray Train, which share a step's packs."""
    min_train_workers: int = field(default=0, metadata=within(0, 100_000))
    """Continue training with as few workers as this while nodes are missing; 0 waits for all."""
    ray_address: str | None = None
    """Cluster to join instead of a local Ray."""
    store: str = ""
    """URL of data sets and checkpoints (s3://bucket/runs/x), where not every node sees the output folder."""
    update: bool = False
    """Continue in an output folder that holds another recipe's results; what still fits is kept."""
    checkpoint: Path | None = None
    """Checkpoint to evaluate instead of the recipe's own."""
    truth: tuple[str, ...] = ()
    """Truth files to write: rttm, stm, seglst, ctm, sot, activity."""
    register: str | None = None
    """Name in MLflow's model registry that the evaluated checkpoint becomes a version of."""
    sweep: str = ""
    """Id of the MLflow run that is the parent of this one."""

    def rules(self) -> Iterator[str]:
        """Check the numbers of workers before anything is made."""
        if self.min_train_workers > self.train_workers:
            yield (
                f"--min-train-workers {self.min_train_workers} must be between 0 and --train-workers "
                f"{self.train_workers}"
            )
        resize_every_s()


@dataclass
class RunContext:
    """What one run has open, and what it has made so far."""

    recipe: Recipe
    options: RunOptions
    stack: ExitStack
    made_by: dict[str, Any]
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    quarantined: list[Quarantined] = field(default_factory=list)
    _session: Session | None = None
    _tracker: Tracker | None = None
    unrecorded: frozenset[str] = frozenset()
    """Stages that are done, but whose MLflow runs a kill left open."""
    did_work: bool = False
    training: dict[str, float] = field(default_factory=dict)
    """First and last losses, and the speed of training."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Metrics of the evaluation."""
    _fitting: str = ""
    """What the recipe left to the corpus, and what it became; empty before the corpus is indexed."""
    _warming: threading.Thread | None = None

    def fit(self, recipe: Recipe, said: str) -> None:
        """Continue with a recipe that has the numbers that it left to the corpus."""
        self.recipe, self._fitting = recipe, said
        if said:
            console.line("fit", said)
        if said and self._tracker is not None:
            self._tracker.fitted(recipe, said)

    def expect_work(self) -> None:
        """Load the tracking client in the background, so that no stage waits for it."""
        if self._warming is None and self._tracker is None:
            self._warming = threading.Thread(target=warm, args=(self.options.output,), daemon=True)
            self._warming.start()

    @property
    def output(self) -> Output:
        """The output folder and its store."""
        return Output(self.options.output, self.options.store)

    def session(self) -> Session:
        """Return Ray, started when it is first needed.

        Raises:
            InputError: there is no cluster at the address, or it cannot run the recipe.
        """
        if self._session is None:
            try:
                self._session = self.stack.enter_context(connect(self.options.ray_address, self.options.workers))
            except ConnectionError as error:
                raise InputError(f"{error}; start one, or leave out --ray-address for a local one") from error
            options = self.options
            check_cluster(
                self.recipe,
                self._session,
                options.output,
                self.output.store,
                options.min_train_workers or options.train_workers,
            )
        return self._session

    def tracker(self) -> Tracker:
        """Return the MLflow runs, begun when there is work to record."""
        if self._tracker is None:
            if self._warming is not None:
                self._warming.join()
            self._tracker = Tracker(self.recipe, self.options.output, self.options.sweep)
            if self._fitting:
                self._tracker.fitted(self.recipe, self._fitting)
        self.did_work = True
        return self._tracker

    def journal(self, stage: str, event: str) -> None:
        """Log when a stage begins and ends to journal.jsonl, for monitoring and the report."""
        with open(self.options.output / "journal.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), "stage": stage, "event": event}) + "\n")

    @contextmanager
    def stage(self, name: str) -> Iterator[StageRun]:
        """Record one stage in the journal and in MLflow."""
        self.journal(name, "start")
        try:
            with self.tracker().stage(name) as run:
                yield run
        except BaseException as error:
            with suppress(OSError):  # the disk may be what failed
                self.journal(name, "stopped" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        self.journal(name, "end")


def most_frequent(bad: Sequence[Quarantined]) -> str:
    """Return the three most frequent reasons of rows that cannot be used, with their numbers."""
    counted = Counter(_kind(one.reason) for one in bad)
    return "; ".join(f"{number:,} x {kind}" for kind, number in counted.most_common(3))


def refuse_above(bad: list[Quarantined], total: int, share: float, context: RunContext) -> None:
    """Stop if more rows are quarantined than the recipe allows, after writing all of them to quarantine.jsonl.

    Raises:
        InputError: they are; names the first row and its reason, the most frequent reasons, and the options.
    """
    if bad and len(bad) > share * total:
        context.quarantined += bad
        path = write_quarantine(context)
        first = f"{bad[0].row_id}: {bad[0].reason}"
        counted = Counter(_kind(one.reason) for one in bad)
        most = most_frequent(bad)
        cures = "".join(f"; {cure}" for part, cure in _CURES.items() if any(part in kind for kind in counted))
        start = f"{len(bad)} of {total} rows cannot be used, the first being {first}"
        start += f" (most often: {most})" if len(bad) > 1 else ""
        if len(bad) >= total:
            raise InputError(f"{start}; no row is left; all are in {path}{cures}")
        # Rounded up, and never above 1.
        enough = min(1.0, math.ceil(len(bad) / total * 1e4) / 1e4)
        raise InputError(
            f"{start}; all are in {path}. "
            f"fix or filter them (--corpus.where){cures}, or continue without them: --corpus.max-bad-share {enough:.4f}"
        )


_CURES = {
    "no speaker": "speakers may be found in paths (--corpus.speaker-from folder, prefix or a regular expression) or in "
    "a field of another name (--corpus.map speaker=NAME)",
    "no audio path": "the field of the path may have another name: --corpus.map audio=NAME",
    "text without letters": "the field of the text may have another name: --corpus.map text=NAME",
}
"""What may mend rows of a kind, by words of their reason."""


def _kind(reason: str) -> str:
    """Return a reason without what differs from row to row: file and line, paths, values and numbers.

    >>> _kind("m.jsonl:12: missing file /a/b.wav"), _kind("overlong: 61.2 s, more than 60 s")
    ('missing file ...', 'overlong: N s, more than N s')
    """
    shorter = re.sub(r"^[^ ]*:(row )?[0-9]+: ", "", reason)
    shorter = re.sub(r"(?<!\w)~?/[^ ;,]+|'[^']*'|\"[^\"]*\"", "...", shorter)
    return re.sub(r"\d+(\.\d+)?", "N", shorter)[:100]


def write_quarantine(context: RunContext) -> Path:
    """Write the rows that could not be used, and why, to quarantine.jsonl; return its path."""
    path = context.options.output / "quarantine.jsonl"
    rows = sorted({(q.row_id, q.reason) for q in context.quarantined})
    text = "".join(json.dumps({"row_id": i, "reason": reason}, ensure_ascii=False) + "\n" for i, reason in rows)
    storage.replace_bytes(masked(text).encode(), str(path))
    return path


def take_snapshot(context: RunContext, dataset: Dataset, receipts: list[Receipt], inputs: dict[str, str]) -> Snapshot:
    """Commit a data set's next snapshot, and keep it in the context."""
    context.snapshots[dataset.name] = dataset.snapshot(receipts, inputs, context.made_by)
    return context.snapshots[dataset.name]


def describe(snapshot: Snapshot) -> str:
    """Return how much a snapshot holds, in words."""
    parts = [f"{console.count(snapshot.num_rows)} rows in {len(snapshot.receipts)} partitions"]
    if audio_s := snapshot.total("audio_s"):
        parts.append(console.hours(audio_s))
    if room := snapshot.total("room"):
        parts.append(f"{console.count(snapshot.total('columns'))} columns, {snapshot.total('columns') / room:.2%} full")
    if bad := sum(len(receipt.quarantined) for receipt in snapshot.receipts):
        parts.append(f"{bad} quarantined (reasons in quarantine.jsonl)")
    return ", ".join(parts)


def report_stage(name: str, fresh: bool, text: str) -> None:
    """Print what a stage made, or that nothing had to be made."""
    console.line(name, f"{text}{' (fresh)' if fresh else ''}")


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; the system frees it when the holder dies.

    Raises:
        InputError: another run is at work there.
    """
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise InputError(
                f"another run (process {file.read().strip() or '?'}) is at work in {folder}; wait for it"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
