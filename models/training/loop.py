"""The training loop: plain PyTorch that knows no scheduler, exact to resume, invariant to packing and ranks.

Every rank sums the loss over its packs; gradients and weights are summed over ranks, and only then divided: the
gradient is that of the weighted mean over the whole global batch, however it was cut up.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from models.config.header import Header
from models.config.header import steps as complete
from models.config.options import Backend, Training
from models.sequence.batch import Batch
from models.sequence.documents import GridSpec
from models.speech_lm.attention import choose_backend
from models.speech_lm.flops import training_flops
from models.speech_lm.model import SpeechLM
from models.training import checkpoint
from models.training.augment import Augment
from models.training.distributed import broadcast_from_first_rank, local_value, shard, shard_like, sum_over_ranks
from models.training.loader import Loader, PackSource
from models.training.metrics import MetricsFile, StepRecord, read_metrics
from models.training.mirror import Mirror
from models.training.order import Stream


def learning_rate(step: int, config: Training) -> float:
    """Return the rate of a step, counted from 1."""
    if step <= config.warmup_steps:
        return config.lr * step / max(1, config.warmup_steps)
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = min(1.0, (1.0 - progress) / 0.2) if config.schedule == "wsd" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.min_lr_share + (1.0 - config.min_lr_share) * share)


def make_optimizers(model: SpeechLM, config: Training) -> list[torch.optim.Optimizer]:
    """Return fused AdamW with decay on matrices only, and Muon for the blocks' matrices where asked; none for frozen.

    Source: Jordan et al. 2024, "Muon", kellerjordan.github.io/posts/muon; steps as large as AdamW's: Liu et al. 2025,
    "Muon is Scalable for LLM Training", arXiv:2502.16982, section 2.2.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    inner = [p for name, p in trained.items() if name.startswith("blocks.") and p.dim() == 2]
    if config.optimizer == "adamw":
        inner = []
    apart = {id(p) for p in inner}
    rest = [p for p in trained.values() if id(p) not in apart]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)
    ]
    if inner:
        made.append(
            torch.optim.Muon(inner, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return made


def compile_blocks(model: SpeechLM) -> None:
    """Compile what is before and behind each block's attention, which stays outside so that no length compiles anew."""
    for block in model.blocks:
        for name in ("begin", "finish"):
            setattr(block, name, torch.compile(getattr(block, name), dynamic=True))


_SUMS = 10


def accumulate(
    model: SpeechLM, batches: Iterable[Batch], backend: Backend, device: torch.device, config: Training
) -> torch.Tensor:
    """Add the gradients of the summed loss of some batches; return the sums.

    Returns:
        float64 (10,): total, weight, text total, text weight, audio total, audio weight, columns, documents, frames,
        floating-point operations.
    """
    sums = torch.zeros(_SUMS, dtype=torch.float64)
    streams = torch.tensor(config.stream_weights, device=device) if config.stream_weights else None
    for masked in batches:
        batch = masked if config.document_mask else masked.unmasked()
        if config.tag_weight != 1.0:
            batch = batch.with_tag_weight(config.tag_weight)
        known = model.vocabulary.text_size
        if len(batch.text) and int(batch.text.max()) >= known:  # here, for a GPU would only say that it stopped
            raise ValueError(
                f"a text token is {int(batch.text.max())}, but the model knows {known}: another tokenizer?"
            )
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            loss = model(batch.to(device), backend, config.z_loss, streams, config.ctc_weight, config.activity_weight)
        loss.total.backward()
        parts = (
            loss.total, loss.weight, loss.text_total, loss.text_weight, loss.audio_total, loss.audio_weight,
        )  # fmt: skip
        sums[:6] += torch.stack([part.detach() for part in parts]).double().cpu()
        flops = training_flops(model.shape, model.vocabulary, batch)
        counts = [len(batch.text), len(batch.boundaries) - 1, batch.num_frames, flops]
        sums[6:] += torch.tensor(counts, dtype=torch.float64)
    return sums


@dataclass
class StepGuard:
    """Tells a bad step: a loss or gradient that is no number, or one far above those before."""

    factor: float
    norms: list[float]

    WINDOW = 64

    def fault(self, loss: float, norm: float) -> str | None:
        """Say what is wrong with a step; remember its gradient's norm where nothing is."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the norm of the gradient is {norm}"
        if self.factor and len(self.norms) >= self.WINDOW // 4:
            usual = statistics.median(self.norms)
            if norm > self.factor * usual:
                return f"the norm of the gradient is {norm:.3g}, usually {usual:.3g}"
        self.norms = [*self.norms, norm][-self.WINDOW :]
        return None


def train(
    model: SpeechLM,
    source: PackSource,
    grid: GridSpec,
    config: Training,
    *,
    seed: int,
    folder: Path,
    header: Header,
    rank: int = 0,
    world_size: int = 1,
    device: str = "cpu",
    on_step: Callable[[StepRecord], None] = lambda _: None,
    on_checkpoint: Callable[[int], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    url: str | None = None,
) -> int:
    """Train from the newest checkpoint in a folder, or from the beginning; return the last step done.

    Args:
        model: initialized; its weights are replaced where there is a checkpoint.
        source: the packs.
        grid: what the integers in them mean.
        config: how to train.
        seed: root of the order of packs.
        folder: where checkpoints and `metrics.jsonl` go; every rank sees it, rank 0 writes.
        url: fsspec URL that they are copied to beside training, and taken from where the folder lacks them: then
            the folder may be a machine's own.
        header: written with every checkpoint.
        rank: this process's place among `world_size`.
        world_size: processes that share a step's packs.
        device: where the model runs.
        on_step: called on rank 0 after each step.
        on_checkpoint: called on every rank when a checkpoint is about to be written.
        should_stop: asked after each step on every rank; where any says so (the machine is to be taken away), a
            checkpoint is written and training ends, to go on later.

    Raises:
        FloatingPointError: a step was bad, and the policy is to stop; or 20 were, one behind the other.
        ValueError: the mixture cannot be read, or the checkpoint to go on from has seen other packs.
        OSError: a checkpoint cannot be written; those before it stay.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    if config.stream_weights and len(config.stream_weights) != grid.layout.num_streams:
        raise ValueError(f"train.stream_weights: the layout has {grid.layout.num_streams} streams")
    model.to(device).train()
    model.recompute = config.recompute
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
    mirror = Mirror(folder, url) if url else None
    if mirror:
        mirror.fetch_newest()
    there = complete(folder)
    first = broadcast_from_first_rank(
        there[-1] if there else -1
    )  # which may have been written while other ranks looked
    path = folder / f"step-{first:06d}"
    norms: list[float] = []
    averages: dict[str, torch.Tensor] = {}
    if first >= 0:
        model.load_state_dict(checkpoint.load(path, device, raw=True)[0].state_dict())
        averages = checkpoint.load(path, device)[0].state_dict()
        if first > 0:
            norms = checkpoint.check_position(path, source.digest[:32], seed)
    elif rank == 0:
        checkpoint.save(folder, 0, checkpoint.copy_state(model), header)
    first = max(first, 0)
    if config.shard == "full":
        shard(model, config.precision)
    if config.compile:
        compile_blocks(model)
    optimizers = make_optimizers(model, config)
    if first:
        checkpoint.load_moments(path, model, optimizers)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    mean = {
        name: shard_like(averages[name], parameter) if name in averages else parameter.detach().clone()
        for name, parameter in (trained.items() if config.ema_decay else ())
    }
    metrics = MetricsFile(folder / "metrics.jsonl", keep_until=first) if rank == 0 else None
    guard, writer = StepGuard(config.spike_factor, norms), Writer(folder, header, config, mirror)
    if mirror and first == 0 and rank == 0:
        mirror.send(0)

    # 2. Step by step. A position in the stream is step x packs_per_step, whatever the number of ranks.
    started, step, bad = time.monotonic(), first, 0
    with writer:
        for packs in loader.steps(first + 1, config.steps):
            step, waited = packs.step, time.monotonic() - started
            model.zero_grad(set_to_none=False)
            for parameter in trained.values():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            sums = accumulate(model, packs.batches, backend, torch.device(device), config)
            gradients = [parameter.grad for parameter in trained.values() if parameter.grad is not None]
            ends = torch.tensor([float(should_stop())], dtype=torch.float64)
            on_device = torch.cat((sums, ends)).to(device=device, dtype=torch.float32)
            sum_over_ranks([on_device] if config.shard == "full" else [*gradients, on_device])
            if world_size > 1:
                sums = on_device.double().cpu()[:_SUMS]
            stops = bool(on_device[_SUMS])
            total, weight, text_total, text_weight, audio_total, audio_weight, *counts, flops = sums.tolist()

            # 3. One division, one clip, one update: unless the step is bad.
            torch._foreach_div_(gradients, max(weight, 1e-8))
            grad_norm = local_value(torch.nn.utils.clip_grad_norm_(trained.values(), config.clip_norm))
            rate = learning_rate(step, config)
            fault = guard.fault(total, grad_norm)
            bad = bad + 1 if fault else 0
            if fault:
                names = [source[index].pack_id for index in loader.indices(step)]
                if config.on_bad_step == "stop" or bad >= 20:
                    raise FloatingPointError(f"{fault} at step {step}, in packs {', '.join(names)}")
                writer.note(rank, {"step": step, "fault": fault, "packs": names})
            else:
                for optimizer in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    optimizer.step()
                if mean:
                    torch._foreach_lerp_(
                        list(mean.values()), [p.detach() for p in trained.values()], 1.0 - config.ema_decay
                    )

            # 4. Say what happened, and keep it.
            columns, documents, frames = map(int, counts)
            record = StepRecord(
                step=step,
                loss=total / max(weight, 1e-8),
                text_loss=text_total / max(text_weight, 1e-8),
                audio_loss=audio_total / max(audio_weight, 1e-8),
                grad_norm=grad_norm,
                lr=rate,
                num_columns=columns,
                num_documents=documents,
                seconds=time.monotonic() - started,
                wait_seconds=waited,
                epoch=packs.epoch,
                num_frames=frames,
                flops=flops,
                skipped=fault is not None,
                num_ranks=world_size,
            )
            started = time.monotonic()
            if metrics is not None:
                metrics.append(record)
                on_step(record)
            if step % config.checkpoint_every == 0 or step == config.steps or stops:
                state = checkpoint.copy_state(model, optimizers, mean)  # of all ranks, where each holds a part
                on_checkpoint(step)
                if rank == 0:
                    place: checkpoint.StreamPosition = {
                        "position": step * config.packs_per_step,
                        "seed": seed,
                        "packs": source.digest[:32],
                        "grad_norms": guard.norms,
                    }
                    writer.write(step, state, place)
                if stops:
                    break
    return step


class Writer:
    """Writes checkpoints beside the steps that follow; what goes wrong is raised at the next one, or at the end."""

    def __init__(self, folder: Path, header: Header, config: Training, mirror: Mirror | None = None) -> None:
        """Begin with nothing to wait for."""
        self._folder, self._header, self._config, self._mirror = folder, header, config, mirror
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        """Write until the block ends."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Wait for what is being written."""
        self._pool.shutdown(wait=True)
        if kind is None:
            self._wait()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def write(self, step: int, state: checkpoint.State, place: checkpoint.StreamPosition) -> None:
        """Write a copy of the state when the one before is written."""
        self._wait()
        self._pending = self._pool.submit(self._write, step, state, place)

    def _write(self, step: int, state: checkpoint.State, place: checkpoint.StreamPosition) -> None:
        checkpoint.save(self._folder, step, state, self._header, place)
        checkpoint.prune(self._folder, self._config.keep_checkpoints, self._best())
        if self._mirror:
            self._mirror.send(step)
            here = complete(self._folder)
            there = [one for one in self._mirror.steps() if one]
            self._mirror.drop(one for one in there[: -self._config.keep_checkpoints] if one not in here)

    def _best(self) -> list[int]:
        """Return the steps before which the mean loss was lowest."""
        if not self._config.keep_best:
            return []
        records = read_metrics(self._folder / "metrics.jsonl")
        every = self._config.checkpoint_every

        def before(step: int) -> float:
            return statistics.fmean(r.loss for r in records if step - every < r.step <= step)

        there = [step for step in complete(self._folder)[1:] if any(r.step == step for r in records)]
        return sorted(there, key=before)[: self._config.keep_best]

    def note(self, rank: int, fault: dict[str, object]) -> None:
        """Write down a step that was left out."""
        if rank == 0:
            with open(self._folder / "bad_steps.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(fault) + "\n")
