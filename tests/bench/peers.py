"""What others do with the same input; run by their own virtual environment, prints one JSON object."""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np


def trl(folder):
    """TRL's whole-table best fit on one-byte tokens: CPU seconds of the plan, and of plan and gather."""
    import pyarrow as pa
    from trl import data_utils

    lengths = np.load(folder / "lengths.npy")
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    tokens = pa.array(np.zeros(offsets[-1], np.int8))
    table = pa.table({"input_ids": pa.LargeListArray.from_arrays(pa.array(offsets), tokens)})
    compute, marks = data_utils.pc, {}

    class Marked:
        def __getattr__(self, name):
            return getattr(compute, name)

        def make_struct(self, *arguments):  # the first thing done with lengths alone
            marks["start"] = time.process_time()
            return compute.make_struct(*arguments)

        def take(self, *arguments):
            marks["end"] = time.process_time()
            return compute.take(*arguments)

    data_utils.pc = Marked()
    started = time.process_time()
    packed = data_utils._pack_bfd(table, 8192)
    return {
        "plan_cpu_s": marks["end"] - marks["start"],
        "plan_and_gather_cpu_s": time.process_time() - started,
        "packs": packed.num_rows,
    }


def lightbinpack(folder):
    """LightBinPack's best fit (C++): CPU seconds."""
    import lightbinpack as peer

    lengths = np.load(folder / "lengths.npy").tolist()
    started = time.process_time()
    packs = peer.obfd(lengths, 8192)
    return {"plan_cpu_s": time.process_time() - started, "packs": len(packs)}


def mosaic(folder):
    """MosaicML's StreamingDataset, local, warm: random reads a second into a preallocated buffer."""
    from streaming import MDSWriter, StreamingDataset

    number, columns, reads = (int(sys_value) for sys_value in (folder / "shape.txt").read_text().split())
    rng = np.random.default_rng(0)
    target = folder / "mds"
    with MDSWriter(out=str(target), columns={"tokens": f"ndarray:int32:{columns}"}) as writer:
        for _ in range(number):
            writer.write({"tokens": rng.integers(0, 32000, columns).astype(np.int32)})
    dataset = StreamingDataset(local=str(target), batch_size=1)
    order = np.random.default_rng(1).integers(0, number, reads).tolist()
    buffer = np.empty(columns, np.int32)
    rates = []
    for _ in range(4):  # the first warms up
        started = time.process_time()
        for index in order:
            buffer[:] = dataset[index]["tokens"]
        rates.append(reads / (time.process_time() - started))
    return {"reads_per_cpu_s": float(np.median(rates[1:]))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=("trl", "lightbinpack", "mosaic"))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    result = globals()[given.peer](given.folder)
    sys.stdout.write("\n" + json.dumps(result) + "\n")
