"""Loading: random reads of packs against a raw memory map and MosaicML's streaming; seek in 10 million packs.

`make bench-load`. Mosaic runs in a virtual environment of its own (PEERS, its python); without it, null.
"""

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from models.training.order import Stream
from operators.schema import PACKS
from operators.store.dataset import Dataset, Partition, Receipt, Snapshot
from operators.store.shards import COMPONENT, GROUPED, PackShards
from tests.bench.pack import peer

PACKS_PER_SHARD, COLUMNS, READS, ROUNDS = 16_384, 8192, 20_000, 9


def write_shard(folder, tokens):
    """One shard of packs of one text document each."""
    dataset = Dataset(str(folder), "packs")

    def fill(writer):
        for start in range(0, len(tokens), 1024):
            part = tokens[start : start + 1024]
            number = len(part)
            offsets = np.arange(number + 1, dtype=np.int64) * COLUMNS
            columns = {f.name: pa.nulls(number, f.type) for f in PACKS}
            columns["pack_id"] = pa.array([f"p{start + i}" for i in range(number)])
            columns["num_columns"] = pa.array(np.full(number, COLUMNS, np.int32))
            columns["sum_squares"] = pa.array(np.full(number, COLUMNS**2, np.int64))
            columns["text_tokens"] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(part.reshape(-1)))
            writer.write(pa.table([columns[name] for name in PACKS.names], schema=PACKS))
        writer.count(**{f"{COMPONENT}text": len(tokens), GROUPED: 1})

    return dataset, dataset.commit(Partition(partition_id="train-text-00000", row_ids=(), depends={}), PACKS, {}, fill)


def many(dataset, receipt, number):
    """A data set of as many shards as asked for, which share the bytes of one."""
    receipts = []
    for i in range(number):
        made = Receipt(
            **{
                **receipt.__dict__,
                "partition_id": f"train-{'ab'[i % 2]}-{i:05d}",
                "counts": {f"{COMPONENT}{'ab'[i % 2]}": receipt.num_rows, GROUPED: 1},
            }
        )
        os.link(dataset.rows_url(receipt), dataset.rows_url(made))
        receipts.append(made)
    return Snapshot(number=1, name="packs", receipts=tuple(receipts), merkle_root="", inputs={}, made_by={})


def main():
    """Measure both sides in turn, and print one JSON object."""
    rng = np.random.default_rng(0)
    result = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokens = rng.integers(0, 32_000, (PACKS_PER_SHARD, COLUMNS)).astype(np.int32)
        tokens.tofile(folder / "raw.bin")
        dataset, receipt = write_shard(folder, tokens)
        snapshot = Snapshot(number=1, name="packs", receipts=(receipt,), merkle_root="", inputs={}, made_by={})
        raw = np.memmap(folder / "raw.bin", np.int32, "r", shape=(PACKS_PER_SHARD, COLUMNS))
        shards = PackShards(dataset, snapshot)
        buffer = np.empty(COLUMNS, np.int32)
        order = rng.integers(0, PACKS_PER_SHARD, READS).tolist()
        assert all(np.array_equal(shards.text_tokens(i), raw[i]) for i in order[:500])

        def read_raw():
            for index in order:
                buffer[:] = raw[index]

        view = raw.view(np.ndarray)  # without what np.memmap adds to every slice

        def read_view():
            for index in order:
                buffer[:] = view[index]

        def read_shards():
            for index in order:
                buffer[:] = shards.text_tokens(index)

        taken = {"raw": [], "shards": [], "view": [], "again": []}
        for _ in range(ROUNDS):
            sides = {"raw": read_raw, "shards": read_shards, "view": read_view, "again": read_raw}
            for side, read in sides.items():
                started = time.process_time()
                read()
                taken[side].append(time.process_time() - started)
        ratios = np.array(taken["raw"]) / np.array(taken["shards"])
        result["random_reads_vs_memmap"] = round(float(np.median(ratios)), 3)
        result["random_reads_vs_plain_view"] = round(
            float(np.median(np.array(taken["view"]) / np.array(taken["shards"]))), 3
        )
        result["memmap_vs_itself"] = round(float(np.median(np.array(taken["raw"]) / np.array(taken["again"]))), 3)
        result["reads_per_cpu_s"] = round(READS / float(np.median(taken["shards"])))
        (folder / "shape.txt").write_text(f"{PACKS_PER_SHARD} {COLUMNS} {READS}")
        mosaic = peer("mosaic", folder)
        result["random_reads_vs_mosaic"] = mosaic and round(result["reads_per_cpu_s"] / mosaic["reads_per_cpu_s"], 2)

        # Ten million packs in shards whose costliest packs stand in groups, two components mixed 3 to 1.
        big = many(dataset, receipt, -(-10_000_000 // PACKS_PER_SHARD))
        positions, first_reads, opens = [], [], []
        for place in rng.integers(0, 50_000_000, 15).tolist():
            started = time.perf_counter()
            source = PackShards(dataset, big)
            components = source.components
            opens.append(time.perf_counter() - started)
            stream = Stream(components, seed=7, mixture=("a=3,b=1",))
            started = time.perf_counter()
            index = stream.at(place)
            positions.append(time.perf_counter() - started)
            started = time.perf_counter()
            source.text_tokens(index)[:].sum()
            first_reads.append(time.perf_counter() - started)
        result["packs"] = len(source)
        result["position_ms"] = round(float(np.median(positions)) * 1e3, 3)
        result["seek_ms"] = round(float(np.median(np.array(positions) + np.array(first_reads))) * 1e3, 3)
        result["look_at_shards_ms"] = round(float(np.median(opens)) * 1e3, 1)
        state = {"position": 2**40, "seed": 2**31, "packs": source.digest[:32]}
        result["state_bytes"] = len(json.dumps(state, separators=(",", ":")))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
