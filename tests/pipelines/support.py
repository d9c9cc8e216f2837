"""Runs of the real program, in processes of their own, on a corpus made on the spot."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[2]

RECIPE = """
name: test
casting: {train_conversations: 12, test_conversations: 4, max_speakers: 2, max_utterances: 4, test_speakers: 0.34}
converse: {min_turns: 2, max_turns: 4, max_duration_s: 8.0}
compose: {tasks: [asr, continue], group: 4, window_s: 8.0}
pack: {capacity: 256}
partitions: {conversations_per_partition: 4}
model: {dim: 32, num_layers: 2, num_heads: 2, num_kv_heads: 1, ffn_dim: 64}
train: {steps: 120, packs_per_step: 2, warmup_steps: 2, checkpoint_every: 20, keep_checkpoints: 9}
evaluate: {max_tokens: 24, batch_size: 4}
"""


def write_recipe(path, manifest):
    path.write_text(RECIPE + f"corpus: {{manifests: ['{manifest}']}}\n")
    return path


def make_stale(stage, recipe, output):
    """Make a stage's stale partitions in this process; return their receipts."""
    from pipelines.plan.sources import audio_roots

    return [stage.stage.make(job) for job in stage.jobs(recipe, output, audio_roots(recipe, output))]


def hearing(encoder, store="float32", **model):
    """A function that makes a recipe hear through a pretrained encoder, in the step or by features of it."""

    def change(recipe):
        compose = replace(recipe.compose, tasks=("asr", "asr_timed", "asr_target"), group=1)
        return replace(
            recipe,
            render=replace(recipe.render, stems="none", keep_audio=False),
            encode=replace(recipe.encode, codec="pcm", stems=False),
            features=replace(recipe.features, store=store),
            compose=compose,
            model=replace(recipe.model, encoder=encoder, **model),
            train=replace(recipe.train, mixture=()),
        )

    return change


def command(*arguments):
    return [sys.executable, "-m", "pipelines", *map(str, arguments)]


def hubbub(*arguments, check=True):
    done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=900)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def messages(stderr):
    """Lines on standard error without those of progress, which come or not as the machine is slow or fast."""
    return [line for line in stderr.strip().splitlines() if not re.match(r"\w+ +[\d,]+ of [\d,]+, ", line)]


def roots(output):
    """Merkle root of every data set."""
    found = {}
    for folder in sorted((Path(output) / "data").iterdir()):
        newest = max((folder / "snapshots").glob("*.json"))
        found[folder.name] = json.loads(newest.read_text())["merkle_root"]
    return found


def losses(output):
    (path,) = Path(output).glob("checkpoints/*/metrics.jsonl")
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()]


def in_the_middle(stage, output):
    """Tell whether a stage has made something, but not all of it."""
    if stage == "train":
        lines = [len(path.read_text().splitlines()) for path in Path(output).glob("checkpoints/*/metrics.jsonl")]
        return max(lines, default=0) > 30
    dataset = {"simulate": "conversations", "tokenize": "codes", "pack": "packs", "evaluate": "hypotheses"}.get(stage)
    return dataset is None or any((Path(output) / "data" / dataset / "partitions").glob("*.json"))


def kill_in(stage, arguments, output):
    """Start the program and kill it with SIGKILL in the middle of a stage; return whether it was still in it."""
    journal = Path(output) / "journal.jsonl"
    seen = len(journal.read_text().splitlines()) if journal.exists() else 0
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 200
    try:
        while time.monotonic() < deadline and process.poll() is None:
            lines = journal.read_text().splitlines()[seen:] if journal.exists() else []
            if any(json.loads(line) | {"time": 0} == {"stage": stage, "event": "start", "time": 0} for line in lines):
                while not in_the_middle(stage, output) and process.poll() is None:
                    time.sleep(0.002)
                ended = {"stage": stage, "event": "end"}.items()
                os.kill(process.pid, signal.SIGKILL)  # the driver alone: its workers are left to notice
                return not any(ended <= json.loads(line).items() for line in journal.read_text().splitlines()[seen:])
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    return False


STAGES = ("simulate", "tokenize", "pack", "train", "evaluate")


def run_on_two_nodes(recipe, output, kill_in, *arguments):
    """Run a recipe on a head and a node that works; kill that node in some stages, and let another come each time.

    Returns:
        seconds that it took, and the stages that lost their node.
    """
    from ray.cluster_utils import Cluster

    os.environ["RAY_AUTH_MODE"] = "disabled"
    node = {"num_cpus": 2, "object_store_memory": 200_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0})
    worker, killed, said = cluster.add_node(**node), [], Path(f"{output}.log")
    journal = Path(output) / "journal.jsonl"
    started = time.monotonic()
    with said.open("w") as file:  # a pipe that nobody empties would hold it up
        process = subprocess.Popen(
            command("run", recipe, "--output", output, "--ray-address", cluster.address, *arguments),
            cwd=ROOT,
            stdout=file,
            stderr=file,
        )
    try:
        while process.poll() is None and time.monotonic() - started < 600:
            lines = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
            now = lines[-1]["stage"] if lines and lines[-1]["event"] == "start" else None
            if now in kill_in and now not in killed and (now != "train" or in_the_middle("train", output)):
                time.sleep(0.3)
                cluster.remove_node(worker, allow_graceful=False)
                killed.append(now)
                worker = cluster.add_node(**node)
            time.sleep(0.02)
        process.wait(timeout=600)
        seconds = time.monotonic() - started
    finally:
        process.kill()
        cluster.shutdown()
    assert process.returncode == 0, said.read_text()
    return seconds, killed
