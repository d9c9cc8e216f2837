"""Layouts at equal audio: length, vocabulary, and what a training step costs, on the same codes.

`make bench-layouts`. Sixteen codebooks of 16 (Lyra's shape) and dMel's 80, random codes, continuation documents of 5 s,
a `tiny` model on one thread: CPU seconds of a step, forward and backward, over the parallel layout's, in turn. Prints
one JSON object.
"""

import json
import os

os.environ["OMP_NUM_THREADS"] = "1"

import time
from dataclasses import asdict

import numpy as np
import torch

from models.codecs.codec import CodecSpec, pack_codes
from models.config.shape import SIZES, Vocabulary
from models.layouts import LAYOUTS, make_layout
from models.sequence.batch import collate
from models.sequence.documents import GridSpec
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.model import SpeechLM
from operators.documents.compose import Compose
from operators.schema import CODES, table
from tests.models.support import packed

SECONDS, ROUNDS = 5, 5
SHAPES = {"16 x 16 at 50/s": (16, 50, (1, 2)), "80 x 16 at 40/s (dMel)": (80, 40, (1, 4))}


def codes_of(spec):
    """One conversation of random codes."""
    frames = round(SECONDS * spec.frame_rate_hz)
    codes = np.random.default_rng(0).integers(0, 16, (spec.num_codebooks, frames))
    row = {
        "conversation_id": "c",
        "origin": "simulated",
        "split": "train",
        "num_samples": SECONDS * 16_000,
        "num_frames": frames,
        "codes": pack_codes(codes, 4),
        "speakers": ["a"],
        "turns": [],
        "stems": [],
    }
    return table([row], CODES).replace_schema_metadata({"hubbub.codec": json.dumps(asdict(spec))})


def main():
    """Measure every layout against parallel, and print one JSON object."""
    torch.set_num_threads(1)
    result = {}
    for title, (books, rate, groups) in SHAPES.items():
        spec = CodecSpec(
            name="x",
            sample_rate_hz=16_000,
            hop_samples=16_000 // rate,
            num_codebooks=books,
            codebook_size=16,
            bits=4,
            ordinal=False,
            causal=False,
            licence="",
            weights_digest="",
        )
        variants = [(name, group) for name in LAYOUTS for group in (groups if LAYOUTS[name].has_groups else (1,))]
        if books > 16:  # one code a column would make 16,000 columns of five seconds; a depth of 320 cells a column
            variants = [(n, g) for n, g in variants if n in ("parallel", "delay") or (n == "depth" and g == 1)]
        steps = {}
        for name, group in variants:
            layout = make_layout(name, books, 16, group)
            (made,) = Compose(tasks=("continue",), layout=name, group=group, prompt_s=0.5)(codes_of(spec)).to_pylist()
            batch = collate([packed(made)], GridSpec(layout, books, 16, 4))
            vocabulary = Vocabulary(
                text_size=ByteTokenizer().vocab_size,
                num_streams=layout.num_streams,
                codebook_size=layout.vocab_size,
                ordinal=False,
                depth=layout.is_depth,
            )
            model = SpeechLM(SIZES["tiny"], vocabulary).initialize(0)

            def step(model=model, batch=batch):
                model.zero_grad()
                started = time.process_time()
                model(batch).total.backward()
                return time.process_time() - started

            step()
            steps[name if group == 1 else f"{name}, groups of {group}"] = (layout, made["num_columns"], model, step)
        base, taken = steps["parallel"][3], {name: [] for name in steps}
        for _ in range(ROUNDS):
            plain = base()
            for name, (_, _, _, step) in steps.items():
                taken[name].append(step() / plain)
        result[title] = {
            name: {
                "columns_per_s": round(columns / SECONDS, 1),
                "streams": layout.num_streams,
                "ids_per_cell": layout.vocab_size,
                "parameters": model.num_parameters(),
                "cost_vs_parallel": round(float(np.median(taken[name])), 2),
            }
            for name, (layout, columns, model, _) in steps.items()
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
