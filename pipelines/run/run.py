"""run: the whole road, or as far along it as asked. What is done stays; what is stale is made; then say where it is."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from operators.digest import to_jsonable
from operators.errors import InputError
from operators.store.dataset import Dataset, Snapshot
from pipelines.plan.context import (
    RunContext,
    RunOptions,
    describe,
    lock_folder,
    refuse_above,
    report_stage,
    take_snapshot,
    write_quarantine,
)
from pipelines.plan.road import (
    STAGES,
    Output,
    Plan,
    StagePlan,
    plan_road,
    sound_roots,
)
from pipelines.plan.start import newest_checkpoint
from pipelines.recipes.check import check_recipe
from pipelines.recipes.files import differences, to_json
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console
from pipelines.reporting.tracking import StageRun, code_version, unrecorded
from pipelines.run.partitions import build
from pipelines.stages import evaluate, pack, simulate, train
from pipelines.stages.index import index_conversations, index_corpus


def run(recipe: Recipe, options: RunOptions, until: str = "evaluate") -> dict[str, Any]:
    """Walk the road as far as a stage; return what was made.

    Raises:
        InputError: the user can mend it; nothing already made is lost.
    """
    check_recipe(recipe)
    simulate.check(recipe)
    pack.check(recipe)
    train.check(recipe)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.store:
        Output(options.output).remember(options.store)
    with ExitStack() as stack:
        stack.enter_context(lock_folder(options.output))
        claim(recipe, options)
        code = code_version()
        made_by = {"recipe": recipe.name, "recipe_digest": recipe.digest, "seed": recipe.seed, "code": code}
        if code.get("dirty"):
            console.notice("the working tree has changes that are not committed; the lineage will say so")
        road = RunContext(recipe, options, stack, made_by, unrecorded=unrecorded(Output(options.output)))
        result = _walk(road, until)
        whole_road = until == "evaluate" and options.checkpoint is None
        if road.did_work or (whole_road and "run" in road.unrecorded):
            road.tracker().finish(_figures(result), whole_road=whole_road)
        return result


def _walk(road: RunContext, until: str) -> dict[str, Any]:
    last = STAGES.index(until)
    index_corpus(road)
    if road.recipe.corpus.recorded:
        index_conversations(road)
    simulate.check_licences(road.recipe, road.output, road.snapshots)
    given = road.options.checkpoint
    if given is not None:
        given = evaluate.check_checkpoint(newest_checkpoint(given), road.recipe)
    plan = plan_road(road.recipe, road.output, given)
    if any(stage.stale for stage in plan.stages):
        road.expect_work()
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
    write_quarantine(road)
    return result


_UPSTREAM = {
    "conversations": ("utterances", "recordings"),
    "audio": ("conversations",),
    "codes": ("conversations",),
    "packs": ("codes",),
}


def _partitions(road: RunContext, stage: StagePlan, roots: dict[str, Path]) -> None:
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
    report_stage(stage.dataset, not stale, describe(snapshot) + (f"; made {len(stale)}" if stale else ""))


def _close(road: RunContext, stage: StagePlan, dataset: Dataset, inputs: dict[str, str]) -> Snapshot:
    receipts = [receipt for p in stage.partitions if (receipt := dataset.committed(p)) is not None]
    if len(receipts) != len(stage.partitions):
        raise InputError(
            f"{len(stage.partitions) - len(receipts)} partitions of {dataset.url()} are missing; run again"
        )
    bad = [q for receipt in receipts for q in receipt.quarantined]
    refuse_above(bad, sum(r.num_rows for r in receipts) + len(bad), road.recipe.corpus.max_bad_share, road)
    road.quarantined += bad
    return take_snapshot(road, dataset, receipts, inputs)


def _train(road: RunContext, plan: Plan) -> None:
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
                    workers = road.options.train_workers
                    fewest = road.options.min_train_workers or workers
                    train.fit(plan, packs, lineage, road.session(), fewest, workers)
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
    report_stage("train", fresh, f"{text}, {console.count(summary['columns_per_s'])} columns/s")


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


def _evaluate(road: RunContext, plan: Plan, roots: dict[str, Path]) -> dict[str, Any]:
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
                        run_.register(road.options.register, model_id, folder, figures)
            run_.files(path.parent)
    else:
        _close(road, stage, road.output.dataset("hypotheses"), {"codes": road.snapshots["codes"].merkle_root})
    metrics = json.loads(path.read_text())
    rates = ", ".join(
        f"{which} {metrics[which]['cpwer']['rate']:.1%}" for which in ("trained", "untrained") if which in metrics
    )
    report_stage(
        "evaluate", fresh, f"cpWER {rates} on {metrics['trained']['cpwer']['num_conversations']} conversations"
    )
    return dict(metrics)


def _figures(result: dict[str, Any]) -> dict[str, float]:
    figures = {f"train.{name}": value for name, value in result.get("training", {}).items()}
    for which in ("trained", "untrained"):
        if which in result.get("metrics", {}):
            figures[f"{which}.cpwer"] = result["metrics"][which]["cpwer"]["rate"]
    return figures


def claim(recipe: Recipe, options: RunOptions) -> None:
    """Write the resolved recipe beside the output.

    Raises:
        InputError: the folder belongs to another recipe.
    """
    path = options.output / "recipe.json"
    if path.exists():
        there, here = json.loads(path.read_text()), to_jsonable(recipe)
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
