"""The road as a plan: which partitions each stage must hold, their keys, and what is fresh. Nothing is started.

Every key follows from the keys upstream, so all that is stale is known before any worker starts.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from models.training.mirror import Mirror
from operators.corpus import cast, manifest, stories, text
from operators.corpus.cast import Splits
from operators.corpus.manifest import Manifest, corpus_roots
from operators.digest import digest, digest_file, digest_json, to_jsonable
from operators.errors import InputError
from operators.schema import SCHEMA_VERSION
from operators.simulate import joined, recorded
from operators.simulate.turn_taking import prior_of
from operators.store import storage
from operators.store.dataset import Dataset, Partition, Receipt, stale_reason
from pipelines.plan.start import start_digest
from pipelines.recipes.recipe import Recipe

STAGES = ("index", "simulate", "tokenize", "pack", "train", "evaluate")
"""In order; each is a child run of the tracking server."""
DATASETS = ("utterances", "recordings", "conversations", "audio", "codes", "packs", "hypotheses")
EVALUATE_VERSION = "2"
TRAIN_VERSION = "1"
"""Raised when training gives another result from the same packs."""


_STORE = "store"
"""File of an output folder that names the URL of its data sets and checkpoints, where they lie elsewhere."""


@dataclass(frozen=True)
class Output:
    """Where a run's things are."""

    folder: Path
    store: str = ""
    """URL of data sets and checkpoints; the folder itself where empty. A folder remembers it."""

    def __post_init__(self) -> None:
        """Take the store that the folder was last used with."""
        if not self.store and (self.folder / _STORE).exists():
            object.__setattr__(self, "store", (self.folder / _STORE).read_text().strip())

    def remember(self, store: str) -> None:
        """Write down where data sets and checkpoints go.

        Raises:
            InputError: they are elsewhere already.
        """
        if self.store and self.store != store:
            raise InputError(
                f"{self.folder} keeps its data sets at {self.store}, not at {store}; give another --output"
            )
        (self.folder / _STORE).write_text(store + "\n")

    @property
    def data(self) -> str:
        """Root of the data sets."""
        return storage.join(self.store, "data") if self.store else str(self.folder / "data")

    def training_url(self, key: str) -> str | None:
        """Return the URL that a training's checkpoints are copied to, if there is one."""
        return storage.join(self.store, "checkpoints", key[:12]) if self.store else None

    def dataset(self, name: str) -> Dataset:
        """Return a data set by name."""
        return Dataset(self.data, name)

    def training(self, key: str) -> Path:
        """Return the folder of a training's checkpoints and metrics."""
        return self.folder / "checkpoints" / key[:12]

    def evaluation(self, key: str) -> Path:
        """Return the folder of an evaluation's results."""
        return self.folder / "evaluation" / key[:12]


@dataclass(frozen=True)
class StagePlan:
    """What one stage must hold, and what of it is there."""

    name: str
    dataset: str
    partitions: tuple[Partition, ...]
    fresh: frozenset[str]
    """Keys that are committed."""
    output: Dataset | None = None
    """The data set, to say why something of it is stale."""
    payloads: Mapping[str, Any] = field(default_factory=dict)
    """What a worker needs to know of a partition beyond its key, by partition id."""

    @cached_property
    def stale(self) -> tuple[Partition, ...]:
        """Partitions that must be made."""
        return tuple(p for p in self.partitions if p.key not in self.fresh)

    @cached_property
    def before(self) -> dict[str, Receipt]:
        """Receipts of the newest snapshot, by partition id; read only where something is stale."""
        newest = self.output.latest() if self.output else None
        return {receipt.partition_id: receipt for receipt in newest.receipts} if newest else {}

    def reasons(self) -> dict[str, str]:
        """Say, per stale partition, why."""
        return {p.partition_id: stale_reason(p, self.before.get(p.partition_id)) for p in self.stale}


@dataclass(frozen=True)
class Plan:
    """The whole road for one recipe and one output folder."""

    recipe: Recipe
    output: Output
    stages: tuple[StagePlan, ...]
    training_key: str
    evaluation_key: str
    splits: Splits
    checkpoint: Path | None = None
    """Checkpoint to judge instead of the recipe's own."""

    def checkpoint_of(self, which: str) -> Path:
        """Return the folder of the trained or the untrained checkpoint."""
        if self.checkpoint is not None:
            return self.checkpoint
        step = self.recipe.train.steps if which == "trained" else 0
        return self.output.training(self.training_key) / f"step-{step:06d}"

    def stage(self, name: str) -> StagePlan:
        """Return a stage's plan by its data set's name."""
        return next(stage for stage in self.stages if stage.dataset == name)

    def training_done(self) -> bool:
        """Tell whether the last checkpoint is there."""
        folder, step = self.output.training(self.training_key), self.recipe.train.steps
        url = self.output.training_url(self.training_key)
        here = (folder / f"step-{step:06d}" / "checkpoint.json").exists()
        return here or (url is not None and step in Mirror(folder, url).steps())

    def bring(self) -> None:
        """Fetch a finished training from the store, where this machine lacks it."""
        url = self.output.training_url(self.training_key)
        if url is not None:
            mirror = Mirror(self.output.training(self.training_key), url)
            mirror.fetch([0, self.recipe.train.steps])
            mirror.fetch_loose()

    def evaluation_done(self) -> bool:
        """Tell whether the metrics are there."""
        return (self.output.evaluation(self.evaluation_key) / "metrics.json").exists()


def manifests_of(recipe: Recipe, output: Output) -> list[Manifest]:
    """Return the manifests that a recipe names; those of the embedded corpus are beside the output.

    Raises:
        InputError: one does not exist.
    """
    made = made_corpus(recipe, output)
    return [Manifest(path=made)] if made is not None else given_manifests(recipe)


def given_manifests(recipe: Recipe) -> list[Manifest]:
    """Return the manifests of single speakers as the user named them.

    Raises:
        InputError: one does not exist.
    """
    return [Manifest.parse(text) for text in recipe.corpus.manifests]


def recorded_of(recipe: Recipe) -> list[Manifest]:
    """Return the manifests of recorded conversations that a recipe names.

    Raises:
        InputError: one does not exist.
    """
    return [Manifest.parse(text) for text in recipe.corpus.recorded]


def sound_roots(recipe: Recipe, output: Output) -> dict[str, Path]:
    """Return where everything that is heard lies, by the names that data sets have for it."""
    return {**corpus_roots([*manifests_of(recipe, output), *recorded_of(recipe)]), **recipe.place.roots()}


def recordings_partition(recipe: Recipe) -> Partition:
    """Return the one partition of the index of recorded conversations."""
    corpus = recipe.corpus
    return Partition(
        partition_id="recordings-00000",
        row_ids=(),
        depends={
            "operators": {"recorded": recorded.VERSION, "schema": SCHEMA_VERSION, "normalizer": text.NORMALIZER},
            "manifests": recorded.files_digest(recorded_of(recipe)),
            "sample_rate_hz": recipe.converse.sample_rate_hz,
            "language": corpus.language,
            "licence": corpus.licence,
            "test_share": recipe.casting.test_speakers,
            "seed": recipe.seed,
        },
    )


def made_corpus(recipe: Recipe, output: Output) -> Path | None:
    """Return where the corpus that the recipe makes (spoken stories, joined utterances) is, or will be."""
    corpus = recipe.corpus
    if corpus.stories is not None:
        kind, key = "stories", digest({"stories": corpus.stories, "version": stories.VERSION})
    elif corpus.join is not None:
        from_ = manifest.manifests_digest(given_manifests(recipe))
        kind = "joined"
        key = digest({"join": corpus.join, "seed": recipe.seed, "version": joined.VERSION, "manifests": from_})
    else:
        return None
    return output.folder.absolute() / "corpus" / f"{kind}-{key[:12]}"


def index_partition(recipe: Recipe, output: Output) -> Partition:
    """Return the one partition of the utterances index.

    A recording that was written after its index is read again: what is really another makes another row, and what was
    only copied makes the same.
    """
    first = _index_of(recipe, output)
    dataset = output.dataset("utterances")
    receipt = dataset.committed(first)
    if receipt is None or not manifests_of(recipe, output):
        return first
    indexed = storage.modified_at(dataset.receipt_url(receipt))
    sources = dataset.open(receipt).read_all().select(["corpus", "audio"]).group_by(["corpus", "audio"]).aggregate([])
    roots = corpus_roots(manifests_of(recipe, output))
    newer = []
    for corpus, audio in zip(sources["corpus"].to_pylist(), sources["audio"].to_pylist(), strict=True):
        with contextlib.suppress(OSError):  # what is gone is said when it is to be read
            status = os.stat(roots.get(corpus, Path()) / audio)
            if status.st_mtime > indexed:
                newer.append([corpus, audio, status.st_size, status.st_mtime_ns])
    if not newer:
        return first
    depends = {**first.depends, "recorded_again": digest(sorted(newer))[:32]}
    return Partition(partition_id=first.partition_id, row_ids=(), depends=depends)


def _index_of(recipe: Recipe, output: Output) -> Partition:
    corpus = recipe.corpus
    return Partition(
        partition_id="utterances-00000",
        row_ids=(),
        depends={
            "operators": {"manifest": manifest.VERSION, "schema": SCHEMA_VERSION, "normalizer": text.NORMALIZER},
            "manifests": manifest.manifests_digest(manifests_of(recipe, output)),
            "where": corpus.where,
            "language": corpus.language,
            "licence": corpus.licence,
            "max_duration_s": corpus.max_duration_s,
            "min_utterances_per_speaker": corpus.min_utterances_per_speaker,
        },
    )


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _stage(output: Output, name: str, dataset_name: str, made: list[tuple[Partition, Any]]) -> StagePlan:
    dataset = output.dataset(dataset_name)
    committed = dataset.committed_names()
    return StagePlan(
        name=name,
        dataset=dataset_name,
        partitions=tuple(partition for partition, _ in made),
        fresh=frozenset(p.key for p, _ in made if f"{p.partition_id}-{p.key}" in committed),
        output=dataset,
        payloads={partition.partition_id: payload for partition, payload in made},
    )


def _casts(utterances: Any, splits: Splits, recipe: Recipe, folder: Path, index: str) -> list[cast.Cast]:
    """Return every conversation's cast, from the last time that it was planned where nothing that counts has changed.

    A million casts take minutes to plan and a second to read.
    """
    values = {"casting": recipe.casting, "seed": recipe.seed, "index": index, "version": cast.VERSION}
    path = folder / f"casts-{digest(values)[:16]}.arrow"
    if path.exists():
        with pa.memory_map(str(path)) as source:
            columns = pa.ipc.open_file(source).read_all().to_pydict()
        return [cast.Cast(i, s, tuple(who), tuple(rows)) for i, s, who, rows in zip(*columns.values(), strict=True)]
    casts = cast.plan_casts(utterances, splits, recipe.casting, recipe.seed)
    if len(casts) >= 2000:
        names = ("conversation_id", "split", "speakers", "rows")
        kinds = (pa.string(), pa.string(), pa.list_(pa.string()), pa.list_(pa.int64()))
        table = pa.table(
            {name: pa.array([getattr(c, name) for c in casts], kind) for name, kind in zip(names, kinds, strict=True)}
        )
        folder.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{path.name}.{os.getpid()}")
        with pa.ipc.new_file(str(staged), table.schema) as writer:
            writer.write_table(table)
        os.replace(staged, path)
    return casts


def plan_road(recipe: Recipe, output: Output, checkpoint: Path | None = None) -> Plan:
    """Plan every stage behind the index; a given checkpoint is judged instead of the recipe's own.

    Raises:
        InputError: the utterances are not indexed yet, or cannot make the conversations that the recipe wants.
    """
    index = index_partition(recipe, output)
    utterances_set = output.dataset("utterances")
    receipt = utterances_set.committed(index)
    if receipt is None:
        raise InputError("the corpus is not indexed yet")
    utterances = utterances_set.open(receipt).read_all()
    splits = cast.split_rows(utterances, recipe.casting, recipe.seed)
    casts = _casts(utterances, splits, recipe, output.folder / "plans", receipt.content_digest)
    codec, compose = recipe.encode.spec, recipe.compose
    row_digests = [digest(row)[:16] for row in utterances.to_pylist()]
    speaker_of = utterances["speaker"].to_pylist()

    # 1. simulate: conversations, a fixed set of ids each. What all of them depend on is written out once.
    of_all = {
        "operators": {
            "cast": cast.VERSION,
            "converse": recipe.converse.version,
            "place": recipe.place.version,
            "schema": SCHEMA_VERSION,
        },
        "converse": to_jsonable(recipe.converse),
        # Of the user's responses and noises it is their content that counts, not where they lie.
        "place": {n: v for n, v in to_jsonable(recipe.place).items() if n not in ("rirs", "noises")}
        | {name: sounds.digest for name, sounds in recipe.place.lists().items()},
        "prior": digest(prior_of(recipe.converse.prior))[:16],
        "seed": recipe.seed,
    }
    conversations: list[tuple[Partition, Any]] = []
    audio: list[tuple[Partition, Any]] = []
    for split in cast.SPLITS:
        of_split = [one for one in casts if one.split == split]
        for number, group in enumerate(_chunks(of_split, recipe.partitions.conversations_per_partition)):
            used: dict[str, dict[str, str]] = {}
            for one in group:
                for row in one.rows:
                    used.setdefault(speaker_of[row], {})[str(row)] = row_digests[row]
            partition = Partition(
                partition_id=f"{split}-{number:05d}",
                row_ids=tuple(one.conversation_id for one in group),
                depends={
                    **of_all,
                    # The rows that it uses, in order: not the whole manifest.
                    "casts": digest_json([[c.speakers, [row_digests[row] for row in c.rows]] for c in group])[:32],
                    "speakers": {s: digest_json(sorted(rows.values()))[:16] for s, rows in sorted(used.items())},
                },
            )
            payload = [[c.conversation_id, c.split, list(c.speakers), list(c.rows)] for c in group]
            conversations.append((partition, payload))

    # Recorded ones are taken as they were indexed.
    of_record: list[tuple[str, str, str]] = []
    if recipe.corpus.recorded:
        taken = output.dataset("recordings").committed(recordings_partition(recipe))
        if taken is None:
            raise InputError("the recorded conversations are not indexed yet")
        rows = output.dataset("recordings").open(taken).read_all().to_pylist()
        of_record = [(row["split"], row["conversation_id"], digest(row)[:16]) for row in rows]
    for split in cast.SPLITS:
        mine = [(name, hashed) for of, name, hashed in of_record if of == split]
        for number, some in enumerate(_chunks(mine, recipe.partitions.recordings_per_partition)):
            partition = Partition(
                partition_id=f"{split}-recorded-{number:05d}",
                row_ids=tuple(name for name, _ in some),
                depends={"operators": {"schema": SCHEMA_VERSION}, "recordings": digest([h for _, h in some])[:32]},
            )
            conversations.append((partition, {"recordings": [name for name, _ in some]}))
    for split in cast.SPLITS:
        if not any(partition.partition_id.startswith(split) for partition, _ in conversations):
            raise InputError(
                f"there is no conversation in the {split} split; name recordings for it as {split}=PATH, or raise "
                f"--casting.{split}-conversations"
            )

    # 2. tokenize: codes of the same ids. 3. pack: shards of groups of the train split's partitions.
    codes: list[tuple[Partition, Any]] = []
    mixed = {"level_dbfs": recipe.render.level_dbfs}
    with_stems = {**mixed, "stems": recipe.render.stems}
    renders = {"render": recipe.render.version, "schema": SCHEMA_VERSION}
    of_audio = {"operators": renders, "render": with_stems}
    of_codes = {
        "operators": {**renders, "encode": recipe.encode.version},
        "render": with_stems if recipe.encode.stems else mixed,
        "codec": to_jsonable(codec),
    }
    for upstream, _ in conversations:
        same = {"partition_id": upstream.partition_id, "row_ids": upstream.row_ids}
        reads = {"partition_id": upstream.partition_id, "key": upstream.key}
        if recipe.render.keep_audio:
            audio.append((Partition(**same, depends={**of_audio, "conversations": upstream.key}), reads))  # type: ignore[arg-type]
        codes.append((Partition(**same, depends={**of_codes, "conversations": upstream.key}), reads))  # type: ignore[arg-type]
    packs: list[tuple[Partition, Any]] = []
    of_train = [partition for partition, _ in codes if partition.partition_id.startswith("train-")]
    taken_over = [p for p in of_train if p.partition_id.startswith("train-recorded-")]
    simulated = [p for p in of_train if not p.partition_id.startswith("train-recorded-")]
    groups = [
        (prefix, number, group)
        for prefix, listed in (("", simulated), ("recorded-", taken_over))
        for number, group in enumerate(_chunks(listed, recipe.partitions.partitions_per_pack_group))
    ]
    for prefix, number, group in groups:
        for task in compose.tasks:  # apart, so that the loader mixes tasks and origins as it likes
            partition = Partition(
                partition_id=f"train-{prefix}{task}-{number:05d}",
                row_ids=tuple(p.partition_id for p in group),
                depends={
                    "operators": {"compose": compose.version, "pack": recipe.pack.version, "schema": SCHEMA_VERSION},
                    "compose": {n: v for n, v in to_jsonable(compose).items() if n != "tokenizer"} | {"tasks": [task]},
                    "pack": to_jsonable(recipe.pack),
                    "tokenizer": compose.loaded_tokenizer.digest,
                    "codes": {p.partition_id: p.key for p in group},
                },
            )
            upstreams = [{"partition_id": p.partition_id, "key": p.key} for p in group]
            packs.append((partition, {"task": task, "component": f"{prefix}{task}", "codes": upstreams}))

    # 4. train, 5. evaluate: what they depend on decides their folders.
    ignored = (
        "num_threads", "keep_checkpoints", "keep_best", "checkpoint_every", "attention", "recompute", "compile",
        "shard", "start_from",
    )  # fmt: skip
    training_key = digest(
        {
            "version": TRAIN_VERSION,
            "train": {name: value for name, value in to_jsonable(recipe.train).items() if name not in ignored},
            "start": start_digest(recipe),
            "model": recipe.model,
            "seed": recipe.seed,
            "packs": [partition.key for partition, _ in packs],
        }
    )
    judged = {"trained": recipe.train.steps, "untrained": 0}
    if checkpoint is not None or not recipe.evaluate.untrained:
        del judged["untrained"]
    hypotheses: list[tuple[Partition, Any]] = []
    for which, step in judged.items():
        folder = checkpoint or output.training(training_key).absolute() / f"step-{step:06d}"
        weights: dict[str, Any] = {"training": training_key, "step": step}
        if checkpoint is not None:
            weights = {"weights": digest_file(checkpoint / "model.safetensors")[:32]}
        for upstream, _ in codes:
            if upstream.partition_id.startswith("test-"):
                partition = Partition(
                    partition_id=f"{which}-{upstream.partition_id}",
                    row_ids=upstream.row_ids,
                    depends={
                        **weights,
                        "evaluate": {
                            "max_tokens": recipe.evaluate.max_tokens,
                            "constrain": recipe.evaluate.constrain,
                            "window_s": compose.window_s,
                            "version": EVALUATE_VERSION,
                        },
                        "codes": upstream.key,
                    },
                )
                reads = {"partition_id": upstream.partition_id, "key": upstream.key}
                hypotheses.append((partition, {**reads, "which": which, "checkpoint": str(folder)}))
    evaluation_key = digest([partition.key for partition, _ in hypotheses])

    stages = [
        StagePlan("index", "utterances", (index,), frozenset({index.key})),
        *(
            [StagePlan("index", "recordings", (heard,), frozenset({heard.key}))]
            if recipe.corpus.recorded and (heard := recordings_partition(recipe))
            else []
        ),
        _stage(output, "simulate", "conversations", conversations),
        *([_stage(output, "simulate", "audio", audio)] if audio else []),
        _stage(output, "tokenize", "codes", codes),
        _stage(output, "pack", "packs", packs),
        _stage(output, "evaluate", "hypotheses", hypotheses),
    ]
    return Plan(recipe, output, tuple(stages), training_key, evaluation_key, splits, checkpoint)
