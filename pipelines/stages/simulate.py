"""simulate: utterances -> conversations (who speaks when), and mixtures where they are kept."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.corpus.annotations import write_truth
from operators.corpus.cast import Cast, cast_table
from operators.corpus.text import NORMALIZER
from operators.digest import canonical_json, to_jsonable
from operators.errors import InputError
from operators.schema import AUDIO, AUDIO_FLAC, CASTS, CONVERSATIONS, UTTERANCES, check_chain
from operators.simulate.realism import against_prior, talks_of
from operators.simulate.render import to_flac, with_roots
from operators.simulate.turn_taking import prior_of
from operators.store.dataset import Dataset, Receipt, RowWriter, Snapshot
from pipelines.plan.road import Output, Plan, recordings_partition
from pipelines.recipes.recipe import Recipe
from pipelines.run.partitions import Job, usable

MAX_CHUNK_S = 600.0
"""Audio that is in memory at a time: 10 minutes at 16 kHz are 19 MB of int16 and as much again in the making."""


def check(recipe: Recipe) -> None:
    """Check that each operator is given what it reads."""
    check_chain(CASTS, recipe.converse, recipe.place, recipe.render, recipe.encode)


def make_conversations(job: Job) -> Receipt:
    """Make one partition of `conversations`."""
    if "recordings" in job.payload:
        return _take_recorded(job)
    utterances_set = job.output.dataset("utterances")
    index = utterances_set.latest()
    if index is None:
        raise InputError(f"{utterances_set.url()} is gone; run again to index the corpus")
    utterances = utterances_set.read(index).select(UTTERANCES.names)

    def fill(writer: RowWriter) -> None:
        for start in range(0, len(job.payload), 256):
            casts = [
                Cast(i, split, tuple(who), tuple(rows)) for i, split, who, rows in job.payload[start : start + 256]
            ]
            conversations = job.recipe.converse(cast_table(utterances, casts, job.recipe.seed))  # who speaks when
            conversations = job.recipe.place(conversations)  # where they sit, and the noise around them
            writer.write(conversations)
            writer.count(
                audio_s=sum(_seconds(conversations)),
                turns=sum(len(turns) for turns in conversations["turns"].to_pylist()),
                clipped_offsets=sum(conversations["num_clipped_offsets"].to_pylist()),
            )

    metadata = {
        "hubbub.converse": canonical_json(job.recipe.converse),
        "hubbub.place": canonical_json(
            {n: v for n, v in to_jsonable(job.recipe.place).items() if n not in ("rirs", "noises")}
        ),
        "hubbub.normalizer": NORMALIZER,
    }
    return job.output.dataset("conversations").commit(job.partition, CONVERSATIONS, metadata, fill)


def _take_recorded(job: Job) -> Receipt:
    """Make one partition of `conversations` of recorded ones."""
    recordings = job.output.dataset("recordings")
    receipt = recordings.committed(recordings_partition(job.recipe))
    if receipt is None:
        raise InputError(f"{recordings.url()} is gone; run again to index the recordings")
    names = pa.array(job.payload["recordings"])

    def fill(writer: RowWriter) -> None:
        for batch in recordings.batches(receipt):
            rows = batch.filter(pc.is_in(batch["conversation_id"], value_set=names))
            writer.write(rows)
            writer.count(audio_s=sum(_seconds(rows)), turns=sum(len(turns) for turns in rows["turns"].to_pylist()))

    return job.output.dataset("conversations").commit(
        job.partition, CONVERSATIONS, {"hubbub.normalizer": NORMALIZER}, fill
    )


def _seconds(conversations: pa.Table) -> list[float]:
    rates = conversations["sample_rate_hz"].to_pylist()
    return [n / r for n, r in zip(conversations["num_samples"].to_pylist(), rates, strict=True)]


def conversations_of(job: Job) -> Iterator[pa.Table]:
    """Yield the conversations that a partition downstream reads, in chunks of bounded audio."""
    dataset = job.output.dataset("conversations")
    receipt = receipt_of(dataset, job.payload["partition_id"], job.payload["key"])
    for batch in dataset.batches(receipt):
        seconds, start = 0.0, 0
        for i, length in enumerate(_seconds(batch)):
            if seconds and seconds + length > MAX_CHUNK_S:
                yield batch.slice(start, i - start)
                seconds, start = 0.0, i
            seconds += length
        yield batch.slice(start)


def receipt_of(dataset: Dataset, partition_id: str, key: str) -> Receipt:
    """Return the receipt of a partition that must be there.

    Raises:
        InputError: it was removed in the meantime.
    """
    receipt = dataset.committed_by_key(partition_id, key)
    if receipt is None:
        raise InputError(f"partition {partition_id} of {dataset.url()} is gone; run again to make it anew")
    return receipt


def make_audio(job: Job) -> Receipt:
    """Make one partition of `audio`: mixtures as FLAC."""

    def fill(writer: RowWriter) -> None:
        for conversations in conversations_of(job):
            audio = usable(job.recipe.render, with_roots(conversations, job.corpus_roots), writer)
            writer.write(to_flac(audio.select(AUDIO.names)))
            writer.count(audio_s=sum(_seconds(audio)))

    return job.output.dataset("audio").commit(job.partition, AUDIO_FLAC, {}, fill)


def realism(recipe: Recipe, dataset: Dataset, snapshot: Snapshot, most: int = 500) -> tuple[str, dict[str, float]]:
    """Say in a line how far conversations are from the prior, and how much of them is silence and overlap.

    Returns:
        The line, and the figures for the tracking server.
    """
    tables: list[pa.Table] = []
    for receipt in snapshot.receipts:
        simulated = receipt.partition_id.startswith("train-") and not receipt.partition_id.startswith("train-recorded-")
        if simulated and sum(t.num_rows for t in tables) < most:
            tables += [batch.slice(0, most) for batch in dataset.batches(receipt)]
    talks = talks_of(pa.concat_tables(tables).slice(0, most)) if tables else []
    if not talks:
        return "all conversations are recorded ones", {}
    try:
        card = against_prior(talks, prior_of(recipe.converse.prior), draws=2)
    except (InputError, ZeroDivisionError):
        return "too little talk to compare", {}
    distances: dict[str, Any] = card["distances"]  # type: ignore[assignment]
    figures: dict[str, Any] = card["simulated"]  # type: ignore[assignment]
    far = ", ".join(f"{name}s {d['ks']:.3f}" for name, d in distances.items() if d and name in ("offset", "pause"))
    measured = {f"ks_{name}": float(d["ks"]) for name, d in distances.items() if d}
    measured |= {name: float(figures[name]) for name in ("silence_share", "overlap_share", "three_speaker_share")}
    text = (
        f"{far} from the {recipe.converse.prior} prior (KS); {figures['silence_share']:.0%} silence, "
        f"{figures['overlap_share']:.0%} of speech overlapped"
    )
    return text, measured


def check_licences(recipe: Recipe, output: Output, snapshots: Mapping[str, Snapshot]) -> None:
    """Check that everything that was indexed may be used.

    Raises:
        InputError: names the licences that may not, how much has them, and the way out.
    """
    allowed = recipe.corpus.allow_licences
    if not allowed:
        return
    counted: Counter[str] = Counter()
    for name in ("utterances", "recordings"):
        for receipt in snapshots[name].receipts if name in snapshots else ():
            for batch in output.dataset(name).batches(receipt):
                column = batch["licence"] if name == "utterances" else pc.list_flatten(batch["turns"]).combine_chunks()
                values = column if name == "utterances" else column.field("licence")
                counted.update(str(value or "unknown") for value in values.to_pylist())
    refused = {licence: number for licence, number in counted.items() if licence not in allowed}
    if refused:
        shown = ", ".join(f"{number:,} have {licence}" for licence, number in sorted(refused.items()))
        raise InputError(
            f"of {sum(counted.values()):,} utterances {shown}; corpus.allow_licences allows {', '.join(allowed)}. "
            "Leave them out (--corpus.where \"licence == '...'\"), name the corpus's own (--corpus.licence), or allow "
            "them"
        )


def use(plan: Plan) -> str:
    """Say how often speakers and utterances are cast, and how evenly: nothing where all talk is recorded."""
    speakers: Counter[str] = Counter()
    utterances: Counter[int] = Counter()
    for payload in plan.stage("conversations").payloads.values():
        if not isinstance(payload, dict):
            for _, _, who, rows in payload:
                speakers.update(who)
                utterances.update(rows)
    if not speakers:
        return ""
    parts = []
    for name, counted in (("speaker", speakers), ("utterance", utterances)):
        times = np.array(list(counted.values()))
        parts.append(f"each {name} is cast {times.mean():.1f} times (sd {times.std():.1f}, at most {times.max()})")
    return "; ".join(parts)


def too_long(recipe: Recipe, utterances: pa.Table) -> str:
    """Say by how much utterances are longer than the prior's turns, and what could be done; nothing where they fit."""
    if not utterances.num_rows or recipe.converse.cut_above_s:
        return ""
    seconds = np.array(utterances["source_num_samples"]) / np.array(utterances["source_rate_hz"])
    wanted = np.array(prior_of(recipe.converse.prior).segment_s)
    share = float(np.mean(seconds > np.quantile(wanted, 0.9)))
    if share < 0.5:
        return ""
    timed = any(pc.list_value_length(utterances["words"]).to_pylist())
    cure = "--converse.cut-above-s 5 cuts them between words"
    return (
        f"{share:.0%} of the utterances are longer than nine in ten turns of the {recipe.converse.prior} prior (median "
        f"{np.median(seconds):.1f} s, there {np.median(wanted):.1f} s): silence and overlap will be a smaller share "
        f"of the talk than there; {cure if timed else f'hubbub data align finds word times, then {cure}'}"
    )


def write_truth_files(output: Output, snapshot: Snapshot, kinds: tuple[str, ...], hop_samples: int) -> list[str]:
    """Write truth files of all conversations, one per kind and split; return their paths."""
    conversations = output.dataset("conversations").read(snapshot)
    folder = output.folder / "truth"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for split in sorted(set(conversations["split"].to_pylist())):
        chosen = conversations.filter(pa.compute.equal(conversations["split"], split))
        for kind in kinds:
            suffix = {"seglst": "seglst.json", "sot": "sot.jsonl", "activity": "activity.jsonl"}.get(kind, kind)
            path = folder / f"{split}.{suffix}"
            path.write_text(write_truth(chosen, kind, hop_samples), encoding="utf-8")
            written.append(str(path))
    return written
