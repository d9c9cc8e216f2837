"""The operator that transcribes as a recipe evaluates, and the judge that asks it while training."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from operators.documents.tasks import TASKS
from operators.errors import InputError
from operators.evaluate.judge import Judge, chosen
from operators.evaluate.transcribe import Transcribe
from operators.store.dataset import Dataset, Partition
from pipelines.plan.job import PartitionRef
from pipelines.recipes.recipe import Recipe


def transcriber_of(recipe: Recipe, checkpoint: str, task: str, device: str = "cpu") -> Transcribe:
    """Return the operator that transcribes conversations with a checkpoint as the recipe evaluates them."""
    options = recipe.evaluate
    return Transcribe(
        checkpoint=checkpoint,
        window_s=options.window_s,
        cut=options.cut,
        join=options.join,
        overlap_s=options.overlap_s,
        max_tokens=options.max_tokens,
        batch_size=options.batch_size,
        beams=options.beams,
        task=task,
        constrain=options.constrain,
        device=device,
    )


def judged_task(recipe: Recipe) -> str:
    """Return the task by which cpWER is measured while training: the first whose answers are whole conversations.

    Raises:
        InputError: there is none.
    """
    for task in TASKS:
        if task in recipe.compose.tasks and TASKS[task].judged_by == "conversation":
            return task
    raise InputError(
        "train.validate_conversations: no task of compose.tasks transcribes conversations; add asr or asr_timed"
    )


def validation_codes(partitions: Sequence[Partition]) -> tuple[PartitionRef, ...]:
    """Return the partitions of codes of the validation split."""
    return tuple(PartitionRef(p.partition_id, p.key) for p in partitions if p.partition_id.startswith("validation-"))


def judge_of(
    recipe: Recipe, codes: Dataset, refs: tuple[PartitionRef, ...], checkpoint: str, rank: int, ranks: int, device: str
) -> Judge | None:
    """Return the judge of one rank, with its part of the conversations; None where cpWER is not asked for.

    Args:
        recipe: how many conversations, and how they are transcribed.
        codes: the data set of codes.
        refs: partitions of the validation split.
        checkpoint: folder that gives header and tokenizer.
        rank: of this process.
        ranks: processes that share the conversations.
        device: of the model.

    Raises:
        InputError: no task transcribes conversations, or a partition was removed.
    """
    if not recipe.train.validate_conversations or not refs:
        return None
    receipts = [codes.committed_by_key(ref.partition_id, ref.key) for ref in refs]
    if None in receipts:
        raise InputError(f"a partition of {codes.url()} is missing; run again to rebuild it")
    table = pa.concat_tables([codes.open(receipt).read_all() for receipt in receipts if receipt is not None])
    names = chosen(table["conversation_id"].to_pylist(), recipe.train.validate_conversations)[rank::ranks]
    own = table.filter(pc.is_in(table["conversation_id"], value_set=pa.array(names, pa.string())))
    transcribe = transcriber_of(recipe, checkpoint, judged_task(recipe), device)
    return Judge(transcribe=transcribe, codes=own, normalizer=recipe.evaluate.normalizer)
