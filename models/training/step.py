"""One optimizer step: forward and backward over a rank's batches, sums over ranks, one division, one update.

Every rank sums the loss over its packs; gradients and weights are summed over ranks, and only then divided: the
gradient is that of the weighted mean over the whole global batch, however it was cut up.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from models.config.options import Backend, Training
from models.config.schedule import learning_rate
from models.parallel.collectives import has_others, sum_over_ranks
from models.parallel.context import ContextGroup
from models.parallel.overlap import OverlappedSums
from models.parallel.sharding import first_row, whole
from models.sequence.batch import Batch
from models.speech_lm.activity import talking
from models.speech_lm.compiled import in_a_bucket
from models.speech_lm.ctc import ctc_targets
from models.speech_lm.flops import training_flops
from models.speech_lm.hearing.compress import stacked
from models.speech_lm.model import Loss, SpeechLM
from models.speech_lm.precision import computing
from models.training.guard import StepGuard
from models.training.loader import StepPacks


@dataclass(frozen=True, kw_only=True)
class Process:
    """One of the processes that share a step's packs."""

    rank: int = 0
    """Its place among them."""
    world_size: int = 1
    """Their number."""
    device: str = "cpu"
    """Where its model runs."""

    def readers(self, config: Training) -> "Process":
        """Return this process among the groups that read packs: those of a context group read the same ones."""
        size = config.context_size
        return replace(self, rank=self.rank // size, world_size=self.world_size // size)


@dataclass(frozen=True)
class StepSums:
    """Sums over all cells, columns and documents of a step: losses before division, their weights, and counts."""

    total: float
    weight: float
    text_total: float
    text_weight: float
    audio_total: float
    audio_weight: float
    ctc_total: float
    activity_total: float
    num_columns: float
    num_documents: float
    num_frames: float
    flops: float

    NUMBER = 12


NUM_LOSS_PARTS = 8
"""Of `StepSums`: the first ones, which a device computes; the others are counted on the host."""


@dataclass(frozen=True)
class AuxiliaryCounts:
    """What the auxiliary losses of a step are divided by, over all ranks, and the documents that CTC can use."""

    weight: float = 0.0
    """Sum of the weights of text and audio cells."""
    ctc_tokens: float = 0.0
    ctc_usable: float = 0.0
    """Documents whose text fits into their columns ..."""
    ctc_documents: float = 0.0
    """... of those that have audio in the prompt and text to predict."""
    activity_columns: float = 0.0

    NUMBER = 5

    def weights(self, config: Training) -> tuple[float, float]:
        """Return the factors of the summed CTC and activity losses: divided by `weight`, they are means times weights.

        So an auxiliary weight means the same whatever the group and layout, and however much text there is.
        """
        return (
            config.ctc_weight * self.weight / max(self.ctc_tokens, 1.0),
            config.activity_weight * self.weight / max(self.activity_columns, 1.0),
        )


@dataclass(frozen=True)
class StepResult:
    """What one step did."""

    sums: StepSums
    grad_norm: float
    lr: float
    fault: str | None
    """What was wrong with it, if its update was left out."""
    saves: bool
    """Whether any rank was asked for a checkpoint after it."""
    counts: AuxiliaryCounts


@dataclass
class TrainingState:
    """Everything that a step changes."""

    model: SpeechLM
    optimizers: list[torch.optim.Optimizer]
    guard: StepGuard
    backend: Backend
    averages: dict[str, torch.Tensor] = field(default_factory=dict)
    """Running mean of the trained parameters by name; empty where none is kept."""
    validations: list[tuple[int, float]] = field(default_factory=list)
    """Step and loss of each validation so far."""
    context: ContextGroup | None = None
    """The ranks that split columns with this one, where there are any."""

    def __post_init__(self) -> None:
        """Collect the trained parameters."""
        self.trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}


def accumulate(
    model: SpeechLM,
    batches: Iterable[Batch],
    backend: Backend,
    device: torch.device,
    config: Training,
    scale: float = 1.0,
    auxiliary: tuple[float, float] = (0.0, 0.0),
    context: ContextGroup | None = None,
) -> torch.Tensor:
    """Add the gradients of the summed loss of some batches; return the sums, float64 (12,), as `StepSums` names them.

    The sums stay on the device: reading a value would let a GPU wait for the next pass to be launched.

    Args:
        model: whose gradients are added to.
        batches: of this rank, as `weighted` returns them.
        backend: of attention.
        device: of the model.
        config: how to train.
        scale: of the gradients; 0 makes the passes without adding anything.
        auxiliary: factors of the summed CTC and activity losses.
        context: the ranks that split the columns with this one; its first one counts columns and documents.

    Raises:
        ValueError: a text token is not in the model's vocabulary.
    """
    sums = torch.zeros(StepSums.NUMBER, dtype=torch.float64, device=device)
    counts = torch.zeros(StepSums.NUMBER - NUM_LOSS_PARTS, dtype=torch.float64)
    for batch in batches:
        loss = batch_loss(model, batch, backend, device, config, auxiliary, context)
        (loss.total if scale == 1.0 else loss.total * scale).backward()  # type: ignore[no-untyped-call]
        sums[:NUM_LOSS_PARTS] += loss_parts(loss)
        flops = training_flops(model.shape, model.vocabulary, loss.seen or batch)
        if context is None or context.rank == 0:
            counts += torch.tensor([len(batch.text), len(batch.boundaries) - 1, batch.num_frames, flops])
    sums[NUM_LOSS_PARTS:] = counts.to(device, non_blocking=True)
    return sums


def batch_loss(
    model: SpeechLM,
    batch: Batch,
    backend: Backend,
    device: torch.device,
    config: Training,
    auxiliary: tuple[float, float] = (0.0, 0.0),
    context: ContextGroup | None = None,
) -> Loss:
    """Return the summed loss of a batch, as `weighted` returns it; of this rank's columns where they are split.

    Raises:
        ValueError: a text token is not in the model's vocabulary.
    """
    if not batch.text.is_cuda:
        model.check(batch)
    streams = torch.tensor(config.stream_weights, device=device) if config.stream_weights else None
    part = batch = in_a_bucket(batch, config.compile)
    if context is not None:
        part = context.part(batch)
    spread = None if context is None else partial(context.spread, num_columns=part.boundaries[-1])
    with computing(device.type, config.precision):
        loss: Loss = model(
            part.to(device), backend, config.z_loss, streams, *auxiliary, spread=spread, ctc_at=config.ctc_at
        )
    return loss


def loss_parts(loss: Loss) -> torch.Tensor:
    """Return losses and weights of a batch, as `StepSums` begins; float64 (8,), on the model's device."""
    parts = (
        *(loss.total, loss.weight, loss.text_total, loss.text_weight, loss.audio_total, loss.audio_weight),
        *(loss.ctc_total, loss.activity_total),
    )
    return torch.stack([part.detach() for part in parts]).double()


def run_step(
    state: TrainingState, packs: StepPacks, config: Training, process: Process, *, should_save: bool
) -> StepResult:
    """Do one optimizer step on this rank's batches; leave the update out where the step is bad.

    Args:
        state: what it changes.
        packs: this rank's share of a step.
        config: how to train.
        process: this rank.
        should_save: whether this rank is asked for a checkpoint after the step; every rank learns whether any was.
    """
    device = torch.device(process.device)
    _clear_gradients(state, config)
    batches = [weighted(batch, config) for batch in packs.batches]
    counts = _auxiliary_counts(state.model, batches, device, config)
    auxiliary = counts.weights(config)
    overlapped = _overlapped(state, config)
    add = partial(accumulate, state.model, backend=state.backend, device=device, config=config, context=state.context)
    sums = add(batches[:-1], auxiliary=auxiliary)
    with overlapped.during_backward() if overlapped else nullcontext():
        sums += add(batches[-1:], auxiliary=auxiliary)
    for filler in packs.fillers:
        add([weighted(filler, config)], scale=0.0, auxiliary=auxiliary)
    gradients = _gradients(state)
    if overlapped:
        overlapped.finish()
    save = torch.tensor([float(should_save)], dtype=torch.float64)
    on_device = torch.cat((sums, save.to(device, non_blocking=True)))
    if process.world_size > 1:
        on_device = on_device.float()
        sum_over_ranks([on_device] if overlapped or config.shard == "full" else [*gradients, on_device])
    if (tied := state.model.pad_row_of) is not None and tied.grad is not None:
        first_row(tied.grad).zero_()
    norm = whole(torch.nn.utils.get_total_norm(gradients))
    # The only value that the host waits for: all of the step is launched by now, except its update.
    *sums_of_step, saves, norm_of_sum = torch.cat((on_device.double(), norm.double()[None])).tolist()
    of_step = StepSums(*sums_of_step)
    divisor = max(of_step.weight, 1e-8)
    grad_norm = norm_of_sum / divisor
    rate = learning_rate(packs.step, config)
    fault = state.guard.fault(of_step.total, grad_norm)
    if fault is None:
        # Division and clipping in one pass over the gradients.
        torch._foreach_mul_(gradients, min(1.0, config.clip_norm / (grad_norm + 1e-6)) / divisor)
        _update(state, packs.step, rate, config)
    return StepResult(of_step, grad_norm, rate, fault, bool(saves), counts)


def weighted(batch: Batch, config: Training) -> Batch:
    """Return a batch with the document mask and the weights of cells that the options say."""
    batch = batch if config.document_mask else batch.unmasked()
    if config.tag_weight != 1.0:
        batch = batch.with_tag_weight(config.tag_weight)
    return batch.with_pad_weight(config.pad_weight) if batch.num_pads and config.pad_weight != 1.0 else batch


def _auxiliary_counts(
    model: SpeechLM, batches: Iterable[Batch], device: torch.device, config: Training
) -> AuxiliaryCounts:
    """Return the counts of a step, over all ranks; zeros where there is no auxiliary loss."""
    if not (config.ctc_weight or config.activity_weight):
        return AuxiliaryCounts()
    streams = torch.tensor(config.stream_weights) if config.stream_weights else None
    local = torch.zeros(AuxiliaryCounts.NUMBER, dtype=torch.float64)
    for batch in batches:
        ctc = ctc_targets(stacked(batch, model.shape))
        columns = len(talking(batch)[0]) if config.activity_weight else 0
        documents = int(ctc.usable.sum()), int(ctc.has_both.sum())
        weight = float(model.weight_of(batch, streams))
        local += torch.tensor([weight, ctc.num_tokens, *documents, columns], dtype=torch.float64)
    on_device = local.to(device)
    sum_over_ranks([on_device])
    return AuxiliaryCounts(*on_device.tolist())


def _overlapped(state: TrainingState, config: Training) -> OverlappedSums | None:
    """Return what sums a step's gradients in its last backward pass; None where they are summed in another way."""
    if config.shard == "full" or not config.bucket_mb or not has_others():
        return None
    return OverlappedSums(state.trained.values(), config.bucket_mb * 2**20)


def _clear_gradients(state: TrainingState, config: Training) -> None:
    """Forget the gradients: those of the first pass are then kept, not added to zeros.

    What a CUDA graph returns is overwritten when it is replayed, so with graphs gradients have a place of their own.
    """
    state.model.zero_grad(set_to_none=config.compile != "graphs")
    if config.compile == "graphs":
        _gradients(state)


def _gradients(state: TrainingState) -> list[torch.Tensor]:
    """Return the gradient of every trained parameter: one that is None would be missing from the sums over ranks."""
    gradients = []
    for parameter in state.trained.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    return gradients


def _mean_decay(step: int, config: Training) -> float:
    """Return the running mean's decay at a step: small at first, so that the initial weights are soon forgotten.

    Source: TensorFlow's `tf.train.ExponentialMovingAverage` with `num_updates`: min(decay, (1 + n) / (10 + n)) after n
    updates.

    >>> [round(_mean_decay(step, Training(ema_decay=0.99)), 3) for step in (1, 11, 10_000)]
    [0.1, 0.55, 0.99]
    """
    return min(config.ema_decay, step / (step + 9))


def _update(state: TrainingState, step: int, rate: float, config: Training) -> None:
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            own_rate = rate * group.get("share", 1.0)
            if isinstance(group["lr"], torch.Tensor):  # of an optimizer that is compiled
                group["lr"].fill_(own_rate)
            else:
                group["lr"] = own_rate
        optimizer.step()
    if state.averages:
        values = [parameter.detach() for parameter in state.trained.values()]
        torch._foreach_lerp_(list(state.averages.values()), values, 1.0 - _mean_decay(step, config))
