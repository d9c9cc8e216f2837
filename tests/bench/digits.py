"""Real spoken digits: the fsdd recipe, judged on overlapped talk, without overlap, and on three talkers.

`make bench-digits`. Arguments are added to the recipe's. Prints one JSON object.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from operators.simulate.priors import prior_of
from tests.bench.realism import SHARED

ROOT = Path(__file__).parents[2]


def hubbub(*arguments):
    """Run the program, its output going to standard error."""
    done = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    subprocess.run(done, cwd=ROOT, check=True, stdout=sys.stderr)


def judged(output):
    """Word error rate and its interval, of the newest evaluation."""
    path = max(output.glob("evaluation/*/metrics.json"), key=lambda p: p.stat().st_mtime)
    return json.loads(path.read_text())["trained"]["cpwer"]


def main():
    """Train, judge three times, and print one JSON object."""
    with tempfile.TemporaryDirectory() as name:
        output, started = Path(name) / "digits", time.monotonic()
        corpus = ("--corpus.manifests", SHARED / "data/fsdd")
        hubbub("run", "fsdd", *corpus, "--output", output, "--evaluate.no-untrained", *sys.argv[1:])
        result = {"minutes": round((time.monotonic() - started) / 60, 1)}
        meeting = prior_of("meeting")
        prior = Path(name) / "no-overlap.json"
        prior.write_text(replace(meeting, offset_s=tuple(max(0.02, v) for v in meeting.offset_s)).to_json())
        checkpoint = max(output.glob("checkpoints/*/step-*"), key=lambda path: path.name)
        variants = {
            "cpwer": ("--output", output),
            "cpwer_no_overlap": ("--output", Path(name) / "apart", "--converse.prior", prior),
            "cpwer_three_talkers": (
                "--output",
                Path(name) / "three",
                "--casting.min-speakers",
                3,
                "--casting.max-speakers",
                3,
            ),
        }
        for key, options in variants.items():
            if key != "cpwer":
                few = ("--casting.train-conversations", 1, "--evaluate.no-untrained")
                hubbub("evaluate", "fsdd", *corpus, *few, "--checkpoint", checkpoint, *options, *sys.argv[1:])
            found = judged(Path(options[1]))
            result[key] = round(found["rate"], 4)
            result[f"{key}_interval"] = [round(found["low"], 4), round(found["high"], 4)]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
