"""What the death of a working node costs, in each stage by itself: a head and one node, and another that comes.

`make bench-nodes`. Prints one JSON object. What a death costs hardly depends on how long a run is (Ray waits for
heartbeats, workers start anew), so the ratio is that of a run of the length printed beside it.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from pipelines.recipes.files import to_json
from pipelines.recipes.named import demo
from tests.pipelines.support import STAGES, losses, roots, run_on_two_nodes


def shorter():
    """The demo, so that every stage takes some seconds and all of it two minutes."""
    recipe = demo()
    return replace(
        recipe,
        casting=replace(recipe.casting, train_conversations=2000),
        partitions=replace(recipe.partitions, conversations_per_partition=250),
        train=replace(recipe.train, steps=240, checkpoint_every=20),
    )


def seconds_in(stage, output):
    """Return how long a stage took, by the run's journal."""
    at = {}
    for line in (output / "journal.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["stage"] == stage:
            at[entry["event"]] = entry["time"]
    return at["end"] - at["start"]


def main():
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.json"
        recipe.write_text(to_json(shorter()))
        base = Path(folder) / "undisturbed"
        undisturbed, _ = run_on_two_nodes(recipe, base, ())
        result["undisturbed_s"] = round(undisturbed, 1)
        for stage in sys.argv[1:] or STAGES:
            print(json.dumps(result), file=sys.stderr, flush=True)
            output = Path(folder) / stage
            seconds, killed = run_on_two_nodes(recipe, output, (stage,))
            assert killed == [stage], killed
            assert roots(output) == roots(base)
            assert losses(output) == losses(base)
            result[f"death_in_{stage}"] = round(seconds / undisturbed, 3)
            result[f"lost_in_{stage}_s"] = round(seconds_in(stage, output) - seconds_in(stage, base), 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
