"""One GPU: MFU of our model, and its tokens a second and peak memory against transformers' own on the same documents.

`make bench-gpu` (base, 0.6b and 1b, bf16, packs of 8,192 columns; without CUDA: tiny, on the CPU). Needs neither Ray
nor data. Ours packs; Qwen3 of transformers, the same arithmetic layer by layer, pads, and takes the same packs with
position ids, with FlashAttention-2 where it is installed and SDPA where not. All step through the same full packs in
turn, round by round; real tokens count, padding does not. Operations, those of the loss among them, are counted as in
`models/speech_lm/flops.py`; MFU goes by the data sheet's peak. Prints one JSON object.
"""

import argparse
import gc
import json
import os
import statistics
import sys
from contextlib import suppress
from dataclasses import replace
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
from tests.bench.clocks import busy, in_turn, memory_in_use, spread
from tests.models.support import joined

TEXT_SIZE = 32_768
FULL = 0.99
"""Least share of a pack's capacity that is filled: a plan's last packs may be nearly empty, and are not drawn."""
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
    """Full packs of documents whose lengths are those of short conversations: a median of 300 columns, a long tail."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(300), 0.8, 8 + number * capacity // 100), 32, capacity // 2).astype(int)
    documents = [document(rng, int(length)) for length in lengths]
    plan = best_fit(lengths, capacity)
    packs = [plan.pack(at) for at in range(len(plan))]
    full = [pack for pack in packs if lengths[pack].sum() >= FULL * capacity]
    assert len(full) >= number, f"{len(full)} of {len(packs)} packs are full, {number} are needed"
    chosen = np.linspace(0, len(full) - 1, number).astype(int)  # the first ones hold the longest documents
    return [[documents[int(i)] for i in full[at]] for at in chosen]


def made_on(device, make):
    """A model made on a device, with weights drawn there: on the host alone, a billion takes half a minute."""
    with torch.device(device):
        model = make()
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def vocabulary():
    return Vocabulary(text_size=TEXT_SIZE, num_streams=1, codebook_size=2, ordinal=False)


class Side:
    """A model, its optimizer, and a step on the next pack."""

    def __init__(self, model, packs, device):
        self.model, self.device, self.at = model.train(), device, 0
        self.tokens = [sum(one.num_columns for one in pack) for pack in packs]
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def __call__(self):
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            loss = self.loss(self.at % len(self.tokens))
        loss.backward()
        self.optimizer.step()
        self.at += 1

    def rest(self):
        """Give back what only a step needs: others measure their own memory."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.device == "cuda":
            torch.cuda.empty_cache()


class Ours(Side):
    def __init__(self, size, packs, device, recompute):
        super().__init__(made_on(device, lambda: SpeechLM(SIZES[size], vocabulary())), packs, device)
        self.model.recompute = "all" if recompute else "none"
        batches = [collate([joined(pack)], GRID) for pack in packs]
        self.flops = [training_flops(SIZES[size], vocabulary(), batch) for batch in batches]
        nothing = replace(vocabulary(), text_size=0)
        self.flops_of_loss = [
            whole - training_flops(SIZES[size], nothing, batch)
            for whole, batch in zip(self.flops, batches, strict=True)
        ]
        self.batches = [batch.to(device) for batch in batches]
        self.how = self.model.backend()

    def loss(self, number):
        made = self.model(self.batches[number], self.how)
        return made.total / made.weight


def qwen3(size, device, attention):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = SIZES[size]
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
        attn_implementation=attention,
    )
    return made_on(device, lambda: Qwen3ForCausalLM(config))


class Padded(Side):
    """Qwen3 of transformers, on a rectangle a pack."""

    def __init__(self, size, packs, device, recompute):
        self.how = "flash_attention_2" if device == "cuda" and find_spec("flash_attn") else "sdpa"
        super().__init__(qwen3(size, device, self.how), packs, device)
        if recompute:
            self.model.gradient_checkpointing_enable()
        self.batches = [self.batch(pack) for pack in packs]

    def batch(self, pack):
        longest = max(one.num_columns for one in pack)
        ids = torch.zeros(len(pack), longest, dtype=torch.int64)
        for row, one in enumerate(pack):
            ids[row, : one.num_columns] = torch.from_numpy(one.text_tokens.astype(np.int64))
        given = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": ids.masked_fill(ids == 0, -100)}
        return {name: value.to(self.device) for name, value in given.items()}

    def loss(self, number):
        return self.model(**self.batches[number], use_cache=False).loss


class Packed(Padded):
    """The same on the pack as one row: where position ids begin anew, transformers begins another document."""

    def batch(self, pack):
        ids = torch.from_numpy(np.concatenate([one.text_tokens for one in pack]).astype(np.int64))[None]
        positions = torch.cat([torch.arange(one.num_columns) for one in pack])[None]
        given = {"input_ids": ids, "position_ids": positions, "labels": ids.masked_fill(positions == 0, -100)}
        return {name: value.to(self.device) for name, value in given.items()}


def use_kernels(which):
    """Use our Triton kernels, or plain torch where told so."""
    if os.environ.get("HUBBUB_KERNELS", "") != which:
        os.environ["HUBBUB_KERNELS"] = which
        fused.tried_kernels.cache_clear()


def prepared(makes, device):
    """Sides by name with their peak memory in GB, measured alone; one that does not fit is left out."""
    sides, peaks = {}, {}
    for name, make in makes.items():
        before = memory_in_use(device)
        with suppress(torch.OutOfMemoryError):
            side = make()
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            for _ in range(3):
                side()
            peaks[name] = (torch.cuda.max_memory_allocated() - before) / 1e9 if device == "cuda" else None
            side.rest()
            sides[name] = side
        side = None
        gc.collect()
    return sides, peaks


def turns_of(sides, steps):
    """A work a side: steps through its packs, every round from the first; ours once more with plain kernels."""

    def turn(side, which):
        def go():
            use_kernels(which)
            side.at = 0
            for _ in range(steps):
                side()

        return go

    works = {name: turn(side, "") for name, side in sides.items()}
    return works | ({"plain": turn(sides["ours"], "plain")} if "ours" in sides else {})


def compare(size, capacity, steps, device, recompute, rounds=5, number=8):
    packs = packs_of(number, capacity)
    makes = {"ours": Ours, "transformers": Padded, "transformers_packed": Packed}
    use_kernels("")
    sides, peaks = prepared(
        {name: (lambda kind=kind: kind(size, packs, device, recompute)) for name, kind in makes.items()}, device
    )
    times = in_turn(turns_of(sides, steps), device, rounds=rounds) if sides else {}
    use_kernels("")
    tokens = sum(sum(one.num_columns for one in packs[at % number]) for at in range(steps))
    rates = {name: [tokens / wall for wall in found.wall_s] for name, found in times.items()}
    for name, found in rates.items():
        how = f" by {sides[name].how}" if name in sides else ""
        say(f"{size}: {name}{how} {statistics.median(found):,.0f} tokens/s ({min(found):,.0f} to {max(found):,.0f})")

    def over(other):
        ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates[other], strict=True)]
        return {key: round(value, 3) for key, value in spread(ratios).items()}

    def middle(name):
        return statistics.median(rates[name]) if name in rates else None

    peers = ("transformers", "transformers_packed", "plain")
    both = {name: over(name) for name in peers if name in rates and "ours" in rates}
    ratios = {name: found["median"] for name, found in both.items()}
    result = {
        "tokens_per_s": middle("ours"),
        "mfu": None,
        "peak_gb": peaks.get("ours"),
        "transformers_tokens_per_s": middle("transformers"),
        "transformers_peak_gb": peaks.get("transformers"),
        "transformers_packed_tokens_per_s": middle("transformers_packed"),
        "transformers_packed_peak_gb": peaks.get("transformers_packed"),
        "over_transformers": ratios.get("transformers"),
        "over_transformers_packed": ratios.get("transformers_packed"),
        "triton_over_plain": ratios.get("plain"),
        "spreads": {name: spread(found) for name, found in rates.items()} | {"over": both},
        "rounds": rounds,
        "steps_per_round": steps,
        "columns_per_pack": [sum(one.num_columns for one in pack) for pack in packs],
        "text_size": TEXT_SIZE,
    }
    return result | (of_ours(sides["ours"], times["ours"], steps, device) if "ours" in sides else {})


def of_ours(side, times, steps, device):
    """What our steps cost by each clock, and the share of the device's peak."""
    flops = sum(side.flops[at % len(side.flops)] for at in range(steps))
    of_loss = sum(side.flops_of_loss[at % len(side.flops)] for at in range(steps))
    wall, top = statistics.median(times.wall_s), peak_flops(torch.device(device))
    found = busy(side, device)
    return {
        "mfu": flops / wall / top if top else None,
        "flop_per_s": flops / wall,
        "loss_share_of_flops": round(of_loss / flops, 4),
        "parameters": side.model.num_parameters(),
        "attention": side.how,
        "step_wall_s": spread([one / steps for one in times.wall_s]),
        "step_device_s": spread([one / steps for one in times.device_s]),
        "step_host_s": spread([one / steps for one in times.host_s]),
        "device_busy_share": round(min(1.0, found.kernel_s * steps / wall), 4),
        "kernels_per_step": round(found.num_kernels),
    }


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=["base", "0.6b", "1b"] if device == "cuda" else ["tiny"])
    parser.add_argument("--capacity", type=int, default=8192 if device == "cuda" else 512)
    parser.add_argument("--steps", type=int, default=8, help="steps of each side a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recompute", action="store_true")
    asked = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    result = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda}
    for size in asked.sizes:
        result[size] = compare(size, asked.capacity, asked.steps, device, asked.recompute, asked.rounds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
