"""Packing: planning time against other packers, fill in bounded memory, cost balance. `make bench-pack`.

The peers run in a virtual environment of their own (PEERS, its python); without it their ratios are null.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from models.training.loader import share, step_cost
from models.training.order import GROUP_PACKS, WINDOW_PACKS, Span, Stream
from operators.packing.counts import lower_bound
from operators.packing.pack import Pack, gather
from operators.packing.packers.best_fit import best_fit
from operators.schema import DOCUMENTS
from tests.bench.lengths import CAPACITY, conversation_lengths, hard_lengths

DIM = 1024


def cpu_s(work, rounds):
    """Median CPU seconds of a call, the first one apart: it compiles."""
    work()
    taken = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return float(np.median(taken))


def rss_increase_mb(number):
    """What planning adds to the memory of a process that holds the lengths."""
    code = f"""
import json
from operators.packing.packers.best_fit import best_fit
from tests.bench.lengths import CAPACITY, conversation_lengths

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

best_fit([5, 3], 8)  # compiled before anything is measured
lengths = conversation_lengths({number})
before = kilobytes("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
plan = best_fit(lengths, CAPACITY)
print(json.dumps((kilobytes("VmHWM") - before) / 1024))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def peer(name, folder):
    """Run a peer in its own environment."""
    python = os.environ.get("PEERS")
    if not python:
        return None
    done = subprocess.run(
        [python, str(Path(__file__).with_name("peers.py")), name, str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        sys.stderr.write(f"{name}: {done.stderr.strip().splitlines()[-1:]}\n")
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def documents(lengths, tokens=None):
    """A table of documents that have lengths, and one-byte tokens if asked."""
    number = len(lengths)
    empty = {f.name: pa.nulls(number, f.type) for f in DOCUMENTS}
    empty["document_id"] = pa.array(np.char.add("d", np.char.zfill(np.arange(number).astype(str), 8)))
    empty["num_columns"] = pa.array(lengths)
    for name in ("segments", "loss_spans", "text_tokens"):
        kind = DOCUMENTS.field(name).type
        zeros = pa.array(np.zeros(number + 1, np.int64 if pa.types.is_large_list(kind) else np.int32))
        empty[name] = type(empty[name]).from_arrays(zeros, pa.array([], kind.value_type))
    if tokens is not None:
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(tokens)]
        empty["codes"] = pa.Array.from_buffers(pa.large_binary(), number, buffers)
    return pa.table([empty[name] for name in DOCUMENTS.names], schema=DOCUMENTS)


def streamed(lengths, pack, batch=1000):
    """Packs of documents that come in batches: columns and sums of squares of each."""
    table = documents(lengths)
    made = list(pack.stream(table.slice(i, batch) for i in range(0, len(lengths), batch)))
    number = sum(len(cu) for cu in (packs["cu_seqlens"].combine_chunks().flatten() for packs in made))
    assert number == len(lengths) + sum(packs.num_rows for packs in made), "documents were lost or cut"
    return tuple(np.concatenate([p[name].to_numpy() for p in made]) for name in ("num_columns", "sum_squares"))


def costs_of(columns, squares):
    """Floating-point operations of each pack."""
    return step_cost(columns.astype(np.float64), squares.astype(np.float64), DIM)


def balanced_within_steps(costs, ranks, each=8):
    """(a) Random steps, `each` packs a rank, shared out within the step: mean of max/mean, shared and dealt."""
    stream = Stream({"": [Span(0, len(costs))]}, seed=1)
    order = costs[[stream.at(p) for p in range(len(costs))]]
    shared, dealt = [], []
    for start in range(0, len(order) - ranks * each + 1, ranks * each):
        step = order[start : start + ranks * each]
        loads = np.array([step[chosen].sum() for chosen in share(step.tolist(), ranks)])
        shared.append(loads.max() / loads.mean())
        loads = step.reshape(ranks, each).sum(1)
        dealt.append(loads.max() / loads.mean())
    return float(np.mean(shared)), float(np.mean(dealt))


def one_pack_a_rank(costs, ranks, grouped):
    """(b) One pack a rank: mean of max/mean over steps, and the spread of the steps' means."""
    stream = Stream({"": [Span(0, len(costs), grouped)]}, seed=1)
    order = costs[[stream.at(p) for p in range(len(costs))]]
    steps = order[: len(order) // ranks * ranks].reshape(-1, ranks)
    means = steps.mean(1)
    return float((steps.max(1) / means).mean()), float(means.std() / means.mean())


def least_possible(lengths, number):
    """Sums of squares if all packs were even but for those that one long document forces above."""
    squares = np.sort(lengths.astype(np.float64) ** 2)[::-1]
    total, forced = squares.sum(), 0
    while forced < number and squares[forced] > total / (number - forced):
        total -= squares[forced]
        forced += 1
    return np.concatenate([squares[:forced], np.full(number - forced, total / (number - forced))])


def main():
    """Measure, and print one JSON object."""
    result = {}
    million = conversation_lengths(1_000_000)
    result["plan_1m_cpu_s"] = round(cpu_s(lambda: best_fit(million, CAPACITY), 9), 5)
    ten = conversation_lengths(10_000_000)
    result["plan_10m_cpu_s"] = round(cpu_s(lambda: best_fit(ten, CAPACITY), 5), 4)
    result["rss_increase_mb_10m"] = round(rss_increase_mb(len(ten)), 1)

    table = documents(million, np.zeros(int(million.sum(dtype=np.int64)), np.int8))
    both = cpu_s(lambda: gather(table, best_fit(million, CAPACITY)), 3)
    result["plan_and_gather_1m_cpu_s"] = round(both, 3)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "lengths.npy", million)
        trl, light = peer("trl", Path(folder)), peer("lightbinpack", Path(folder))
    ours = len(best_fit(million, CAPACITY))
    result["plan_vs_trl"] = trl and round(trl["plan_cpu_s"] / result["plan_1m_cpu_s"], 1)
    result["plan_and_gather_vs_trl"] = trl and round(trl["plan_and_gather_cpu_s"] / both, 1)
    result["plan_vs_lightbinpack"] = light and round(light["plan_cpu_s"] / result["plan_1m_cpu_s"], 1)
    result["packs"] = {
        "ours": ours,
        "trl": trl and trl["packs"],
        "lightbinpack": light and light["packs"],
        "lower_bound": lower_bound(million, CAPACITY),
    }

    window = Pack(capacity=CAPACITY, window_documents=11_000)  # and a batch of 1,000: 12,000 at once
    for name, lengths in (("conversation", million), ("hard", hard_lengths(1_000_000))):
        columns, _ = streamed(lengths, window)
        result[f"fill_{name}"] = round(float(columns.sum() / len(columns) / CAPACITY * 100), 4)
        result[f"fill_{name}_at_once"] = round(
            float(lengths.sum(dtype=np.int64) / len(best_fit(lengths, CAPACITY)) / CAPACITY * 100), 4
        )
    result["cut_documents"] = 0  # `streamed` would have stopped

    lengths = million[:600_000]
    plain = costs_of(*streamed(lengths, window))
    columns, squares = streamed(lengths, Pack(capacity=CAPACITY, packer="balanced"))
    even = costs_of(columns, squares)
    forced = costs_of(np.full(len(even), CAPACITY), least_possible(lengths, len(even)))
    mixed = np.random.default_rng(0).permutation(forced)  # long documents fall into windows by chance
    starts = range(0, len(mixed), WINDOW_PACKS)
    forced_in_windows = np.concatenate([np.sort(mixed[i : i + WINDOW_PACKS])[::-1] for i in starts])
    result["fill_balanced"] = round(float(columns.sum() / len(columns) / CAPACITY * 100), 4)
    grouped = Span(0, len(even), grouped=True)
    result["grouped_share"] = round(grouped.num_groups * GROUP_PACKS / len(even), 4)
    for ranks in (8, 64):
        a, dealt = balanced_within_steps(plain, ranks)
        b, spread = one_pack_a_rank(even, ranks, grouped=True)
        result[f"imbalance_a_{ranks}"] = round(a, 4)
        result[f"imbalance_a_{ranks}_dealt"] = round(dealt, 4)
        result[f"imbalance_b_{ranks}"] = round(b, 4)
        result[f"imbalance_b_{ranks}_step_mean_spread"] = round(spread, 4)
        result[f"imbalance_b_{ranks}_forced"] = round(one_pack_a_rank(forced_in_windows, ranks, grouped=True)[0], 4)
        result[f"imbalance_random_{ranks}"] = round(one_pack_a_rank(plain, ranks, grouped=False)[0], 4)
        result[f"imbalance_random_{ranks}_forced"] = round(one_pack_a_rank(forced, ranks, grouped=False)[0], 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
