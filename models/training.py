"""The training loop: plain PyTorch that knows no scheduler, exact to resume, invariant to packing and ranks.

Every rank sums the loss over its packs; gradients and weights are summed over ranks, and only then divided: the
gradient is that of the weighted mean over the whole global batch, however it was cut up.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist

from models import checkpoint
from models.attention import Backend, choose_backend
from models.augment import Augment
from models.batch import Batch, GridSpec
from models.loader import Loader, PackSource
from models.order import Stream
from models.speech_lm import SpeechLM


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained."""

    steps: int = 300
    """Optimizer steps."""
    packs_per_step: int = 4
    """Packs in the global batch, over all ranks."""
    packs_per_pass: int = 1
    """Packs in one forward pass; the rest is accumulated. Changes no result beyond rounding."""
    mixture: tuple[str, ...] = ()
    """How often packs of each component (task, or task-bucket) are taken: asr=3,continue=1; from a step on:
    500:asr=1. `grow` goes from short buckets to long ones. All in proportion to their number by default."""
    hide_bands: int = 0
    """Bands of prompt audio hidden, each of up to a fifth of the codebooks (SpecAugment)."""
    hide_spans: int = 0
    """Stretches of prompt audio hidden, each of up to a tenth of it."""
    shift_bands: int = 0
    """Codebooks by which prompt audio is moved up or down, at most."""
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """What to do about a shard that is missing or altered: stop and name it, or say so and train without it."""
    lr: float = 2e-3
    """Peak learning rate."""
    min_lr_share: float = 0.1
    """Last learning rate, as a share of the peak."""
    warmup_steps: int = 30
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """Cosine decay, or warmup-stable-decay with a linear decay over the last fifth."""
    weight_decay: float = 0.01
    """AdamW's, on matrices only."""
    beta1: float = 0.9
    """AdamW's first-moment decay."""
    beta2: float = 0.98
    """AdamW's second-moment decay."""
    clip_norm: float = 1.0
    """Norm that gradients are clipped to."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept, beside the untrained one."""
    attention: Backend = "auto"
    """Attention backend; auto takes the best that runs here."""
    num_threads: int = 0
    """CPU threads of a worker; 0 takes what the worker is given."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.steps, self.packs_per_step, self.packs_per_pass, self.checkpoint_every, self.keep_checkpoints) < 1:
            raise ValueError("train: steps, packs and checkpoints are counted from 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError("train.lr must be positive")


@dataclass(frozen=True)
class StepRecord:
    """What one step was like."""

    step: int
    loss: float
    text_loss: float
    audio_loss: float
    grad_norm: float
    lr: float
    num_columns: int
    num_documents: int
    seconds: float
    wait_seconds: float = 0.0
    """Of them, waiting for packs."""
    epoch: int = 0
    """Above 0, packs come again."""


def learning_rate(step: int, config: Training) -> float:
    """Return the rate of a step, counted from 1."""
    if step <= config.warmup_steps:
        return config.lr * step / max(1, config.warmup_steps)
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = min(1.0, (1.0 - progress) / 0.2) if config.schedule == "wsd" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.min_lr_share + (1.0 - config.min_lr_share) * share)


def make_optimizer(model: SpeechLM, config: Training) -> torch.optim.AdamW:
    """Return fused AdamW with decay on matrices only."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def sum_over_ranks(tensors: list[torch.Tensor]) -> None:
    """Replace tensors by their sums over all ranks, by one collective; nothing to do for a single rank."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return
    flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def accumulate(model: SpeechLM, batches: Iterable[Batch], backend: Backend, device: torch.device) -> torch.Tensor:
    """Add the gradients of the summed loss of some batches; return the sums.

    Returns:
        float64 (8,): total, weight, text total, text weight, audio total, audio weight, columns, documents.
    """
    sums = torch.zeros(8, dtype=torch.float64)
    for batch in batches:
        loss = model.loss(batch.to(device), backend)
        loss.total.backward()  # type: ignore[no-untyped-call]
        parts = (
            loss.total, loss.weight, loss.text_total, loss.text_weight, loss.audio_total, loss.audio_weight,
        )  # fmt: skip
        sums[:6] += torch.stack([part.detach() for part in parts]).double().cpu()
        sums[6:] += torch.tensor([len(batch.text), len(batch.boundaries) - 1], dtype=torch.float64)
    return sums


def train(
    model: SpeechLM,
    source: PackSource,
    grid: GridSpec,
    config: Training,
    *,
    seed: int,
    folder: Path,
    header: checkpoint.Header,
    rank: int = 0,
    world_size: int = 1,
    device: str = "cpu",
    on_step: Callable[[StepRecord], None] = lambda _: None,
    on_checkpoint: Callable[[int], None] = lambda _: None,
) -> None:
    """Train from the newest checkpoint in a folder, or from the beginning, to the last step.

    Args:
        model: initialized; its weights are replaced where there is a checkpoint.
        source: the packs.
        grid: what the integers in them mean.
        config: how to train.
        seed: root of the order of packs.
        folder: where checkpoints and `metrics.jsonl` go; every rank sees it, rank 0 writes.
        header: written with every checkpoint.
        rank: this process's place among `world_size`.
        world_size: processes that share a step's packs.
        device: where the model runs.
        on_step: called on rank 0 after each step.
        on_checkpoint: called on every rank after each checkpoint.

    Raises:
        FloatingPointError: the loss is NaN or infinite; the message names the packs.
        ValueError: the mixture cannot be read, or the checkpoint to go on from has seen other packs.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    model.to(device)
    optimizer = make_optimizer(model, config)
    backend = choose_backend(torch.device(device).type, config.attention)
    stream = Stream(source.components, seed, config.mixture, config.packs_per_step, config.steps)
    loader = Loader(
        source,
        stream,
        grid,
        config.packs_per_step,
        config.packs_per_pass,
        rank=rank,
        world_size=world_size,
        dim=model.shape.dim,
        augment=Augment(config.hide_bands, config.hide_spans, config.shift_bands),
        seed=seed,
        pin=torch.device(device).type == "cuda",
    )

    # 1. Where were we?
    done = checkpoint.steps(folder)
    first = done[-1] if done else 0
    if done:
        path = folder / f"step-{first:06d}"
        saved, _, _ = checkpoint.load(path, device)
        model.load_state_dict(saved.state_dict())
        if first:
            checkpoint.load_optimizer(path, model, optimizer)
            checkpoint.check_place(path, source.digest[:32], seed)
    elif rank == 0:
        checkpoint.save(folder, 0, model, header)
    metrics = MetricsFile(folder / "metrics.jsonl", keep_until=first) if rank == 0 else None

    # 2. Step by step. A position in the stream is step x packs_per_step, whatever the number of ranks.
    started = time.monotonic()
    for packs in loader.steps(first + 1, config.steps):
        step, waited = packs.step, time.monotonic() - started
        optimizer.zero_grad(set_to_none=False)
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        sums = accumulate(model, packs.batches, backend, torch.device(device))
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        on_device = sums.to(device=device, dtype=torch.float32)
        sum_over_ranks([*gradients, on_device])
        if world_size > 1:
            sums = on_device.double().cpu()
        total, weight, text_total, text_weight, audio_total, audio_weight, columns, documents = sums.tolist()
        if not math.isfinite(total):
            names = ", ".join(source[index].pack_id for index in loader.indices(step))
            raise FloatingPointError(f"the loss is {total} at step {step}, in packs {names}")

        # 3. One division, one clip, one update.
        torch._foreach_div_(gradients, max(weight, 1e-8))
        grad_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm))
        rate = learning_rate(step, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()

        # 4. Say what happened, and keep it.
        record = StepRecord(
            step=step,
            loss=total / max(weight, 1e-8),
            text_loss=text_total / max(text_weight, 1e-8),
            audio_loss=audio_total / max(audio_weight, 1e-8),
            grad_norm=grad_norm,
            lr=rate,
            num_columns=int(columns),
            num_documents=int(documents),
            seconds=time.monotonic() - started,
            wait_seconds=waited,
            epoch=packs.epoch,
        )
        started = time.monotonic()
        if metrics is not None:
            metrics.append(record)
            on_step(record)
        if step % config.checkpoint_every == 0 or step == config.steps:
            if rank == 0:
                place: checkpoint.Place = {
                    "position": step * config.packs_per_step,
                    "seed": seed,
                    "packs": source.digest[:32],
                }
                checkpoint.save(folder, step, model, header, optimizer, place)
                checkpoint.prune(folder, config.keep_checkpoints)
            on_checkpoint(step)


class MetricsFile:
    """One JSON line a step; lines of steps that a resumed run makes again are dropped first."""

    def __init__(self, path: Path, keep_until: int) -> None:
        """Open the file, keeping the steps that the checkpoint covers."""
        kept = [record for record in read_metrics(path) if record.step <= keep_until]
        staged = path.with_name(f".{path.name}.{os.getpid()}")
        staged.write_text("".join(json.dumps(asdict(record)) + "\n" for record in kept))
        os.replace(staged, path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def append(self, record: StepRecord) -> None:
        """Write one step."""
        self._file.write(json.dumps(asdict(record)) + "\n")
        self._file.flush()


def read_metrics(path: Path) -> list[StepRecord]:
    """Return the steps of a metrics file; a line cut short by a kill ends it."""
    records: list[StepRecord] = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                records.append(StepRecord(**json.loads(line)))
            except (json.JSONDecodeError, TypeError):
                break
    return records
