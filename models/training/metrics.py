"""Metrics of training steps and validations, as files of JSON lines that survive kills. Free of torch."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

from models.config.errors import InputError
from models.config.header import POSITION
from models.config.intact import unsealed


@dataclass(frozen=True)
class StepRecord:
    """Metrics of one training step."""

    step: int
    loss: float
    """What is minimized: the mean over cells, with the auxiliary losses and the z-loss."""
    text_loss: float
    """Mean cross-entropy of text cells that say more than that audio goes on, with the z-loss."""
    audio_loss: float
    """Mean cross-entropy of audio cells, with the z-loss."""
    grad_norm: float
    lr: float
    num_columns: int
    num_documents: int
    seconds: float
    wait_seconds: float = 0.0
    """Part of `seconds` spent waiting for packs."""
    epoch: int = 0
    """Times that the step's first pack was used before."""
    num_frames: int = 0
    """Frames of audio in the documents."""
    flops: float = 0.0
    """Floating-point operations, as `models.speech_lm.flops` counts them."""
    skipped: bool = False
    """Whether the step was bad and its update left out."""
    ctc_loss: float = 0.0
    """CTC loss a token, without its weight."""
    ctc_share: float = 0.0
    """Documents that CTC could use, of those with audio in the prompt and text to predict."""
    activity_loss: float = 0.0
    """Loss on who talks, a column of prompt audio, without its weight."""
    num_ranks: int = 1
    """Workers that shared the step's packs."""


@dataclass(frozen=True)
class ValidationRecord:
    """Losses on the validation packs after a step, means over their cells as in a step's metrics."""

    step: int
    loss: float
    text_loss: float
    audio_loss: float
    components: dict[str, float]
    """Loss of each component of the packs: a task, or a task of one length bucket."""
    seconds: float
    cpwer: float | None = None
    """Of a few conversations, where they are transcribed."""

    def values(self) -> dict[str, float]:
        """Return the losses by the names of curves: `validation.loss`, `validation.loss.<component>` ..."""
        losses = {name: getattr(self, name) for name in ("loss", "text_loss", "audio_loss", "seconds")}
        parts = {f"loss.{name}": loss for name, loss in self.components.items()}
        rates = {} if self.cpwer is None else {"cpwer": self.cpwer}
        return {f"validation.{name}": value for name, value in {**losses, **rates, **parts}.items()}

    def value(self, best_by: str) -> float:
        """Return what decides which checkpoints are best: `loss`, or `cpwer`."""
        found = self.cpwer if best_by == "cpwer" else self.loss
        return math.nan if found is None else found


Record = TypeVar("Record", StepRecord, ValidationRecord)


class MetricsFile(Generic[Record]):
    """One JSON line per record; lines of steps that a resumed run will repeat are dropped first."""

    def __init__(self, path: Path, kind: type[Record], keep_until: int) -> None:
        """Open the file, keeping the steps that the checkpoint covers."""
        kept = [record for record in read_records(path, kind) if record.step <= keep_until]
        staged = path.with_name(f".{path.name}.{os.getpid()}")
        staged.write_text("".join(json.dumps(asdict(record)) + "\n" for record in kept))
        os.replace(staged, path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def append(self, record: Record) -> None:
        """Append one record."""
        self._file.write(json.dumps(asdict(record)) + "\n")
        self._file.flush()


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """Return the records of a file, up to a line that a kill cut short."""
    records: list[Record] = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                records.append(kind(**json.loads(line)))
            except (json.JSONDecodeError, TypeError):
                break
    return records


def read_metrics(path: Path) -> list[StepRecord]:
    """Return the steps of a metrics file."""
    return read_records(path, StepRecord)


def validations_in(position: bytes, name: str = POSITION) -> list[tuple[int, float]]:
    """Return step and loss of each validation that a checkpoint's position (`models.config.header.POSITION`) holds.

    Raises:
        InputError: it is damaged.
    """
    remedy = "remove that checkpoint, and run again to train on from the one before"
    place = unsealed(position, name, remedy)
    try:
        return [(step, loss) for step, loss in place.get("validations", [])]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is damaged: {error}; {remedy}") from error


def best_steps(validations: Sequence[tuple[int, float]], number: int) -> list[int]:
    """Return the steps with the lowest validation losses, lowest first, and of equal ones the earlier first.

    >>> best_steps([(100, 3.0), (200, 2.0), (300, 2.5), (400, 2.0)], 2)
    [200, 400]
    """

    def rank(one: tuple[int, float]) -> tuple[float, int]:
        return (one[1] if math.isfinite(one[1]) else math.inf, one[0])

    return [step for step, _ in sorted(validations, key=rank)[:number]]


def is_over(validations: Sequence[tuple[int, float]], patience: int) -> bool:
    """Return whether the loss was not lower than ever before in as many of the last validations as the patience; 0: no.

    >>> [is_over([(1, 3.0), (2, 2.0), (3, 2.5), (4, 2.0)], patience) for patience in (0, 2, 3)]
    [False, True, False]
    """
    if not (patience and validations):
        return False
    (best,) = best_steps(validations, 1)
    return sum(step > best for step, _ in validations) >= patience
