"""What the road costs beside its operators: Ray, MLflow, planning, and whether costs grow as the data does.

`make bench-pipeline`. Prints one JSON object.
"""

import contextlib
import functools
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from operators.corpus.cast import Casting
from operators.digest import to_jsonable
from operators.store.dataset import Receipt
from pipelines.plan.output import Output
from pipelines.plan.sources import audio_roots
from pipelines.recipes.files import to_json
from pipelines.recipes.named import demo
from pipelines.recipes.recipe import Partitions, Recipe
from pipelines.stages import plan_recipe

ROOT = Path(__file__).parents[2]


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def hubbub(*arguments):
    """Run the program, its output going to standard error; return how long it took."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pipelines", *map(str, arguments)], cwd=ROOT, check=True, stdout=sys.stderr)
    return time.perf_counter() - started


def demo_with(folder, **changes) -> Recipe:
    """The demo, with its spoken corpus and index made once."""
    recipe = replace(demo(), **changes)
    path = Path(folder) / "recipe.json"
    path.write_text(to_json(recipe))
    return recipe


def copied(output, names, folder):
    """An output folder that shares corpus and some data sets with another."""
    made = Path(folder)
    (made / "data").mkdir(parents=True)
    for name in ("corpus", *(f"data/{one}" for one in names)):
        (made / name).symlink_to((output.folder / name).absolute())
    return Output(made)


def ray_overhead(output, recipe, folder):
    """Codes of realistic units, by Ray's one worker over a plain loop, in turn."""
    from cluster.session import connect
    from pipelines.execute.partitions import submit

    roots, ratios = audio_roots(recipe, output), []
    with connect(None, 1):
        for number in range(4):
            times = {}
            for which in ("plain", "ray") if number % 2 else ("ray", "plain"):
                mine = copied(output, ("utterances", "conversations"), f"{folder}/{which}-{number}")
                stage = plan_recipe(recipe, mine).stage("codes")
                jobs = stage.jobs(recipe, mine, roots)
                started = time.perf_counter()
                made = list(submit(stage, jobs)) if which == "ray" else [stage.stage.make(job) for job in jobs]
                times[which] = time.perf_counter() - started
                assert len(made) == len(stage.partitions)
            if number:  # the first starts workers and compiles kernels
                ratios.append(times["ray"] / times["plain"])
                say(f"codes: ray {times['ray']:.1f} s, plain {times['plain']:.1f} s")
    return {"ray_overhead": round(statistics.median(ratios) - 1, 4)}


@contextlib.contextmanager
def clocked(owner, names, spent):
    """Count the seconds that some methods of a class take, in the thread that waits for the run."""
    import threading

    before, main = {name: getattr(owner, name) for name in names}, threading.current_thread()

    def clock(call):
        @functools.wraps(call)
        def timed(*arguments, **options):
            started = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                if threading.current_thread() is main:
                    spent.append(time.perf_counter() - started)

        return timed

    for name, call in before.items():
        setattr(owner, name, clock(call))
    try:
        yield
    finally:
        for name, call in before.items():
            setattr(owner, name, call)


def mlflow_overhead(folder, steps):
    """What the demo's run waits for MLflow, over the rest of it; training cut short, and scaled to its full length.

    The database is there already, as it is for everybody but the first run.
    """
    import os

    from mlflow import MlflowClient

    from pipelines.plan.context import RunOptions
    from pipelines.reporting.mlflow_runs import StageRun, Tracker
    from pipelines.run import run
    from pipelines.stages.train import curve

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).search_experiments()
    recipe = replace(demo(), train=replace(demo().train, steps=steps))
    spent: list[float] = []
    with (
        clocked(Tracker, ("__init__", "_create", "_save", "finish"), spent),
        clocked(StageRun, ("reads", "wrote", "metrics", "model", "model_metrics", "files", "curve"), spent),
        contextlib.redirect_stdout(sys.stderr),
    ):
        started = time.perf_counter()
        result = run(recipe, RunOptions(output=Path(folder) / "mlflow"))
        seconds = time.perf_counter() - started
    trained = sum(record.seconds for record in curve(result.plan))
    whole = seconds + trained * (demo().train.steps / steps - 1)
    say(f"MLflow: {sum(spent):.1f} s in {len(spent)} calls; the demo would take {whole:.0f} s")
    return {"mlflow_overhead": round(sum(spent) / (whole - sum(spent)), 4)}


def dry(output_folder, number):
    """Plan and simulate some conversations without a sample of audio; in a process of its own."""
    recipe = named(number)
    output = Output(Path(output_folder))
    with tempfile.TemporaryDirectory() as folder:
        mine = copied(output, ("utterances",), f"{folder}/out")
        started = time.process_time()
        stage = plan_recipe(recipe, mine).stage("conversations")
        for job in stage.jobs(recipe, mine, {}):
            stage.stage.make(job)
        seconds = time.process_time() - started
    # Not ru_maxrss, which a child takes over from its parent on Linux.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak}))


def named(number) -> Recipe:
    """The demo with so many conversations, in partitions of the demo's size."""
    casting = replace(demo().casting, train_conversations=number)
    return replace(demo(), casting=casting)


def growth(output):
    """Exponent of CPU time in the number of conversations."""
    found = {}
    for number in (1_000, 10_000, 100_000):
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.pipeline", "dry", str(output.folder), str(number)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        found[number] = json.loads(done.stdout)
        say(f"{number} conversations: {found[number]}")
    # What starting up and compiling costs is in the smallest; the slope is of what comes on top.
    small, middle, large = (found[number] for number in (1_000, 10_000, 100_000))
    slope = math.log10((large["seconds"] - small["seconds"]) / (middle["seconds"] - small["seconds"]) / 11) + 1
    return {
        "cost_exponent": round(slope, 3),
        "cost_peak_mb_10k": round(middle["peak_mb"]),
        "cost_peak_mb_100k": round(large["peak_mb"]),
    }


def plan_100k(output, folder):
    """The whole command `hubbub plan` over 100,000 committed partitions."""
    number = 50_000
    recipe = replace(
        demo(),
        casting=Casting(train_conversations=number - 50, test_conversations=50, max_speakers=2, max_utterances=3),
        partitions=Partitions(conversations_per_partition=1, partitions_per_pack_group=1000),
    )
    mine = copied(output, ("utterances",), f"{folder}/many")
    (mine.folder / "recipe.json").write_text(to_json(recipe))
    plan = plan_recipe(recipe, mine)
    total = 0
    for stage in plan.stages:
        if stage.dataset not in ("conversations", "codes", "packs"):
            continue
        dataset = mine.dataset(stage.dataset)
        place = Path(dataset.url("partitions"))
        place.mkdir(parents=True)
        receipts = []
        for p in stage.partitions:
            receipt = Receipt(
                partition_id=p.partition_id,
                key=p.key,
                num_rows=1,
                num_bytes=1000,
                content_digest="0" * 64,
                counts={"audio_s": 7.0, "seconds": 0.1},
                depends=to_jsonable(p.depends),
            )
            (place / f"{p.partition_id}-{p.key}.json").touch()
            receipts.append(receipt)
        dataset.snapshot(receipts, {}, {})
        total += len(stage.partitions)
    assert total >= 100_000, total
    path = mine.folder / "recipe.json"
    seconds = statistics.median(hubbub("plan", path, "--output", mine.folder) for _ in range(3))
    # One parameter of the rooms' sound changes: every second partition is stale, and says why.
    change = ("--render.level-dbfs", -27, "--update")
    stale = statistics.median(hubbub("plan", path, "--output", mine.folder, *change) for _ in range(3))
    return {"plan_100k_s": round(seconds, 2), "plan_partitions": total, "plan_100k_half_stale_s": round(stale, 2)}


def noop(folder):
    """The demo's command again, when all is done; training cut short, which a run without work does not see."""
    arguments = ("run", "demo", "--output", f"{folder}/noop", "--train.steps", 20, "--evaluate.max-tokens", 8)
    hubbub(*arguments)
    return {"noop_run_s": round(statistics.median(hubbub(*arguments) for _ in range(3)), 2)}


def main():
    if len(sys.argv) > 1 and sys.argv[1] == "dry":
        dry(sys.argv[2], int(sys.argv[3]))
        return
    wanted = sys.argv[1:] or ["ray", "mlflow", "growth", "plan", "noop"]
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        recipe = demo_with(
            folder,
            casting=replace(demo().casting, train_conversations=3000),
            partitions=Partitions(conversations_per_partition=750),
        )
        if {"ray", "growth", "plan"} & set(wanted):
            hubbub("simulate", f"{folder}/recipe.json", "--output", f"{folder}/base")
        base = Output(Path(folder) / "base")
        parts = {
            "ray": lambda: ray_overhead(base, recipe, folder),
            "mlflow": lambda: mlflow_overhead(folder, 60),
            "growth": lambda: growth(base),
            "plan": lambda: plan_100k(base, folder),
            "noop": lambda: noop(folder),
        }
        for name in wanted:
            result |= parts[name]()
            say(json.dumps(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
