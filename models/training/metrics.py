"""Metrics of every training step, as a file of JSON lines that survives kills. Free of torch."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


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


class MetricsFile:
    """One JSON line per step; lines of steps that a resumed run will repeat are dropped first."""

    def __init__(self, path: Path, keep_until: int) -> None:
        """Open the file, keeping the steps that the checkpoint covers."""
        kept = [record for record in read_metrics(path) if record.step <= keep_until]
        staged = path.with_name(f".{path.name}.{os.getpid()}")
        staged.write_text("".join(json.dumps(asdict(record)) + "\n" for record in kept))
        os.replace(staged, path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def append(self, record: StepRecord) -> None:
        """Append one step."""
        self._file.write(json.dumps(asdict(record)) + "\n")
        self._file.flush()


def read_metrics(path: Path) -> list[StepRecord]:
    """Return the steps of a metrics file, up to a line that a kill cut short."""
    records: list[StepRecord] = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                records.append(StepRecord(**json.loads(line)))
            except (json.JSONDecodeError, TypeError):
                break
    return records
