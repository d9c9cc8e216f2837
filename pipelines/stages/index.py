"""index: manifests -> utterances and recorded conversations, in this process, for headers only are read."""

import os
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from operators.corpus.manifest import corpus_roots
from operators.corpus.manifest import index as read_manifests
from operators.corpus.text import NORMALIZER
from operators.errors import InputError
from operators.schema import CONVERSATIONS, UTTERANCES
from operators.simulate.recorded import index_recorded as read_recorded
from operators.store.dataset import Quarantined, RowWriter, Snapshot
from pipelines.plan.context import RunContext, describe, refuse_above, report_stage, take_snapshot
from pipelines.plan.road import (
    given_manifests,
    index_partition,
    made_corpus,
    manifests_of,
    recorded_of,
    recordings_partition,
)
from pipelines.reporting import console
from pipelines.reporting.tracking import StageRun


def index_corpus(road: RunContext) -> None:
    """Corpus -> utterances: in this process, for headers only are read."""
    recipe, output = road.recipe, road.output
    folder = made_corpus(recipe, output)
    if folder is not None and not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        road.expect_work()
        if recipe.corpus.stories is not None:
            console.line("corpus", f"espeak-ng speaks stories into {folder}")
            recipe.corpus.stories.speak(folder, num_processes=os.cpu_count() or 1)
        elif recipe.corpus.join is not None:
            number = recipe.corpus.join.write(given_manifests(recipe), folder, recipe.seed, os.cpu_count() or 1)
            console.line("corpus", f"{console.count(number)} joined recordings written into {folder}")
    partition, dataset = index_partition(recipe, output), output.dataset("utterances")
    receipt = dataset.committed(partition)
    fresh = receipt is not None
    if receipt is not None and "index" in road.unrecorded:
        with road.stage("index") as run_:
            _indexed(run_, take_snapshot(road, dataset, [receipt], _manifest_digests(partition.depends["manifests"])))
    if receipt is None:
        road.expect_work()
        corpus = recipe.corpus
        utterances, bad = read_manifests(
            manifests_of(recipe, output), corpus.where, corpus.max_duration_s, corpus.language, corpus.licence
        )
        utterances, few = _without_lone_speakers(utterances, corpus.min_utterances_per_speaker)
        bad = [*bad, *few]
        refuse_above(bad, utterances.num_rows + len(bad), corpus.max_bad_share, road)
        if not utterances.num_rows and manifests_of(recipe, output):
            raise InputError("no utterance is left" + (f" where {corpus.where}" if corpus.where else ""))

        def fill(writer: RowWriter) -> None:
            writer.write(utterances)
            writer.quarantined += bad
            rates = utterances["source_rate_hz"].to_pylist()
            lengths = utterances["source_num_samples"].to_pylist()
            writer.count(
                audio_s=sum(n / r for n, r in zip(lengths, rates, strict=True)),
                speakers=len(set(utterances["speaker"].to_pylist())),
            )

        with road.stage("index") as run_:
            receipt = dataset.commit(partition, UTTERANCES, {"hubbub.normalizer": NORMALIZER}, fill)
            made = take_snapshot(road, dataset, [receipt], _manifest_digests(partition.depends["manifests"]))
            _indexed(run_, made)
    made = take_snapshot(road, dataset, [receipt], _manifest_digests(partition.depends["manifests"]))
    road.quarantined += receipt.quarantined
    report_stage("index", fresh, f"{describe(made)}, {receipt.counts['speakers']:.0f} speakers")


def index_conversations(road: RunContext) -> None:
    """Recorded conversations -> their index, in this process."""
    recipe, dataset = road.recipe, road.output.dataset("recordings")
    partition = recordings_partition(recipe)
    receipt = dataset.committed(partition)
    fresh = receipt is not None
    inputs = _manifest_digests(partition.depends["manifests"])
    if receipt is None:
        manifests, corpus = recorded_of(recipe), recipe.corpus
        roots = {path: name for name, path in corpus_roots([*manifests_of(recipe, road.output), *manifests]).items()}
        conversations, bad = read_recorded(
            manifests, roots, recipe.converse.sample_rate_hz, seed=recipe.seed, test_share=recipe.casting.test_speakers,
            language=corpus.language, licence=corpus.licence,
        )  # fmt: skip
        refuse_above(bad, conversations.num_rows + len(bad), corpus.max_bad_share, road)

        def fill(writer: RowWriter) -> None:
            writer.write(conversations)
            writer.quarantined += bad
            hz = recipe.converse.sample_rate_hz
            writer.count(audio_s=sum(conversations["num_samples"].to_pylist()) / hz)

        with road.stage("index") as run_:
            receipt = dataset.commit(partition, CONVERSATIONS, {"hubbub.normalizer": NORMALIZER}, fill)
            _indexed(run_, take_snapshot(road, dataset, [receipt], inputs))
    road.quarantined += receipt.quarantined
    report_stage("recordings", fresh, describe(take_snapshot(road, dataset, [receipt], inputs)))


def _indexed(run_: StageRun, snapshot: Snapshot) -> None:
    run_.reads_manifests(snapshot.inputs)
    run_.wrote(snapshot)


def _manifest_digests(listed: list[str]) -> dict[str, str]:
    return {f"manifest {name}": digest for _, name, digest in (text.split(":", 2) for text in listed)}


def _without_lone_speakers(utterances: Any, least: int) -> tuple[Any, list[Quarantined]]:

    counted = {row["values"]: row["counts"] for row in pc.value_counts(utterances["speaker"]).to_pylist()}
    lone = {speaker for speaker, number in counted.items() if number < least}
    if not lone:
        return utterances, []
    keep = pc.invert(pc.is_in(utterances["speaker"], value_set=pa.array(sorted(lone))))
    bad = [
        Quarantined(
            row_id=row["utterance_id"],
            reason=f"speaker {row['speaker']} has {counted[row['speaker']]} utterance(s), fewer than {least} "
            "(--corpus.min-utterances-per-speaker)",
        )
        for row in utterances.filter(pc.invert(keep)).select(["utterance_id", "speaker"]).to_pylist()
    ]
    return utterances.filter(keep), bad
