"""The training loop: plain PyTorch, without a scheduler; exact to resume, invariant to packing and ranks."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from models.config.groups import check_context, check_groups
from models.config.header import Header
from models.config.header import steps as complete
from models.config.options import Training
from models.config.schedule import decay_begins
from models.parallel.collectives import broadcast_from_first_rank
from models.parallel.context import make_context
from models.parallel.parts import PartWriters
from models.parallel.sharding import shard
from models.sequence.documents import GridSpec
from models.speech_lm.attention.backends import choose_backend
from models.speech_lm.compiled import compile_blocks
from models.speech_lm.ctc import check_ctc
from models.speech_lm.hearing.compress import stacked
from models.speech_lm.lora import train_only
from models.speech_lm.model import SpeechLM
from models.speech_lm.precision import precision_of, to_fp8, type_of
from models.training import checkpoint
from models.training.augment import Augment
from models.training.guard import MOST_BAD_STEPS, StepGuard
from models.training.loader import Loader, PackSource, StepPacks
from models.training.metrics import MetricsFile, StepRecord, ValidationRecord, best_steps, is_over
from models.training.mirror import Mirror
from models.training.optimizers import make_optimizers
from models.training.order import Stream
from models.training.step import Process, StepResult, TrainingState, run_step
from models.training.validation import Judge, Validator
from models.training.writer import CheckpointWriter


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where a training keeps its checkpoints and metrics."""

    folder: Path
    """Checkpoints, `metrics.jsonl` and `validation.jsonl`; every rank sees it, rank 0 writes."""
    header: Header
    """Written with every checkpoint."""
    url: str | None = None
    """fsspec URL that they are copied to during training, and fetched from where the folder lacks them: then the
    folder may be a machine's own."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a training calls."""

    on_step: Callable[[StepRecord], None] = lambda _: None
    """Called on rank 0 after each step."""
    on_validation: Callable[[ValidationRecord], None] = lambda _: None
    """Called on rank 0 after each validation."""
    on_checkpoint: Callable[[int], None] = lambda _: None
    """Called on every rank when a checkpoint is about to be written."""
    judge: Judge | None = None
    """Asked on every rank at each validation for its part of cpWER, where `config.validate_conversations` is set."""
    should_save: Callable[[], bool] = lambda: False
    """Asked before each step on every rank; where any returns true (a machine is about to be taken away), a checkpoint
    is written after the step, and training goes on."""


ALONE, NO_HOOKS = Process(), Hooks()


def train(
    model: SpeechLM,
    source: PackSource,
    grid: GridSpec,
    config: Training,
    *,
    seed: int,
    place: RunFolder,
    validation: PackSource | None = None,
    process: Process = ALONE,
    hooks: Hooks = NO_HOOKS,
) -> int:
    """Train from the newest checkpoint in a folder, or from the beginning; return the last step done.

    That is `config.steps`, or fewer where the validation loss has not improved for as long as `config.patience`.

    Args:
        model: initialized; its weights are replaced where there is a checkpoint.
        source: the packs.
        grid: what the integers in them mean.
        config: how to train.
        seed: root of the order of packs.
        place: where checkpoints and metrics go.
        validation: packs that are never trained on; their loss decides which checkpoints are best.
        process: this process among those that share a step's packs.
        hooks: what is called on the way.

    Raises:
        InputError: the ranks cannot be cut into the groups that are asked for, or the heads not dealt out to them.
        FloatingPointError: a step was bad and the policy is to stop, or 20 in a row were.
        ValueError: the mixture cannot be read, there is a patience but no validation, or the checkpoint to continue
            from was trained on other packs.
        OSError: a checkpoint cannot be written; earlier ones stay.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    if config.stream_weights and len(config.stream_weights) != grid.layout.num_streams:
        raise ValueError(f"train.stream_weights: the layout has {grid.layout.num_streams} streams")
    if validation is None and config.patience:
        raise ValueError("train.patience counts validations, but there are no validation packs")
    check_groups(config, process.world_size)
    check_context(config, model.shape)
    model.to(process.device).train()
    model.recompute = config.recompute
    loader = make_loader(source, grid, config, model.shape.dim, seed, process)
    if config.ctc_weight:
        check_ctc(stacked(batch, model.shape) for batch in loader.first(32))
    mirror = Mirror(place.folder, place.url) if place.url else None
    state, first = restore(model, config, place, process, mirror, digest=source.digest, seed=seed)
    validator = None if validation is None else Validator(validation, grid, config, process, hooks.judge)
    log = RunLog(place.folder, first, hooks, validates=validator is not None) if process.rank == 0 else None
    if mirror and first == 0 and process.rank == 0:
        mirror.send(0)
    step, bad, started = first, 0, time.monotonic()
    if is_over(state.validations, config.patience):
        return first
    writers = make_writers(config, process)
    with CheckpointWriter(place.folder, place.header, config, mirror, writers) as writer:
        for packs in loader.steps(first + 1, config.steps):
            step, waited = packs.step, time.monotonic() - started
            done = run_step(state, packs, config, process, should_save=hooks.should_save())
            bad = bad + 1 if done.fault else 0
            if done.fault:
                names = [source[index].pack_id for index in loader.indices(step)]
                if config.on_bad_step == "stop" or bad >= MOST_BAD_STEPS:
                    raise FloatingPointError(f"{done.fault} at step {step}, in packs {', '.join(names)}")
                if process.rank == 0:
                    writer.log_bad_step({"step": step, "fault": done.fault, "packs": names})
            record = _record(done, packs, process, seconds=time.monotonic() - started, waited=waited)
            started = time.monotonic()
            if log is not None:
                log.step(record)
            saves = step % config.checkpoint_every == 0 or step == decay_begins(config) or done.saves
            best = None if validator is None else best_steps(state.validations, config.keep_best)
            if validator is not None and validator.is_due(step):
                measured = validator(state, step)
                state.validations.append((step, measured.value(config.best_by)))
                if log is not None:
                    log.validation(measured)
                best = best_steps(state.validations, config.keep_best)
                saves = saves or step in best
                started = time.monotonic()
            ends = step == config.steps or is_over(state.validations, config.patience)
            if saves or ends:
                writes = process.rank == 0 if writers is None else writers.is_one
                copy = checkpoint.copy_state(model, state.optimizers, state.averages, process.rank) if writes else None
                hooks.on_checkpoint(step)
                if copy is not None:
                    writer.write(step, copy, _position(step, config, seed, source.digest, state), best)
            if ends:
                break
    return step


class RunLog:
    """What rank 0 writes and tells of steps and validations."""

    def __init__(self, folder: Path, keep_until: int, hooks: Hooks, *, validates: bool) -> None:
        """Open the files of a training's folder; what a resumed run will repeat is dropped."""
        self._hooks = hooks
        self._steps = MetricsFile(folder / "metrics.jsonl", StepRecord, keep_until)
        if validates:
            self._validations = MetricsFile(folder / "validation.jsonl", ValidationRecord, keep_until)

    def step(self, record: StepRecord) -> None:
        """Write a step."""
        self._steps.append(record)
        self._hooks.on_step(record)

    def validation(self, record: ValidationRecord) -> None:
        """Write a validation."""
        self._validations.append(record)
        self._hooks.on_validation(record)


def make_loader(source: PackSource, grid: GridSpec, config: Training, dim: int, seed: int, process: Process) -> Loader:
    """Return the loader of a rank: a position in the stream is step times packs_per_step, whatever the number of ranks.

    Raises:
        ValueError: the mixture cannot be read.
    """
    readers = process.readers(config)
    return Loader(
        source,
        Stream(source.components, seed, config.mixture, config.packs_per_step, config.steps),
        grid,
        config.packs_per_step,
        config.packs_per_pass,
        rank=readers.rank,
        world_size=readers.world_size,
        dim=dim,
        augment=Augment(config.hide_bands, config.hide_spans, config.shift_bands),
        seed=seed,
        equal_passes=config.shard == "full",
        pin=torch.device(process.device).type == "cuda",
    )


def restore(
    model: SpeechLM,
    config: Training,
    place: RunFolder,
    process: Process,
    mirror: Mirror | None,
    *,
    digest: str,
    seed: int,
) -> tuple[TrainingState, int]:
    """Load the newest checkpoint, or write the first one; return the state to continue from, and its step.

    Args:
        model: on its device; its weights are replaced where there is a checkpoint.
        config: how to train.
        place: where checkpoints are.
        process: this rank.
        mirror: of the folder, where there is a URL.
        digest: of the packs.
        seed: root of the order of packs.

    Raises:
        ValueError: the checkpoint was trained on other packs, or in another order; there is nothing to train in a part.
    """
    train_only(model, config.only)
    if mirror:
        mirror.fetch_newest()
    found = complete(place.folder)
    first = broadcast_from_first_rank(found[-1] if found else -1)  # another rank may have written while this one looked
    path = place.folder / f"step-{first:06d}"
    guard, validations = StepGuard(config.spike_factor), list[tuple[int, float]]()
    if process.rank == 0 and 0 not in found and (first < 0 or mirror is None):
        checkpoint.save(place.folder, 0, checkpoint.copy_state(model), place.header)
    if first >= 0:
        checkpoint.check_encoder(path)
        if first > 0:
            position = checkpoint.check_position(path, digest[:32], seed)
            guard.norms, validations = position["grad_norms"], position["validations"]
    device_type = torch.device(process.device).type
    dtype = type_of(precision_of(device_type, config.precision))
    if config.precision == "fp8":
        to_fp8(model.blocks, device_type)
    if config.shard == "full":
        shard(model, dtype, config.shard_size)
    if first >= 0:
        checkpoint.load_weights(path, model, raw=True)
    compile_blocks(model, config.compile)
    optimizers = make_optimizers(model, config)
    if first > 0:
        checkpoint.load_moments(path, model, optimizers)
    backend = choose_backend(device_type, config.attention, dtype, model.shape.head_dim)
    state = TrainingState(
        model, optimizers, guard, backend, validations=validations, context=make_context(config.context_size)
    )
    if config.ema_decay:
        kept = checkpoint.open_tensors(path) if first >= 0 else None
        state.averages = {
            name: kept.like(name, parameter) if kept and name in kept else parameter.detach().clone()
            for name, parameter in state.trained.items()
        }
    return state, max(first, 0)


def make_writers(config: Training, process: Process) -> PartWriters | None:
    """Return the ranks that write a part each of a checkpoint; None where rank 0 writes all of it."""
    if config.shard == "none" or process.world_size == 1:
        return None
    return PartWriters(config.shard_size or process.world_size)


def _position(step: int, config: Training, seed: int, digest: str, state: TrainingState) -> checkpoint.StreamPosition:
    return {
        "position": step * config.packs_per_step,
        "seed": seed,
        "packs": digest[:32],
        "grad_norms": state.guard.norms,
        "validations": list(state.validations),
    }


def _record(done: StepResult, packs: StepPacks, process: Process, *, seconds: float, waited: float) -> StepRecord:
    sums, counts = done.sums, done.counts
    return StepRecord(
        step=packs.step,
        loss=sums.total / max(sums.weight, 1e-8),
        text_loss=sums.text_total / max(sums.text_weight, 1e-8),
        audio_loss=sums.audio_total / max(sums.audio_weight, 1e-8),
        grad_norm=done.grad_norm,
        lr=done.lr,
        num_columns=int(sums.num_columns),
        num_documents=int(sums.num_documents),
        seconds=seconds,
        wait_seconds=waited,
        epoch=packs.epoch,
        num_frames=int(sums.num_frames),
        flops=sums.flops,
        skipped=done.fault is not None,
        ctc_loss=sums.ctc_total / max(counts.ctc_tokens, 1.0),
        ctc_share=counts.ctc_usable / max(counts.ctc_documents, 1.0),
        activity_loss=sums.activity_total / max(counts.activity_columns, 1.0),
        num_ranks=process.world_size,
    )
