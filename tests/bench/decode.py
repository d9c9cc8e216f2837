"""Decoding of text: steps a second alone and in 32 slots, against a growing cache whose tokens the host decides.

`make bench-decode` (`tiny` on a CPU, `0.6b` on a GPU). Needs neither Ray nor data. Both ways in turn, five times; a
step's time is what more tokens take, so that reading the prompts is no part of it. The last line is one JSON object.
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.config.shape import SIZES, Vocabulary
from models.layouts import make_layout
from models.sequence.documents import GridSpec, PackedDocuments
from models.speech_lm.decode.decoder import Decoder
from models.speech_lm.decode.graphs import Pace
from models.speech_lm.generate import greedy_text
from models.speech_lm.model import SpeechLM
from tests.models.speech_lm.decode import growing

TEXT_SIZE, PROMPT = 32_768, 200
GRID = GridSpec(make_layout("parallel", 8, 64, 1), 8, 64, 6)
ROUNDS = 5


def prompt(rng):
    return PackedDocuments(
        pack_id="p",
        num_columns=PROMPT,
        cu_seqlens=np.array([0, PROMPT], np.int32),
        segments=np.array([[0, 0, PROMPT]], np.int32),
        text_tokens=rng.integers(100, TEXT_SIZE, PROMPT).astype(np.int32),
        codes=b"",
        loss_spans=np.zeros((0, 3), np.int32),
        loss_weights=np.zeros(0, np.float32),
    )


def seconds_of(call, device):
    started = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def rate(decode, device, tokens):
    """Steps a second, from the difference that `tokens` more of them make."""
    short = seconds_of(lambda: decode(8), device)
    return tokens / (seconds_of(lambda: decode(8 + tokens), device) - short)


class Operations(TorchDispatchMode):
    """Counts operations, views apart, and those that wait for the device."""

    VIEWS = ("view", "transpose", "select.int", "slice", "expand", "split", "alias", "aten.t.", "detach", "permute")
    VIEWS += ("squeeze", "unbind")
    WAITS = ("_local_scalar_dense", "nonzero")

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = str(function)
        self.counts["waits"] += any(wait in name for wait in self.WAITS)
        self.counts["operations"] += not any(view in name for view in self.VIEWS)
        return function(*arguments, **(options or {}))


def per_step(decode, steps=16):
    """Operations and waits of one step, from the difference that some more of them make."""
    found = []
    for number in (4, 4 + steps):
        with Operations() as watched:
            decode(number)
        found.append(watched.counts)
    return {name: round((found[1][name] - found[0][name]) / steps, 2) for name in ("operations", "waits")}


def kernels_of_a_step(decode, steps=16):
    """Kernels that a GPU runs in a step, replayed ones included."""
    from torch.profiler import ProfilerActivity, profile

    found = []
    for number in (8, 8 + steps):
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            decode(number)
            torch.cuda.synchronize()
        found.append(sum(event.count for event in profiled.key_averages()))
    return round((found[1] - found[0]) / steps, 1)


def compare(model, device, slots, tokens):
    prompts = [prompt(np.random.default_rng(seed)) for seed in range(slots)]
    decoders = {"new": Decoder(model), "by step": Decoder(model, Pace(look_every=16, in_buckets=True))}

    def old(number):
        return growing.greedy_text(model, prompts, GRID, end=-1, max_tokens=number)

    def new(number, which="new"):
        return greedy_text(model, prompts, GRID, end=-1, max_tokens=number, decoder=decoders[which])

    for warm in (old, new):
        for number in (8, 8 + tokens):
            warm(number)
    rates = {"old": [], "new": []}
    for _ in range(ROUNDS):
        rates["old"].append(rate(old, device, tokens))
        rates["new"].append(rate(new, device, tokens))
        print(f"{slots} slots: {rates['old'][-1]:,.0f} then {rates['new'][-1]:,.0f} steps/s", file=sys.stderr)
    ratios = sorted(b / a for a, b in zip(*rates.values(), strict=True))
    found = {
        "old_steps_per_s": round(statistics.median(rates["old"]), 1),
        "new_steps_per_s": round(statistics.median(rates["new"]), 1),
        "new_tokens_per_s": round(statistics.median(rates["new"]) * slots, 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_spread": [round(ratios[0], 3), round(ratios[-1], 3)],
        "old_per_step": per_step(old),
        "new_per_step": per_step(lambda number: new(number, "by step")),
    }
    if device == "cuda":
        found["kernels_per_step"] = {"old": kernels_of_a_step(old), "new": kernels_of_a_step(new)}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("size", nargs="?", default="0.6b" if device == "cuda" else "tiny")
    parser.add_argument("--tokens", type=int, default=512 if device == "cuda" else 48)
    asked = parser.parse_args()
    vocabulary = Vocabulary(text_size=TEXT_SIZE, num_streams=8, codebook_size=64, ordinal=False)
    model = SpeechLM(SIZES[asked.size], vocabulary).initialize(0).to(device)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    result = {"device": name, "torch": torch.__version__, "size": asked.size}
    for slots in (1, 32):
        result[f"slots_{slots}"] = compare(model, device, slots, asked.tokens)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
