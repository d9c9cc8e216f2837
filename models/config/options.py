"""How a model is trained: every option of it. Free of torch, so that a recipe can be read without."""

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
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for everything, or Muon for the matrices of the blocks: slower steps that learn more."""
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
    """Whether a document sees only itself; without, all that stands before it in its pack: for comparison."""
    ctc_weight: float = 0.0
    """Weight of a CTC loss on the audio of prompts, beside the next token's: finds sooner what was said where."""
    activity_weight: float = 0.0
    """Weight of a loss on who talks in each column of prompts' audio: finds sooner who said it."""
    tag_weight: float = 1.0
    """Weight of speakers' tags in the loss; words have 1. A wrong tag costs all words of its turn."""
    z_loss: float = 0.0
    """Weight of the z-loss, which holds logits near 0; 1e-4 is usual."""
    stream_weights: tuple[float, ...] = ()
    """Weight of each audio stream in the loss; all alike where none is given."""
    ema_decay: float = 0.0
    """Above 0, checkpoints hold a running mean of the weights with this decay."""
    on_bad_step: Literal["stop", "skip"] = "stop"
    """What to do about a step whose loss or gradient is no number, or a spike: stop and name its packs, or leave it
    out and write them down in bad_steps.jsonl."""
    spike_factor: float = 0.0
    """Above 0, a gradient this many times the median of the last 64 steps is a spike."""
    start_from: str | None = field(default=None, metadata=BY_CONTENT)
    """Weights to start from: a checkpoint of ours, a Hugging Face folder or hub id of a Llama, Qwen2 or Qwen3 model,
    or `last`: the newest checkpoint in the output folder, if there is one. The rate warms up anew."""
    precision: Literal["float32", "bf16"] = "float32"
    """What is computed in; weights, moments and sums stay in float32."""
    recompute: bool = field(default=False, metadata=NO_RESULT)
    """Do blocks again in the backward pass instead of keeping what is inside: less memory, a third more work."""
    compile: bool = field(default=False, metadata=NO_RESULT)
    """Compile what is before and behind attention; attention stays outside, so that no length compiles anew."""
    shard: Literal["none", "full"] = field(default="none", metadata=NO_RESULT)
    """Leave each rank only a part of parameters, gradients and moments (FSDP2)."""
    checkpoint_every: int = field(default=100, metadata=NO_RESULT)
    """Steps between checkpoints."""
    keep_checkpoints: int = field(default=2, metadata=NO_RESULT)
    """Newest checkpoints kept, beside the untrained one."""
    keep_best: int = field(default=0, metadata=NO_RESULT)
    """Checkpoints kept besides: those before which the mean loss was lowest."""
    attention: Backend = field(default="auto", metadata=NO_RESULT)
    """Attention backend; auto takes the best that runs here."""
    num_threads: int = field(default=0, metadata=NO_RESULT)
    """CPU threads of a worker; 0 takes what the worker is given."""

    version: ClassVar[str] = "1"
    """Raised when training gives another result from the same packs."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.steps, self.packs_per_step, self.packs_per_pass, self.checkpoint_every, self.keep_checkpoints) < 1:
            raise ValueError("train: steps, packs and checkpoints are counted from 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError("train.lr must be positive")
        if self.optimizer == "muon" and self.shard == "full":
            raise ValueError("train: muon turns whole matrices, which train.shard full cuts up; take adamw")
        if not self.document_mask and (self.ctc_weight or self.activity_weight):
            raise ValueError(
                "train: without a mask of documents, CTC and who talks cannot tell their audio apart; set ctc_weight 0 "
                "and activity_weight 0"
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError("train.ema_decay must lie between 0 and 1")
