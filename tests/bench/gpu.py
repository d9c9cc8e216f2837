"""One GPU: MFU of our model, and its tokens a second and peak memory against transformers' own on the same documents.

`make bench-gpu` (base, 0.6b and 1b, bf16, packs of 8,192 columns). Needs neither Ray nor data. Ours packs; Qwen3 of
transformers, the same arithmetic layer by layer, pads, with FlashAttention-2 where it is installed and SDPA where not.
Both draw from the same documents, in turn; real tokens count, padding does not. Prints one JSON object.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
from importlib.util import find_spec

import numpy as np
import torch

from models.config.shape import SIZES, Vocabulary
from models.kernels import fused
from models.layouts import make_layout
from models.sequence.batch import collate
from models.sequence.documents import GridSpec, PackedDocuments
from models.speech_lm.flops import peak_flops, training_flops
from models.speech_lm.model import SpeechLM
from operators.packing.packers.best_fit import best_fit
from tests.models.support import joined

TEXT_SIZE = 32_768
GRID = GridSpec(make_layout("parallel", 1, 2, 1), 1, 2, 1)  # audio takes no part: transformers' model has none


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def document(rng, length):
    tokens = rng.integers(1000, TEXT_SIZE, length)
    return PackedDocuments(
        pack_id="d",
        num_columns=length,
        cu_seqlens=np.array([0, length], np.int32),
        segments=np.array([[0, 0, length]], np.int32),
        text_tokens=tokens.astype(np.int32),
        codes=b"",
        loss_spans=np.array([[0, 1, length]], np.int32),
        loss_weights=np.ones(1, np.float32),
    )


def packs_of(number, capacity):
    """Packs of documents whose lengths are those of short conversations: a median of 300 columns, a long tail."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(300), 0.8, number * capacity // 200), 32, capacity // 2).astype(int)
    documents = [document(rng, int(length)) for length in lengths]
    plan = best_fit(lengths, capacity)
    chosen = np.linspace(0, len(plan) - 1, number).astype(int)  # the first ones hold the longest
    return [[documents[i] for i in plan.pack(int(at))] for at in chosen]


class Side:
    """A model, its optimizer, and one step on a pack's documents."""

    def __init__(self, model, device):
        self.model, self.device = model.to(device).train(), device
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(self, number):
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            loss = self.loss(number)
        loss.backward()
        self.optimizer.step()


class Ours(Side):
    def __init__(self, size, packs, device, recompute):
        vocabulary = Vocabulary(text_size=TEXT_SIZE, num_streams=1, codebook_size=2, ordinal=False)
        super().__init__(SpeechLM(SIZES[size], vocabulary).initialize(0), device)
        self.model.recompute = "all" if recompute else "none"
        self.batches = [collate([joined(pack)], GRID) for pack in packs]
        self.flops = [training_flops(SIZES[size], vocabulary, batch) for batch in self.batches]
        self.batches = [batch.to(device) for batch in self.batches]
        self.backend = self.model.backend()

    def loss(self, number):
        made = self.model(self.batches[number], self.backend)
        return made.total / made.weight


class Theirs(Side):
    def __init__(self, size, packs, device, recompute):
        from transformers import Qwen3Config, Qwen3ForCausalLM

        shape = SIZES[size]
        self.attention = "flash_attention_2" if device == "cuda" and find_spec("flash_attn") else "sdpa"
        config = Qwen3Config(
            vocab_size=TEXT_SIZE,
            hidden_size=shape.dim,
            intermediate_size=shape.ffn_dim,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            tie_word_embeddings=False,
            max_position_embeddings=32_768,
            attn_implementation=self.attention,
        )
        super().__init__(Qwen3ForCausalLM(config), device)
        if recompute:
            self.model.gradient_checkpointing_enable()
        self.batches = []
        for pack in packs:
            longest = max(one.num_columns for one in pack)
            ids = torch.zeros(len(pack), longest, dtype=torch.int64)
            for row, one in enumerate(pack):
                ids[row, : one.num_columns] = torch.from_numpy(one.text_tokens.astype(np.int64))
            self.batches.append(ids.to(device))

    def loss(self, number):
        ids = self.batches[number]
        labels = ids.masked_fill(ids == 0, -100)
        return self.model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels, use_cache=False).loss


def measured(make, packs, device, steps):
    """Return seconds of each step after three, and peak memory in GB; nothing of it stays."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        side = make()
        seconds = []
        for number in range(steps + 3):
            started = time.perf_counter()
            side.step(number % len(packs))
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        facts = {"flops": getattr(side, "flops", None), "how": getattr(side, "backend", getattr(side, "attention", ""))}
    except torch.OutOfMemoryError:
        return None
    peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0
    del side
    gc.collect()
    return seconds[3:], peak, facts


def compare(size, capacity, steps, device, recompute):
    packs = packs_of(8, capacity)
    tokens = [sum(one.num_columns for one in pack) for pack in packs]
    ours, theirs, plain, peaks, mfu = [], [], [], {}, []
    top = peak_flops(torch.device(device))
    for _ in range(3):
        for kernels, kept in ((None, ours), ("plain", plain)):
            os.environ["HUBBUB_KERNELS"] = kernels or ""
            fused.tried_kernels.cache_clear()
            found = measured(lambda: Ours(size, packs, device, recompute), packs, device, steps)
            if found is None:
                continue
            seconds, peak, facts = found
            done = [number % len(packs) for number in range(3, steps + 3)]
            kept.append(sum(tokens[n] for n in done) / sum(seconds))
            if not kernels:
                peaks["ours"] = peak
                if top:
                    mfu.append(sum(facts["flops"][n] for n in done) / sum(seconds) / top)
                say(f"{size}: {kept[-1]:,.0f} tokens/s by {facts['how']}, {peak:.1f} GB")
        found = measured(lambda: Theirs(size, packs, device, recompute), packs, device, steps)
        if found is not None:
            seconds, peaks["theirs"], facts = found
            theirs.append(sum(tokens[n % len(packs)] for n in range(3, steps + 3)) / sum(seconds))
            say(f"{size}: transformers {theirs[-1]:,.0f} tokens/s by {facts['how']}, {peaks['theirs']:.1f} GB")

    def middle(values):
        return statistics.median(values) if values else None

    def share(one, other):
        return round(statistics.median(one) / statistics.median(other), 3) if one and other else None

    return {
        "tokens_per_s": middle(ours),
        "mfu": middle(mfu),
        "peak_gb": peaks.get("ours"),
        "transformers_tokens_per_s": middle(theirs),
        "transformers_peak_gb": peaks.get("theirs"),
        "over_transformers": share(ours, theirs),
        "triton_over_plain": share(ours, plain),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=["base", "0.6b", "1b"])
    parser.add_argument("--capacity", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--recompute", action="store_true")
    asked = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    result = {"device": name, "torch": torch.__version__}
    for size in asked.sizes:
        result[size] = compare(size, asked.capacity, asked.steps, device, asked.recompute)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
