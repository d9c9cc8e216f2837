"""run: the whole road, or as far along it as asked. What is done stays; what is stale is made; then say where it is."""

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.session import Session, connect
from operators.dataset import Dataset, Quarantined, Receipt, RowWriter, Snapshot
from operators.digest import plain
from operators.errors import InputError
from operators.manifest import corpus_roots, index
from operators.recorded import index_recorded
from operators.schema import CONVERSATIONS, UTTERANCES
from operators.text import NORMALIZER
from pipelines import console, evaluate, pack, simulate, train
from pipelines.cluster_commands import check_cluster
from pipelines.partitions import build
from pipelines.recipes import Recipe, check, differences, to_json
from pipelines.road import (
    STAGES,
    Output,
    Plan,
    StagePlan,
    given_manifests,
    index_partition,
    made_corpus,
    manifests_of,
    plan_road,
    recorded_of,
    recordings_partition,
    sound_roots,
)
from pipelines.tracking import StageRun, Tracker, code_version, unrecorded
from pipelines.transcribe import newest_checkpoint


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a recipe is run; changes no result."""

    output: Path
    """Folder for everything that is made; on a cluster, one that every node sees."""
    workers: int | None = None
    """Processes of a local Ray; as many as there are cores by default."""
    train_workers: int = 1
    """Workers of Ray Train; their packs are a step's packs, shared out."""
    ray_address: str | None = None
    """Cluster to join instead of a local Ray."""
    store: str = ""
    """URL of data sets and checkpoints (s3://bucket/runs/x), where not every node sees the output folder."""
    update: bool = False
    """Go on in an output folder that holds another recipe's results; what still fits is kept."""
    checkpoint: Path | None = None
    """Checkpoint to judge instead of the recipe's own."""
    truth: tuple[str, ...] = ()
    """Truth files to write: rttm, stm, seglst, ctm, sot, activity."""
    register: str | None = None
    """Name in MLflow's model registry that the judged checkpoint becomes a version of."""
    sweep: str = ""
    """MLflow run that this one stands below."""


@dataclass
class Road:
    """One walk down the road: what is open, and what it has made so far."""

    recipe: Recipe
    options: Options
    stack: ExitStack
    made_by: dict[str, Any]
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    quarantined: list[Quarantined] = field(default_factory=list)
    _session: Session | None = None
    _tracker: Tracker | None = None
    unrecorded: frozenset[str] = frozenset()
    """Stages that are done, but whose runs a kill left open."""
    did_work: bool = False

    @property
    def output(self) -> Output:
        """Where everything goes."""
        return Output(self.options.output, self.options.store)

    def session(self) -> Session:
        """Return Ray, started when first needed."""
        if self._session is None:
            try:
                self._session = self.stack.enter_context(connect(self.options.ray_address, self.options.workers))
            except ConnectionError as error:
                raise InputError(f"{error}; start one, or leave out --ray-address for a local one") from error
            options = self.options
            check_cluster(self.recipe, self._session, options.output, self.output.store, options.train_workers)
        return self._session

    def tracker(self) -> Tracker:
        """Return the tracking server's runs, begun when there is work to record."""
        if self._tracker is None:
            self._tracker = Tracker(self.recipe, self.output, self.options.sweep)
        self.did_work = True
        return self._tracker

    def journal(self, stage: str, event: str) -> None:
        """Note when a stage begins and ends: for whoever watches from outside."""
        with open(self.options.output / "journal.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), "stage": stage, "event": event}) + "\n")

    @contextmanager
    def stage(self, name: str) -> Iterator[StageRun]:
        """Record one stage."""
        self.journal(name, "start")
        with self.tracker().stage(name) as run:
            yield run
        self.journal(name, "end")


def run(recipe: Recipe, options: Options, until: str = "evaluate") -> dict[str, Any]:
    """Walk the road as far as a stage; return what was made.

    Raises:
        InputError: the user can mend it; nothing already made is lost.
    """
    check(recipe)
    simulate.check(recipe)
    pack.check(recipe)
    train.check(recipe)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.store:
        Output(options.output).remember(options.store)
    with ExitStack() as stack:
        stack.enter_context(only_one(options.output))
        claim(recipe, options)
        code = code_version()
        made_by = {"recipe": recipe.name, "recipe_digest": recipe.digest, "seed": recipe.seed, "code": code}
        if code.get("dirty"):
            console.notice("the working tree has changes that are not committed; the lineage will say so")
        road = Road(recipe, options, stack, made_by, unrecorded=unrecorded(Output(options.output)))
        result = _walk(road, until)
        whole_road = until == "evaluate" and options.checkpoint is None
        if road.did_work or (whole_road and "run" in road.unrecorded):
            road.tracker().finish(_figures(result), whole_road=whole_road)
        return result


def _walk(road: Road, until: str) -> dict[str, Any]:
    last = STAGES.index(until)
    _index(road)
    if road.recipe.corpus.recorded:
        _index_recorded(road)
    simulate.check_licences(road.recipe, road.output, road.snapshots)
    given = road.options.checkpoint
    if given is not None:
        given = evaluate.check_checkpoint(newest_checkpoint(given), road.recipe)
    plan = plan_road(road.recipe, road.output, given)
    console.line("splits", plan.splits.describe())
    if cast := simulate.use(plan):
        console.line("casting", cast)
    roots = sound_roots(road.recipe, road.output)
    end = min(last, STAGES.index("pack" if given is None else "tokenize"))
    for stage in (stage for stage in plan.stages if stage.name != "index"):
        if STAGES.index(stage.name) <= end:
            _partitions(road, stage, roots)
            if stage.dataset == "conversations":
                made = road.snapshots["conversations"]
                text, _ = simulate.realism(road.recipe, road.output.dataset("conversations"), made)
                console.line("realism", text)
                utterances = road.output.dataset("utterances").read(road.snapshots["utterances"])
                if notice := simulate.too_long(road.recipe, utterances):
                    console.notice(notice)
    if road.options.truth:
        for path in simulate.write_truth_files(
            road.output, road.snapshots["conversations"], road.options.truth, road.recipe.encode.spec.hop_samples
        ):
            console.line("truth", path)
    result: dict[str, Any] = {"snapshots": road.snapshots, "plan": plan}
    if last >= STAGES.index("train") and given is None:
        _train(road, plan)
        result["training"] = train.summary(train.curve(plan))
    if last >= STAGES.index("evaluate"):
        result["metrics"] = _evaluate(road, plan, roots)
    _write_quarantine(road)
    return result


def _index(road: Road) -> None:
    """Corpus -> utterances: in this process, for headers only are read."""
    recipe, output = road.recipe, road.output
    folder = made_corpus(recipe, output)
    if folder is not None and not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
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
            _indexed(run_, _snapshot(road, dataset, [receipt], _manifest_digests(partition.depends["manifests"])))
    if receipt is None:
        corpus = recipe.corpus
        utterances, bad = index(
            manifests_of(recipe, output), corpus.where, corpus.max_duration_s, corpus.language, corpus.licence
        )
        utterances, few = _without_lone_speakers(utterances, corpus.min_utterances_per_speaker)
        bad = [*bad, *few]
        _refuse_above(bad, utterances.num_rows + len(bad), corpus.max_bad_share, road)
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
            snapshot = _snapshot(road, dataset, [receipt], _manifest_digests(partition.depends["manifests"]))
            _indexed(run_, snapshot)
    snapshot = _snapshot(road, dataset, [receipt], _manifest_digests(partition.depends["manifests"]))
    road.quarantined += receipt.quarantined
    _said("index", fresh, f"{_describe(snapshot)}, {receipt.counts['speakers']:.0f} speakers")


def _index_recorded(road: Road) -> None:
    """Recorded conversations -> their index, in this process."""
    recipe, dataset = road.recipe, road.output.dataset("recordings")
    partition = recordings_partition(recipe)
    receipt = dataset.committed(partition)
    fresh = receipt is not None
    inputs = _manifest_digests(partition.depends["manifests"])
    if receipt is None:
        manifests, corpus = recorded_of(recipe), recipe.corpus
        roots = {path: name for name, path in corpus_roots([*manifests_of(recipe, road.output), *manifests]).items()}
        conversations, bad = index_recorded(
            manifests, roots, recipe.converse.sample_rate_hz, seed=recipe.seed, test_share=recipe.casting.test_speakers,
            language=corpus.language, licence=corpus.licence,
        )  # fmt: skip
        _refuse_above(bad, conversations.num_rows + len(bad), corpus.max_bad_share, road)

        def fill(writer: RowWriter) -> None:
            writer.write(conversations)
            writer.quarantined += bad
            hz = recipe.converse.sample_rate_hz
            writer.count(audio_s=sum(conversations["num_samples"].to_pylist()) / hz)

        with road.stage("index") as run_:
            receipt = dataset.commit(partition, CONVERSATIONS, {"hubbub.normalizer": NORMALIZER}, fill)
            _indexed(run_, _snapshot(road, dataset, [receipt], inputs))
    road.quarantined += receipt.quarantined
    _said("recordings", fresh, _describe(_snapshot(road, dataset, [receipt], inputs)))


def _indexed(run_: StageRun, snapshot: Snapshot) -> None:
    run_.reads_manifests(snapshot.inputs)
    run_.wrote(snapshot)


def _manifest_digests(listed: list[str]) -> dict[str, str]:
    return {f"manifest {name}": digest for _, name, digest in (text.split(":", 2) for text in listed)}


def _without_lone_speakers(utterances: Any, least: int) -> tuple[Any, list[Quarantined]]:
    import pyarrow.compute as pc

    counted = {row["values"]: row["counts"] for row in pc.value_counts(utterances["speaker"]).to_pylist()}
    lone = {speaker for speaker, number in counted.items() if number < least}
    if not lone:
        return utterances, []
    keep = pc.invert(pc.is_in(utterances["speaker"], value_set=_array(sorted(lone))))
    bad = [
        Quarantined(
            row_id=row["utterance_id"],
            reason=f"speaker {row['speaker']} has {counted[row['speaker']]} utterance(s), fewer than {least} "
            "(--corpus.min-utterances-per-speaker)",
        )
        for row in utterances.filter(pc.invert(keep)).select(["utterance_id", "speaker"]).to_pylist()
    ]
    return utterances.filter(keep), bad


def _array(values: list[str]) -> Any:
    import pyarrow as pa

    return pa.array(values)


def _refuse_above(bad: list[Quarantined], total: int, share: float, road: Road) -> None:
    """Stop where more rows are bad than the recipe allows; write all of them down first."""
    if bad and len(bad) > share * total:
        road.quarantined += bad
        path = _write_quarantine(road)
        first = f"{bad[0].row_id}: {bad[0].reason}"
        raise InputError(
            f"{len(bad)} of {total} rows cannot be used, the first being {first}; all are in {path}. "
            f"Mend or filter them (--corpus.where), or go on without them: "
            f"--corpus.max-bad-share {len(bad) / total + 5e-5:.4f}"
        )


def _write_quarantine(road: Road) -> Path:
    path = road.options.output / "quarantine.jsonl"
    rows = sorted({(q.row_id, q.reason) for q in road.quarantined})
    text = "".join(json.dumps({"row_id": i, "reason": reason}, ensure_ascii=False) + "\n" for i, reason in rows)
    path.write_text(text, encoding="utf-8")
    return path


def _snapshot(road: Road, dataset: Dataset, receipts: list[Receipt], inputs: dict[str, str]) -> Snapshot:
    road.snapshots[dataset.name] = dataset.snapshot(receipts, inputs, road.made_by)
    return road.snapshots[dataset.name]


_UPSTREAM = {
    "conversations": ("utterances", "recordings"),
    "audio": ("conversations",),
    "codes": ("conversations",),
    "packs": ("codes",),
}


def _partitions(road: Road, stage: StagePlan, roots: dict[str, Path]) -> None:
    """Make a stage's stale partitions and take its snapshot."""
    dataset = road.output.dataset(stage.dataset)
    stale = stage.stale
    inputs = {name: road.snapshots[name].merkle_root for name in _UPSTREAM[stage.dataset] if name in road.snapshots}
    if stale or stage.name in road.unrecorded:
        with road.stage(stage.name) as run_:
            if stale:
                road.session()
            started, audio_s = time.monotonic(), 0.0
            with console.bar(stage.dataset, len(stale)) as bar:
                for done, receipt in enumerate(build(stage, road.recipe, road.output, roots), 1):
                    audio_s += receipt.counts.get("audio_s", 0.0)
                    minutes = (time.monotonic() - started) / 60
                    bar.to(done, f"{audio_s / 3600 / minutes:.2f} h of audio/min" if audio_s else "")
            snapshot = _close(road, stage, dataset, inputs)
            run_.reads([(road.snapshots[name], road.output.dataset(name).url()) for name in inputs])
            run_.wrote(snapshot)
            run_.metrics({"seconds": time.monotonic() - started, "partitions_made": len(stale)})
            if stage.dataset == "conversations":
                run_.metrics(simulate.realism(road.recipe, dataset, snapshot)[1], prefix="realism.")
    else:
        snapshot = _close(road, stage, dataset, inputs)
    _said(stage.dataset, not stale, _describe(snapshot) + (f"; made {len(stale)}" if stale else ""))


def _close(road: Road, stage: StagePlan, dataset: Dataset, inputs: dict[str, str]) -> Snapshot:
    receipts = [receipt for p in stage.partitions if (receipt := dataset.committed(p)) is not None]
    if len(receipts) != len(stage.partitions):
        raise InputError(
            f"{len(stage.partitions) - len(receipts)} partitions of {dataset.url()} are missing; run again"
        )
    bad = [q for receipt in receipts for q in receipt.quarantined]
    _refuse_above(bad, sum(r.num_rows for r in receipts) + len(bad), road.recipe.corpus.max_bad_share, road)
    road.quarantined += bad
    return _snapshot(road, dataset, receipts, inputs)


def _describe(snapshot: Snapshot) -> str:
    parts = [f"{console.count(snapshot.num_rows)} rows in {len(snapshot.receipts)} partitions"]
    if audio_s := snapshot.total("audio_s"):
        parts.append(console.hours(audio_s))
    if room := snapshot.total("room"):
        parts.append(f"{console.count(snapshot.total('columns'))} columns, {snapshot.total('columns') / room:.2%} full")
    if bad := sum(len(receipt.quarantined) for receipt in snapshot.receipts):
        parts.append(f"{bad} quarantined (quarantine.jsonl says why)")
    return ", ".join(parts)


def _said(name: str, fresh: bool, text: str) -> None:
    console.line(name, f"{text}{' (fresh)' if fresh else ''}")


def _train(road: Road, plan: Plan) -> None:
    """Packs -> checkpoints."""
    folder = plan.output.training(plan.training_key)
    packs = road.snapshots["packs"]
    if not plan.training_done() or "train" in road.unrecorded:
        with road.stage("train") as run_:
            run_.reads([(packs, road.output.dataset("packs").url())])
            lineage = {
                **road.made_by,
                "corpora": {
                    source: listed
                    for name in ("utterances", "recordings")
                    if name in road.snapshots
                    for source, listed in road.snapshots[name].inputs.items()
                },
                "datasets": {name: snapshot.merkle_root for name, snapshot in road.snapshots.items()},
                "mlflow_run": run_.run_id,
            }
            with console.bar("train", road.recipe.train.steps) as bar, _watched(plan, run_, bar):
                if not plan.training_done():
                    train.fit(plan, packs, lineage, road.session(), road.options.train_workers)
            for step in (0, road.recipe.train.steps):
                run_.model(
                    folder / f"step-{step:06d}", f"{road.recipe.name}-step-{step}", {"hubbub.packs": packs.merkle_root}
                )
            summary = train.summary(train.curve(plan))
            run_.metrics(summary, step=road.recipe.train.steps, prefix="summary.")
        fresh = False
    else:
        plan.bring()
        fresh = True
    summary = train.summary(train.curve(plan))
    text = f"{summary['steps']:.0f} steps, loss {summary['first_loss']:.3f} -> {summary['last_loss']:.3f}"
    _said("train", fresh, f"{text}, {console.count(summary['columns_per_s'])} columns/s")


@contextmanager
def _watched(plan: Plan, run_: StageRun, bar: console.Bar) -> Iterator[None]:
    """Follow the metrics file while training goes on: move the bar, and send the curve a batch at a time."""
    stop = threading.Event()
    sent = run_.last_step("loss")

    def follow() -> None:
        nonlocal sent
        while True:
            finished = stop.wait(1.0)
            records = train.curve(plan)
            if records:
                recent = records[-20:]
                rate = sum(r.num_columns for r in recent) / max(sum(r.seconds for r in recent), 1e-9)
                bar.to(records[-1].step, f"loss {records[-1].loss:.3f}, {rate:,.0f} columns/s")
            new = [(record.step, train.as_metrics(record)) for record in records if record.step > sent]
            if len(new) >= 50 or (finished and new):
                run_.curve(new)
                sent = new[-1][0]
            if finished:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=60)


def _evaluate(road: Road, plan: Plan, roots: dict[str, Path]) -> dict[str, Any]:
    """Checkpoints and the test split -> metrics."""
    path = plan.output.evaluation(plan.evaluation_key) / "metrics.json"
    stage = plan_road(plan.recipe, plan.output, plan.checkpoint).stage("hypotheses")
    fresh = plan.evaluation_done() and not stage.stale and "evaluate" not in road.unrecorded
    fresh = fresh and not road.options.register
    if not fresh:
        with road.stage("evaluate") as run_:
            if stage.stale:
                started = time.monotonic()
                session = road.session()
                with console.bar("evaluate", len(stage.stale)) as bar:
                    made = build(stage, road.recipe, road.output, roots, num_gpus=1.0 if session.num_gpus else 0.0)
                    for done, receipt in enumerate(made, 1):
                        rate = done * receipt.num_rows / (time.monotonic() - started) * 60
                        bar.to(done, f"{rate:.0f} conversations/min")
            dataset = road.output.dataset("hypotheses")
            snapshot = _close(road, stage, dataset, {"codes": road.snapshots["codes"].merkle_root})
            metrics = evaluate.score(plan)
            run_.reads([(road.snapshots["codes"], road.output.dataset("codes").url())])
            run_.wrote(snapshot)
            for which in ("trained", "untrained"):
                if which in metrics:
                    folder = Path(metrics[which]["checkpoint"])
                    model_id = run_.model(folder, f"{road.recipe.name}-{folder.name}", {"hubbub.which": which})
                    figures = {f"{which}.cpwer": metrics[which]["cpwer"]["rate"]}
                    run_.model_metrics(model_id, road.snapshots["codes"], figures)
                    if which == "trained" and road.options.register:
                        run_.register(road.options.register, model_id, figures)
            run_.files(path.parent)
    else:
        _close(road, stage, road.output.dataset("hypotheses"), {"codes": road.snapshots["codes"].merkle_root})
    metrics = json.loads(path.read_text())
    rates = ", ".join(
        f"{which} {metrics[which]['cpwer']['rate']:.1%}" for which in ("trained", "untrained") if which in metrics
    )
    _said("evaluate", fresh, f"cpWER {rates} on {metrics['trained']['cpwer']['num_conversations']} conversations")
    return dict(metrics)


def _figures(result: dict[str, Any]) -> dict[str, float]:
    figures = {f"train.{name}": value for name, value in result.get("training", {}).items()}
    for which in ("trained", "untrained"):
        if which in result.get("metrics", {}):
            figures[f"{which}.cpwer"] = result["metrics"][which]["cpwer"]["rate"]
    return figures


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; the system frees it when the holder dies.

    Raises:
        InputError: another run is at work there.
    """
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise InputError(
                f"another run (process {file.read().strip() or '?'}) is at work in {folder}; wait for it"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def claim(recipe: Recipe, options: Options) -> None:
    """Write the resolved recipe beside the output.

    Raises:
        InputError: the folder belongs to another recipe.
    """
    path = options.output / "recipe.json"
    if path.exists():
        there, here = json.loads(path.read_text()), plain(recipe)
        changed = differences(there, here)
        if changed and not options.update:
            shown = "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise InputError(
                f"{options.output} belongs to another recipe ({shown}); give another --output, or --update to go on "
                "there with this one (what still fits is kept)"
            )
        if not changed:
            return
    staged = path.with_suffix(".part")
    staged.write_text(to_json(recipe))
    os.replace(staged, path)
