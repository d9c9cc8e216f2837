"""What a mask of documents is worth for audio-to-text packs, and layouts at equal audio and equal operations.

`make bench-ablation`. Spoken digits, the fsdd recipe's conversations; every model is judged on the same held-out ones.
Layouts read the same codes, and stop at the same number of operations (`flops.py`). Arguments choose variants.
Prints one JSON object.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from models.training.metrics import read_metrics
from tests.bench.realism import SHARED

ROOT = Path(__file__).parents[2]
STEPS = 900
COMMON = (
    "--corpus.manifests",
    SHARED / "data/fsdd",
    "--casting.train-conversations",
    6000,
    "--evaluate.no-untrained",
    "--train.checkpoint-every",
    100,
    "--update",
    # Neither helps itself with where documents begin, or the two sides would differ in more than the mask.
    "--train.ctc-weight",
    0,
    "--train.activity-weight",
    0,
    "--model.prompt-attention",
    "causal",
)
PROBED = 20
# The fsdd recipe, two frames a column, with a mask of documents: against none, and against other layouts for as many
# operations in all.
MASK = {"documents": (), "none": ("--train.no-document-mask",)}
LAYOUTS = {"four_frames": ("--compose.group", 4), "one_frame": ("--compose.group", 1)}


def hubbub(*arguments):
    subprocess.run([sys.executable, "-m", "pipelines", *map(str, arguments)], cwd=ROOT, check=True, stdout=sys.stderr)


def newest(output, pattern):
    return max(output.glob(pattern), key=lambda path: path.stat().st_mtime)


def cost_of_a_step(output, options):
    """Operations of a training step, from a few of them."""
    hubbub("train", "fsdd", *COMMON, "--output", output, "--train.steps", PROBED, *options)
    records = read_metrics(newest(output, "checkpoints/*/metrics.jsonl"))
    assert len(records) == PROBED
    return sum(record.flops for record in records) / PROBED


def trained(output, steps, options):
    """Train and judge one variant."""
    started = time.monotonic()
    hubbub("run", "fsdd", *COMMON, "--output", output, "--train.steps", steps, *options)
    metrics = json.loads(newest(output, "evaluation/*/metrics.json").read_text())["trained"]["cpwer"]
    records = read_metrics(newest(output, "checkpoints/*/metrics.jsonl"))
    return {
        "steps": steps,
        "pflop": round(sum(record.flops for record in records) / 1e15, 4),
        "columns": sum(record.num_columns for record in records),
        "audio_h": round(sum(record.num_frames for record in records) / 40 / 3600, 1),
        "loss": round(sum(record.text_loss for record in records[-50:]) / 50, 4),
        "cpwer": round(metrics["rate"], 4),
        "interval": [round(metrics["low"], 4), round(metrics["high"], 4)],
        "seconds": round(time.monotonic() - started),
    }


def main():
    wanted = sys.argv[1:] or [*MASK, *LAYOUTS]
    result = {}
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "digits"
        base = None
        for variant, options in (MASK | LAYOUTS).items():
            if variant not in wanted:
                continue
            steps = STEPS
            if variant in LAYOUTS:
                base = base or cost_of_a_step(output, ())
                steps = round(STEPS * base / cost_of_a_step(output, options))
            result[variant] = trained(output, steps, options)
            print(json.dumps({variant: result[variant]}), file=sys.stderr, flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
