"""What a mask of documents is worth for audio-to-text packs, and layouts at equal audio and equal operations.

`make bench-ablation`. Spoken digits, the fsdd recipe's conversations; every model is judged on the same held-out ones.
All trainings of a comparison read the same codes, and stop at the same number of operations (`models/flops.py`).
Prints one JSON object.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from models.metrics import read_metrics
from tests.bench.realism import SHARED

ROOT = Path(__file__).parents[2]
STEPS = 900
COMMON = (
    "--corpus.manifests", SHARED / "data/fsdd", "--casting.train-conversations", 6000, "--evaluate.no-untrained",
    "--train.checkpoint-every", 100, "--update",
    # Neither helps itself with where documents begin, or the two sides would differ in more than the mask.
    "--train.ctc-weight", 0, "--train.activity-weight", 0, "--model.prompt-attention", "causal",
)  # fmt: skip
# What is compared, and the options that make it; steps are set so that operations are equal.
MASK = {"documents": (), "none": ("--train.no-document-mask",)}
LAYOUTS = {
    "two frames a column": (),
    "four frames a column": ("--compose.group", 4),
    "one frame a column": ("--compose.group", 1),
}


def hubbub(*arguments):
    subprocess.run([sys.executable, "-m", "pipelines", *map(str, arguments)], cwd=ROOT, check=True, stdout=sys.stderr)


def newest(output, pattern):
    return max(output.glob(pattern), key=lambda path: path.stat().st_mtime)


def trained(output, steps, options):
    """Train and judge one variant."""
    started = time.monotonic()
    hubbub("run", "fsdd", *COMMON, "--output", output, "--train.steps", steps, *options, *sys.argv[1:])
    metrics = json.loads(newest(output, "evaluation/*/metrics.json").read_text())["trained"]["cpwer"]
    records = read_metrics(newest(output, "checkpoints/*/metrics.jsonl"))
    return {
        "steps": steps,
        "pflop": round(sum(record.flops for record in records) / 1e15, 3),
        "columns": sum(record.num_columns for record in records),
        "audio_h": round(sum(record.num_frames for record in records) / 40 / 3600, 1),
        "loss": round(sum(record.text_loss for record in records[-50:]) / 50, 4),
        "cpwer": round(metrics["rate"], 4),
        "interval": [round(metrics["low"], 4), round(metrics["high"], 4)],
        "seconds": round(time.monotonic() - started),
    }


def main():
    result = {}
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "digits"
        for mask, options in MASK.items():
            result[f"mask: {mask}"] = found = trained(output, STEPS, options)
            print(json.dumps({mask: found}), file=sys.stderr)
        budget = result["mask: documents"]["pflop"] / STEPS
        for layout, options in LAYOUTS.items():
            if not options:
                result[f"layout: {layout}"] = result["mask: documents"]
                continue
            # A few steps tell what one costs.
            probe = trained(output, 20, options)
            steps = round(STEPS * budget / (probe["pflop"] / 20))
            result[f"layout: {layout}"] = found = trained(output, steps, options)
            print(json.dumps({layout: found}), file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
