"""All options of training. Does not import torch, so that recipes can be read without it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from models.config.settings import BY_CONTENT, NO_RESULT
from models.config.values import Checked, within

Precision = Literal["auto", "float32", "bf16", "fp8"]
Recompute = Literal["none", "cheap", "all"]
Compile = Literal["none", "blocks", "graphs"]
CtcPlace = Literal["output", "projector"]
PartName = Literal["projector", "tokens", "lora", "encoder", "llm"]
Backend = Literal["auto", "loop", "mask", "varlen", "flash", "flex"]


@dataclass(frozen=True, kw_only=True)
class Training(Checked, section="train"):
    """How a model is trained."""

    steps: int = field(default=300, metadata=within(1, 10**9, "steps"))
    """Optimizer steps."""
    packs_per_step: int = field(default=4, metadata=within(1, 10**6, "packs"))
    """Packs in the global batch, over all ranks."""
    packs_per_pass: int = field(default=1, metadata=within(1, 10**6, "packs"))
    """Packs in one forward pass; gradients are accumulated over passes. Changes no result beyond rounding."""
    mixture: tuple[str, ...] = ()
    """Weights of the components (task, or task-bucket) that packs are drawn from: asr=3,continue=1; with 500:asr=1 from
    step 500. `grow` goes from short buckets to long ones. By default in proportion to their number of packs."""
    hide_bands: int = field(default=0, metadata=within(0, 1000))
    """Number of bands of prompt audio to hide, each up to a fifth of the codebooks (SpecAugment)."""
    hide_spans: int = field(default=0, metadata=within(0, 1000))
    """Number of time spans of prompt audio to hide, each up to a tenth of its length (SpecAugment)."""
    shift_bands: int = field(default=0, metadata=within(0, 1000, "codebooks"))
    """Largest number of codebooks that prompt audio is shifted up or down by."""
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """What to do if a shard is missing or altered: stop and name it, or print a notice and train without it."""
    optimizer: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    """AdamW for all parameters, the same with moments in 8 bits (torchao), or Muon for the matrices of the blocks:
    slower steps, of which fewer are needed."""
    only: tuple[PartName, ...] = ()
    """Parts of the model that are trained, and no others; by default all that are not frozen. projector: what makes
    columns of audio, or predicts them; tokens: the rows of our special tokens beside a frozen LLM's; lora: low-rank
    updates of the blocks; encoder: those of the encoder; llm: the rest."""
    lr: float = field(default=2e-3, metadata=within(0, 100, open_at="low"))
    """Peak learning rate."""
    pretrained_lr: float = field(default=1e-4, metadata=within(0, 100, open_at="low"))
    """Peak learning rate, at most lr, of weights that came from a text LLM (start_from a Hugging Face folder).
    Audio, low-rank updates, and with them our special tokens, are new and trained at lr."""
    min_lr_share: float = field(default=0.1, metadata=within(0, 1))
    """Final learning rate, as a share of the peak."""
    warmup_steps: int = field(default=30, metadata=within(0, 10**9, "steps"))
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """Cosine decay, or warmup-stable-decay with a linear decay over the last fifth."""
    weight_decay: float = field(default=0.01, metadata=within(0, 100))
    """Weight decay of AdamW, on matrices only."""
    beta1: float = field(default=0.9, metadata=within(0, 1, open_at="high"))
    """Decay of AdamW's first moment."""
    beta2: float = field(default=0.98, metadata=within(0, 1, open_at="high"))
    """Decay of AdamW's second moment."""
    clip_norm: float = field(default=1.0, metadata=within(0, 1e9, open_at="low"))
    """Norm that gradients are clipped to."""
    document_mask: bool = True
    """Whether a document attends only to itself; otherwise also to all documents before it in its pack."""
    ctc_weight: float = field(default=0.0, metadata=within(0, 1e6))
    """Weight of an auxiliary CTC loss on prompt audio, a mean over tokens; speeds up learning to align them."""
    ctc_at: CtcPlace = "output"
    """Whose states the CTC loss reads: the last block's, or those of the projector behind an encoder, which the text
    head then reads as if they were the last block's."""
    activity_weight: float = field(default=0.0, metadata=within(0, 1e6))
    """Weight of an auxiliary loss on who talks, a mean over columns of prompt audio; speeds up learning tags."""
    tag_weight: float = field(default=1.0, metadata=within(0, 1e6))
    """Weight of speaker tags in the loss, relative to words; a wrong tag makes all words of its turn wrong."""
    pad_weight: float = field(default=0.1, metadata=within(0, 1e6, open_at="low"))
    """Weight in the loss of text cells beside audio that only say that it goes on: with 1, they are up to 99 % of the
    text's weight where audio is predicted. Generation takes it out of the odds of an end. Moshi: 0.5."""
    z_loss: float = field(default=0.0, metadata=within(0, 1e6))
    """Weight of the z-loss, which keeps logits near 0; 1e-4 is usual."""
    stream_weights: tuple[float, ...] = field(default=(), metadata=within(0, 1e6))
    """Weight of each audio stream in the loss; equal by default."""
    ema_decay: float = field(default=0.0, metadata=within(0, 1, open_at="high"))
    """Above 0, checkpoints hold a running mean of the weights. The decay starts small and grows to this, so that the
    initial weights are forgotten within the first steps."""
    on_bad_step: Literal["stop", "skip"] = "stop"
    """What to do if a step's loss or gradient is not finite, or spikes: stop and name its packs, or skip the update and
    log the packs to bad_steps.jsonl."""
    spike_factor: float = field(default=0.0, metadata=within(0, 1e9))
    """Above 0, a gradient norm above this multiple of the median of the last 64 steps is a spike."""
    start_from: str | None = field(default=None, metadata=BY_CONTENT)
    """Initial weights: a Hubbub checkpoint, a Hugging Face folder or hub id of a Llama, Qwen2 or Qwen3 model, or
    `last` for the newest checkpoint in the output folder, if there is one. The learning rate warms up again."""
    precision: Precision = "auto"
    """Precision of the computation: bf16 on a GPU, else float32. Weights, moments and sums stay in float32. fp8 is bf16
    with the blocks' matrix products in 8 bits, scaled by row (torchao); needs a GPU of compute capability 8.9."""
    recompute: Recompute = field(default="none", metadata=NO_RESULT)
    """What the backward pass computes again instead of keeping: of each block all, which is a third more work, or only
    what is cheap (norms, rotation, SwiGLU), and no matrix product or attention."""
    compile: Compile = field(default="none", metadata=NO_RESULT)
    """blocks: compile each block except its attention, which would be compiled again for other lengths. graphs: the
    same, each captured as a CUDA graph; batches are padded to a few lengths, by up to an eighth."""
    shard: Literal["none", "full"] = field(default="none", metadata=NO_RESULT)
    """full: shard parameters, gradients and moments over ranks (FSDP2)."""
    shard_size: int = field(default=0, metadata=NO_RESULT | within(0, 100_000, "ranks"))
    """Ranks that hold all parameters together, with shard full: the GPUs of a machine, for example. Each group of so
    many has all of them (HSDP); must divide the number of ranks. 0 for all ranks."""
    context_size: int = field(default=1, metadata=NO_RESULT | within(1, 1024, "ranks"))
    """Ranks that split the columns of a batch among them, for packs that are too long for one device (Ulysses); must
    divide the number of ranks, and that of heads."""
    bucket_mb: float = field(default=25.0, metadata=NO_RESULT | within(0, 1e6, "MiB"))
    """Gradients that are summed over ranks in one collective, while the backward pass goes on, with shard none. With 0
    all of them are summed after it."""
    checkpoint_every: int = field(default=100, metadata=NO_RESULT | within(1, 10**9, "steps"))
    """Steps between checkpoints."""
    keep_checkpoints: int = field(default=2, metadata=NO_RESULT | within(1, 10**6))
    """Number of newest checkpoints to keep, in addition to the untrained one."""
    keep_best: int = field(default=0, metadata=NO_RESULT | within(0, 10**6))
    """Number of further checkpoints to keep: those with the lowest validation loss, or without a validation split those
    with the lowest mean training loss before them."""
    validate_every: int = field(default=100, metadata=NO_RESULT | within(0, 10**9, "steps"))
    """Steps between validations, where there is a validation split; the last step is followed by one too. With 0 there
    are none."""
    validate_conversations: int = field(default=0, metadata=NO_RESULT | within(0, 10**6, "conversations"))
    """Conversations of the validation split that are transcribed and scored by cpWER at each validation, as `evaluate`
    does; with 0 only the loss is computed."""
    best_by: Literal["loss", "cpwer"] = field(default="loss", metadata=NO_RESULT)
    """What keep_best and patience go by: the validation loss, or the cpWER of validate_conversations."""
    patience: int = field(default=0, metadata=within(0, 10**6, "validations"))
    """Validations in a row without a lowest loss after which training ends early; with 0 it never does."""
    attention: Backend = field(default="auto", metadata=NO_RESULT)
    """Attention backend; auto for the best available."""
    num_threads: int = field(default=0, metadata=NO_RESULT | within(0, 4096))
    """CPU threads of a worker; 0 for all that the worker is assigned."""

    version: ClassVar[str] = "3"
    """Incremented when training gives a different result from the same packs."""

    def rules(self) -> Iterator[str]:
        """Check the values together."""
        if self.best_by == "cpwer" and not (self.validate_conversations and self.validate_every):
            yield "train.best_by cpwer needs --train.validate-conversations and --train.validate-every above 0"
        if self.validate_conversations and self.shard == "full":
            yield "train.validate_conversations decodes with whole weights, which train.shard full splits; set 0"
        if self.shard_size and self.shard == "none":
            yield "train.shard_size needs --train.shard full; without it, set 0"
        if self.context_size > 1 and (self.ctc_weight or self.activity_weight):
            yield (
                "train.context_size splits the columns of documents, which the CTC and activity losses need whole; "
                "set ctc_weight 0 and activity_weight 0"
            )
        if self.patience and not self.validate_every:
            yield "train.patience counts validations, and train.validate_every 0 makes none"
        if self.optimizer != "adamw" and self.shard == "full":
            yield f"train: {self.optimizer} needs whole matrices, which train.shard full splits; use adamw"
        if not self.document_mask and (self.ctc_weight or self.activity_weight):
            yield (
                "train: without the document mask, the CTC and activity losses cannot separate the audio of documents; "
                "set ctc_weight 0 and activity_weight 0"
            )
