"""Writing checkpoints in the background of training, pruning them, and copying them to the store."""

import json
import statistics
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from models.config.header import Header
from models.config.header import steps as complete
from models.config.options import Training
from models.config.schedule import decay_begins
from models.parallel.parts import PartWriters
from models.training import checkpoint
from models.training.metrics import read_metrics
from models.training.mirror import Mirror


class CheckpointWriter:
    """Writes checkpoints while the next steps run; errors are raised at the next checkpoint, or at the end."""

    def __init__(
        self,
        folder: Path,
        header: Header,
        config: Training,
        mirror: Mirror | None = None,
        writers: PartWriters | None = None,
    ) -> None:
        """Start a thread that writes; `writers` are the ranks that hold a part each, None where rank 0 holds all."""
        self._folder, self._header, self._config, self._mirror = folder, header, config, mirror
        self._writers = writers
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        """Accept checkpoints until the block ends."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Wait for the checkpoint that is being written."""
        self._pool.shutdown(wait=True)
        if kind is None:
            self._wait()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def write(
        self,
        step: int,
        state: checkpoint.State,
        position: checkpoint.StreamPosition,
        best: Sequence[int] | None = None,
    ) -> None:
        """Write a copy of the state once the previous one is written.

        Args:
            step: steps done.
            state: what is written.
            position: in the stream of packs.
            best: steps to keep beside the newest; None for those before which the mean training loss was lowest.
        """
        self._wait()
        self._pending = self._pool.submit(self._write, step, state, position, best)

    def _write(
        self, step: int, state: checkpoint.State, position: checkpoint.StreamPosition, best: Sequence[int] | None
    ) -> None:
        if self._writers:
            checkpoint.save_part(self._folder, step, state, self._header, position, self._writers, self._mirror)
            if self._writers.rank:
                return
        else:
            checkpoint.save(self._folder, step, state, self._header, position)
        best = [*(self._best() if best is None else best), decay_begins(self._config)]  # a longer training begins there
        checkpoint.prune(self._folder, self._config.keep_checkpoints, best)
        if self._mirror:
            if not self._writers:
                self._mirror.send(step)
            kept = complete(self._folder)
            copied = [number for number in self._mirror.steps() if number]
            # This machine may not hold the best ones, which another wrote.
            needed = {*kept, *best}
            self._mirror.drop(number for number in copied[: -self._config.keep_checkpoints] if number not in needed)

    def _best(self) -> list[int]:
        """Return the steps before which the mean training loss was lowest: all that is known without validation."""
        if not self._config.keep_best:
            return []
        records = read_metrics(self._folder / "metrics.jsonl")
        every = self._config.checkpoint_every

        def before(step: int) -> float:
            return statistics.fmean(r.loss for r in records if step - every < r.step <= step)

        known = set(complete(self._folder))
        if self._writers and self._mirror:  # this machine may hold parts alone
            known |= set(self._mirror.steps())
        measured = [step for step in sorted(known)[1:] if any(r.step == step for r in records)]
        return sorted(measured, key=before)[: self._config.keep_best]

    def log_bad_step(self, fault: dict[str, object]) -> None:
        """Append a step whose update was left out to bad_steps.jsonl."""
        with open(self._folder / "bad_steps.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(fault) + "\n")
