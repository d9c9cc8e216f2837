"""How fast audio becomes codes: one thread, arrays in, codes out; and what the operator costs over the bare codec."""

import json
import os

os.environ["OMP_NUM_THREADS"] = "1"

import time

import numpy as np
import pyarrow as pa

from models.dmel import DMel
from operators.encode import Encode
from operators.schema import AUDIO

RATE_HZ, LENGTH_S, NUMBER, ROUNDS = 16_000, 20, 12, 7


def cpu_s(work):
    """CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main():
    """Run both sides in turn, and print medians and their ratio."""
    rng = np.random.default_rng(0)
    waves = [(rng.normal(0, 1000, RATE_HZ * LENGTH_S)).astype(np.int16) for _ in range(NUMBER)]
    floats = [wave.astype(np.float32) / np.float32(32768) for wave in waves]
    empty = dict.fromkeys(AUDIO.names)
    rows = [
        {**empty, "conversation_id": str(i), "num_samples": len(wave), "samples": wave, "speakers": [], "turns": []}
        for i, wave in enumerate(waves)
    ]
    batch = pa.Table.from_pylist(rows, schema=AUDIO)
    codec, encode = DMel(), Encode()
    bare, operator = [], []
    for _ in range(ROUNDS):
        bare.append(cpu_s(lambda: [codec.encode(wave) for wave in floats]))
        operator.append(cpu_s(lambda: encode(batch)))
    audio_s = LENGTH_S * NUMBER
    result = {
        "dmel_x_realtime_per_core": round(audio_s / float(np.median(bare)), 1),
        "encode_vs_bare_model": round(float(np.median(operator) / np.median(bare)), 3),
        "audio_s": audio_s,
        "rounds": ROUNDS,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
