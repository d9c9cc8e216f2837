"""What a training step costs: against the same arithmetic written plainly, the machine's matrix product, and padding.

`make bench-train`. Both sides of every ratio run in turn in one process; prints one JSON object.
"""

import gc
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from models.config.options import Training
from models.config.shape import SIZES
from models.kernels.loss import full_cross_entropy, linear_cross_entropy
from models.sequence.batch import collate
from models.speech_lm.compiled import compile_blocks
from models.speech_lm.flops import training_flops
from models.speech_lm.model import SpeechLM
from models.training.optimizers import make_optimizers
from pipelines.execute.train_worker import Preemption
from pipelines.plan.header import header_of
from pipelines.recipes.named import demo
from tests.bench.plain_model import packed_loss, padded_loss
from tests.models.support import GridSpec, Source, joined, train_flat

RECIPE = replace(demo(), model=SIZES["small"])
HEADER = header_of(RECIPE, {})
CODEC = RECIPE.encode.spec
GRID = GridSpec(RECIPE.compose.layout_of(CODEC), CODEC.num_codebooks, CODEC.codebook_size, CODEC.bits)
PAIRS = 24


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def heard(seed, num_frames, num_text):
    """A document as the demo's: audio that is heard, then text that is predicted."""
    rng = np.random.default_rng(seed)
    from models.codecs.codec import pack_codes
    from models.sequence.documents import PackedDocuments

    columns = GRID.layout.num_columns(num_frames)
    total = 1 + columns + num_text
    return PackedDocuments(
        pack_id=f"d{seed}",
        num_columns=total,
        cu_seqlens=np.array([0, total], np.int32),
        segments=np.array([[0, 0, 1], [1, 1, num_frames], [0, 1 + columns, num_text]], np.int32),
        text_tokens=rng.integers(1, 300, 1 + num_text).astype(np.int32),
        codes=pack_codes(rng.integers(0, 16, (CODEC.num_codebooks, num_frames)), CODEC.bits),
        loss_spans=np.array([[0, 1 + columns, total]], np.int32),
        loss_weights=np.ones(1, np.float32),
    )


def random_documents(rng, number):
    """Of the demo's lengths: two to three sentences, 2 to 10 seconds."""
    seconds = np.clip(rng.lognormal(1.5, 0.5, number), 1.0, 12.0)
    return [heard(int(rng.integers(1 << 30)), int(s * CODEC.frame_rate_hz), int(14 * s) + 1) for s in seconds]


def model_and_optimizer():
    model = SpeechLM(HEADER.shape, HEADER.vocabulary).initialize(0)
    return model, make_optimizers(model, Training())[0]


def timed(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def interleaved(one, other, pairs=PAIRS):
    """Median ratio of two works' times, run in turn, each first every other time."""
    ratios, times = [], []
    one(), other()
    for pair in range(pairs):
        if pair % 2:
            b = timed(other)
            a = timed(one)
        else:
            a = timed(one)
            b = timed(other)
        ratios.append(a / b)
        times.append(a)
    return statistics.median(ratios), statistics.median(times)


def step(model, optimizer, loss):
    optimizer.zero_grad(set_to_none=True)
    loss().backward()
    optimizer.step()


def against_plain():
    """Ours over plain, an A/A run, and the share of the matrix product's peak."""
    rng = np.random.default_rng(0)
    pack, columns = [], 0
    while columns < 4096:
        pack += random_documents(rng, 1)
        columns += pack[-1].num_columns
    batch = collate([joined(pack)], GRID)
    model, optimizer = model_and_optimizer()
    twin, twins = model_and_optimizer()
    mine, plain = model(batch).total, packed_loss(twin, batch)
    assert abs(float(mine.detach()) / float(plain.detach()) - 1) < 1e-5

    def ours():
        step(model, optimizer, lambda: model(batch).total)

    ratio, seconds = interleaved(ours, lambda: step(twin, twins, lambda: packed_loss(twin, batch)))
    same, _ = interleaved(ours, ours)
    flops = training_flops(model.shape, model.vocabulary, batch)
    peak = 0.0
    for size in (1024, 2048):
        a, b = torch.randn(size, size), torch.randn(size, size)
        peak = max(peak, *(2 * size**3 / timed(lambda a=a, b=b: torch.mm(a, b)) for _ in range(8)))
    say(f"step of small: {seconds:.3f} s, {flops / 1e9:.0f} GFLOP, sgemm peak {peak / 1e9:.0f} GFLOP/s")
    result = {
        "step_vs_plain": round(ratio, 4),
        "step_vs_itself": round(same, 4),
        "sgemm_fraction": round(flops / seconds / peak, 3),
        "columns_per_s": round(len(batch.text) / seconds),
        "sgemm_gflop_per_s": round(peak / 1e9),
    }
    if not (shutil.which("g++") or shutil.which("clang++")):
        say("there is no C++ compiler: --train.compile is left out")
        return result
    compile_blocks(twin, "blocks")
    ratio, seconds = interleaved(lambda: step(twin, twins, lambda: twin(batch).total), ours)
    return result | {
        "compiled_vs_step": round(ratio, 4),
        "sgemm_fraction_compiled": round(flops / seconds / peak, 3),
    }


def against_padding():
    """Packed over padded on random batches of 16, as a share of what the padding costs; and with buckets."""
    rng = np.random.default_rng(1)
    model, _ = model_and_optimizer()
    gains = {"random": [], "bucketed": []}
    ideals = {"random": [], "bucketed": []}
    for _ in range(6):
        drawn = random_documents(rng, 64)
        by_length = sorted(drawn, key=lambda d: d.num_columns)
        for name, chosen in (("random", drawn[:16]), ("bucketed", by_length[24:40])):
            batch = collate([joined(chosen)], GRID)
            lengths = batch.cu_seqlens.diff()
            assert abs(float(padded_loss(model, batch).detach()) / float(model(batch).total.detach()) - 1) < 1e-4
            ratio, _ = interleaved(
                lambda b=batch: padded_loss(model, b).backward(), lambda b=batch: model(b).total.backward(), 5
            )
            gains[name].append(ratio)
            ideals[name].append(float(lengths.max()) * len(lengths) / float(lengths.sum()))
    result = {}
    for name, prefix in (("random", ""), ("bucketed", "bucketed_")):
        gain, ideal = statistics.median(gains[name]), statistics.median(ideals[name])
        result |= {f"{prefix}packed_speedup": round(gain, 3), f"{prefix}padded_over_real": round(ideal, 3)}
        result[f"{prefix}packed_speedup_of_ideal"] = round(
            statistics.median(g / i for g, i in zip(gains[name], ideals[name], strict=True)), 3
        )
    return result


def loss_alone(which):
    """Peak memory above inputs, weights and gradients, and CPU time, in a process of its own."""
    torch.manual_seed(0)
    rows, dim, size = 4096, 512, 32768
    hidden = torch.randn(rows, dim, requires_grad=True)
    weight = (torch.randn(size, dim) * 0.02).requires_grad_()
    targets, weights = torch.randint(0, size, (rows, 1)), torch.ones(rows)
    hidden.grad, weight.grad = torch.zeros_like(hidden) + 1e-9, torch.zeros_like(weight) + 1e-9
    loss = linear_cross_entropy if which == "chunked" else full_cross_entropy
    loss(hidden[:64], weight, targets[:64], weights[:64]).backward()  # threads and buffers are there
    gc.collect()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is the parent's, at the fork
    started = time.process_time()
    loss(hidden, weight, targets, weights).backward()
    seconds = time.process_time() - started
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    print(json.dumps({"bytes": peak - before, "seconds": seconds}))


def losses():
    """Chunked over full logits: memory, and CPU time."""
    found = {"chunked": [], "full": []}
    for _ in range(3):
        for which, runs in found.items():
            done = subprocess.run(
                [sys.executable, "-m", "tests.bench.train", which], capture_output=True, text=True, check=True
            )
            runs.append(json.loads(done.stdout))
    memory = {which: statistics.median(one["bytes"] for one in runs) for which, runs in found.items()}
    seconds = {which: statistics.median(one["seconds"] for one in runs) for which, runs in found.items()}
    say(f"loss: {memory['chunked'] / 1e6:.0f} of {memory['full'] / 1e6:.0f} MB")
    return {
        "loss_memory_vs_full": round(memory["chunked"] / memory["full"], 4),
        "loss_time_vs_full": round(seconds["chunked"] / seconds["full"], 4),
    }


def training(folder, steps=40, **options):
    """Train `small` for some steps; return the seconds of each."""
    rng = np.random.default_rng(2)
    packs = [joined(random_documents(rng, 12), f"p{i}") for i in range(16)]
    model, _ = model_and_optimizer()
    config = Training(steps=steps, packs_per_step=2, checkpoint_every=steps, num_threads=2)
    seconds = []
    train_flat(
        model,
        Source(packs),
        GRID,
        config,
        seed=0,
        folder=Path(folder),
        header=HEADER,
        on_step=lambda record: seconds.append(record.seconds),
        **options,
    )
    return seconds[3:]


def ray_loop():
    """Ray Train's loop over the bare one: step by step, each with the bare loop's before and behind it."""
    from cluster.session import connect

    def worker(config):
        import ray.train

        from tests.bench.train import training as go

        seconds = go(config["folder"], should_save=Preemption())
        Path(config["folder"], "seconds.json").write_text(json.dumps(seconds))
        ray.train.report({"done": 1})

    def bare():
        with tempfile.TemporaryDirectory() as folder:
            return np.array(training(folder))

    def with_ray():
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        with tempfile.TemporaryDirectory() as folder:
            TorchTrainer(
                worker,
                train_loop_config={"folder": folder},
                run_config=RunConfig(storage_path=f"{folder}/ray"),
                scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 2}),
            ).fit()
            return np.array(json.loads(Path(folder, "seconds.json").read_text()))

    ratios, same = [], []
    with connect(None, 2):
        before = bare()
        for _ in range(4):
            held = with_ray()
            behind = bare()
            ratios.append(held / ((before + behind) / 2))
            same.append(behind / before)
            before = behind
    return {
        "ray_loop_vs_bare": round(float(np.median(np.concatenate(ratios))), 4),
        "ray_loop_vs_bare_of_means": round(float(np.median([one.mean() for one in ratios])), 4),
        "bare_loop_vs_itself": round(float(np.median(np.concatenate(same))), 4),
    }


def main():
    if len(sys.argv) > 1:
        loss_alone(sys.argv[1])
        return
    torch.set_num_threads(2)
    result = {}
    for part in (against_plain, against_padding, losses, ray_loop):
        result |= part()
        say(json.dumps(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
