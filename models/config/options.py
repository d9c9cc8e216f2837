"""Every option of training. Free of torch, so that recipes can be read without it."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from models.config.settings import BY_CONTENT, NO_RESULT

Backend = Literal["auto", "loop", "mask", "varlen", "flash", "flex"]


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
    """Weights of the components (task, or task-bucket) that packs are drawn from: asr=3,continue=1; from a step on:
    500:asr=1. `grow` goes from short buckets to long ones. By default in proportion to their number of packs."""
    hide_bands: int = 0
    """Bands of prompt audio hidden, each up to a fifth of the codebooks (SpecAugment)."""
    hide_spans: int = 0
    """Time spans of prompt audio hidden, each up to a tenth of it (SpecAugment)."""
    shift_bands: int = 0
    """Most codebooks by which prompt audio is shifted up or down."""
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """What to do about a shard that is missing or altered: stop and name it, or print a notice and train without it."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for everything, or Muon for the matrices of the blocks: slower steps that learn more each."""
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
    document_mask: bool = True
    """Whether a document attends only to itself; without, to everything before it in its pack (for comparison)."""
    ctc_weight: float = 0.0
    """Weight of an auxiliary CTC loss on prompt audio; speeds up learning to align audio and text."""
    activity_weight: float = 0.0
    """Weight of an auxiliary loss on who talks in each column of prompt audio; speeds up learning who speaks."""
    tag_weight: float = 1.0
    """Weight of speaker tags in the loss, relative to words. A wrong tag costs all words of its turn."""
    z_loss: float = 0.0
    """Weight of the z-loss, which keeps logits near 0; 1e-4 is usual."""
    stream_weights: tuple[float, ...] = ()
    """Weight of each audio stream in the loss; equal where none is given."""
    ema_decay: float = 0.0
    """Above 0, checkpoints hold a running mean of the weights with this decay."""
    on_bad_step: Literal["stop", "skip"] = "stop"
    """What to do about a step whose loss or gradient is not finite, or spikes: stop and name its packs, or skip the
    update and log the packs to bad_steps.jsonl."""
    spike_factor: float = 0.0
    """Above 0, a gradient this many times the median of the last 64 steps is a spike."""
    start_from: str | None = field(default=None, metadata=BY_CONTENT)
    """Initial weights: a Hubbub checkpoint, a Hugging Face folder or hub id of a Llama, Qwen2 or Qwen3 model, or
    `last`: the newest checkpoint in the output folder, if there is one. The learning rate warms up again."""
    precision: Literal["float32", "bf16"] = "float32"
    """Precision of computation; weights, moments and sums stay in float32."""
    recompute: bool = field(default=False, metadata=NO_RESULT)
    """Recompute blocks in the backward pass instead of keeping their activations: less memory, a third more work."""
    compile: bool = field(default=False, metadata=NO_RESULT)
    """Compile each block before and after its attention, which is left out so that no length is compiled again."""
    shard: Literal["none", "full"] = field(default="none", metadata=NO_RESULT)
    """full: shard parameters, gradients and moments over ranks (FSDP2)."""
    checkpoint_every: int = field(default=100, metadata=NO_RESULT)
    """Steps between checkpoints."""
    keep_checkpoints: int = field(default=2, metadata=NO_RESULT)
    """Newest checkpoints kept, in addition to the untrained one."""
    keep_best: int = field(default=0, metadata=NO_RESULT)
    """Further checkpoints kept: those before which the mean loss was lowest."""
    attention: Backend = field(default="auto", metadata=NO_RESULT)
    """Attention backend; auto takes the best available."""
    num_threads: int = field(default=0, metadata=NO_RESULT)
    """CPU threads of a worker; 0 uses all that the worker is assigned."""

    version: ClassVar[str] = "1"
    """Raised when training gives another result from the same packs."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.steps, self.packs_per_step, self.packs_per_pass, self.checkpoint_every, self.keep_checkpoints) < 1:
            raise ValueError("train: steps, packs and checkpoint intervals must be at least 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError("train.lr must be positive")
        if self.optimizer == "muon" and self.shard == "full":
            raise ValueError("train: muon needs whole matrices, which train.shard full splits; use adamw")
        if not self.document_mask and (self.ctc_weight or self.activity_weight):
            raise ValueError(
                "train: without the document mask, the CTC and activity losses cannot tell documents' audio apart; set "
                "ctc_weight 0 and activity_weight 0"
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError("train.ema_decay must be at least 0 and below 1")
