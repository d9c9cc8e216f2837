"""What a model learns from the same codes on other layouts: at equal audio, and at equal operations.

`make bench-layouts-trained`. The fsdd recipe's conversations by Lyra's first four codebooks, made once; the same `tiny`
model learns to write down and to go on with them. Every layout is trained twice: until it has read as much audio as
the parallel layout did, and until it has done as many operations (`flops.py`). Judged on held-out conversations
by what it writes (cpWER), and by what it gives the transcript that was right and the codes that came (layouts are
factorizations of the same codes, so these compare). Arguments choose layouts. Prints one JSON object.
"""

import json
import math
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from models.config.header import steps as complete
from models.sequence.batch import collate
from models.training.metrics import read_metrics
from operators.evaluate.transcribe import Transcribe
from pipelines.plan.output import Output
from tests.bench.ablation import hubbub, newest
from tests.bench.realism import SHARED
from tests.models.support import packed

BOOKS, RATE = 4, 50
STEPS = 500
PROBED = 10
PROMPT_S = 1.0
AUDIO_WEIGHT = 0.1  # a frame; there are ten of them to a letter
COMMON = (
    "--corpus.manifests",
    SHARED / "data/fsdd",
    "--casting.train-conversations",
    4000,
    "--evaluate.no-untrained",
    "--encode.codec",
    "lyra",
    "--encode.weights",
    SHARED / "data/lyra_v2",
    "--encode.num-codebooks",
    BOOKS,
    "--compose.tasks",
    "asr",
    "continue",
    "--compose.prompt-s",
    PROMPT_S,
    "--train.checkpoint-every",
    100,
    "--train.hide-bands",
    0,
    "--train.hide-spans",
    0,
    "--update",
    # No helper that works on one task, or on one layout, only.
    "--train.ctc-weight",
    0,
    "--train.activity-weight",
    0,
    "--model.prompt-attention",
    "causal",
)


def of(layout, group, columns_a_frame, streams):
    """Options of a layout: packs hold as much audio as the others', and audio weighs as much beside text."""
    return (
        "--compose.layout",
        layout,
        "--compose.group",
        group,
        "--pack.capacity",
        int(1024 * columns_a_frame),
        "--train.packs-per-pass",
        1 if columns_a_frame > 1 else 2,
        "--train.stream-weights",
        *[AUDIO_WEIGHT / columns_a_frame] * streams,
    )


VARIANTS = {
    "parallel": of("parallel", 1, 1, BOOKS),
    "parallel, groups of 2": of("parallel", 2, 0.5, 2 * BOOKS),
    "delay": of("delay", 1, 1, BOOKS),
    "depth": of("depth", 1, 1, BOOKS),
    "flat": of("flat", 1, BOOKS, 1),
    "coarse_first": of("coarse_first", 1, BOOKS, 1),
}


def cost_of_a_step(output, options):
    """Operations of a training step, and frames that it reads, from a few of them."""
    hubbub("train", "fsdd", *COMMON, "--output", output, "--train.steps", PROBED, *options)
    records = read_metrics(newest(output, "checkpoints/*/metrics.jsonl"))
    assert len(records) == PROBED
    return sum(record.flops for record in records) / PROBED, sum(record.num_frames for record in records) / PROBED


@torch.no_grad()
def held_out(output):
    """What the newest checkpoint expects of held-out conversations.

    Returns:
        Means of -log2 of what it gives the codes that go on from a second of audio, and of -ln of what it gives the
        transcript's tokens.
    """
    folder = newest(output, "checkpoints/*/step-*").parent
    judge = Transcribe(checkpoint=str(folder / f"step-{complete(folder)[-1]:06d}"))
    compose = replace(judge.compose, tasks=("asr", "continue"), prompt_s=PROMPT_S)
    codes = Output(Path(output)).dataset("codes")
    sums = {"asr": [0.0, 0.0], "continue": [0.0, 0.0]}
    for receipt in codes.latest().receipts:
        for batch in codes.batches(receipt):
            if batch["split"][0].as_py() != "test":
                continue
            for made in compose(batch).to_pylist():
                loss = judge.model(collate([packed(made)], judge.grid))
                if made["task"] == "asr":
                    total, weight = float(loss.text_total), float(loss.text_weight)
                else:  # a mean over cells first: their weights are other ones in every layout
                    weight = made["num_frames"]
                    total = float(loss.audio_total) / float(loss.audio_weight) * weight
                sums[made["task"]][0] += total
                sums[made["task"]][1] += weight
    audio, text = (sums[task][0] / sums[task][1] for task in ("continue", "asr"))
    return {"bits_a_code": round(audio / math.log(2), 4), "nats_a_token": round(text, 4)}


def trained(output, steps, options):
    """Train and judge one layout."""
    started = time.monotonic()
    hubbub("run", "fsdd", *COMMON, "--output", output, "--train.steps", steps, *options)
    metrics = json.loads(newest(output, "evaluation/*/metrics.json").read_text())["trained"]["cpwer"]
    records = read_metrics(newest(output, "checkpoints/*/metrics.jsonl"))
    assert len(records) == steps
    return {
        "steps": steps,
        "tflop": round(sum(record.flops for record in records) / 1e12, 2),
        "audio_h": round(sum(record.num_frames for record in records) / RATE / 3600, 1),
        **held_out(output),
        "cpwer": round(metrics["rate"], 4),
        "interval": [round(metrics["low"], 4), round(metrics["high"], 4)],
        "seconds": round(time.monotonic() - started),
    }


def main():
    wanted = sys.argv[1:] or list(VARIANTS)
    result = {}
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "digits"
        base_flops, base_frames = cost_of_a_step(output, VARIANTS["parallel"])
        for variant in wanted:
            options = VARIANTS[variant]
            flops, frames = cost_of_a_step(output, options)
            found = {}
            for equal, steps in (("audio", STEPS * base_frames / frames), ("operations", STEPS * base_flops / flops)):
                like = [one for one in found.values() if abs(one["steps"] / steps - 1) < 0.05]
                found[equal] = like[0] if like else trained(output, round(steps), options)
            result[variant] = found
            print(json.dumps({variant: found}), file=sys.stderr, flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
