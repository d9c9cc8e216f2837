"""Make the judge and every kind of training mixtures, and say what they are: a minute or two on two cores.

    python -m tests.bench.real.mixtures FOLDER [--hours 2.4] [--kinds ours lhotse ...]

FOLDER/judge holds two lists of test mixtures (overlaps, single talkers), and FOLDER/reference.seglst.json what is said
in them. FOLDER/KIND holds a list of training mixtures and recipe.yaml, for `hubbub run FOLDER/KIND/recipe.yaml`. Prints
one JSON object: of each kind its hours, mixtures, overlap, turns and utterances.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from operators.corpus.segments import Segment, read_rttm
from operators.simulate.frozen import RATE_HZ, spoken_by
from operators.simulate.priors import prior_of
from operators.simulate.realism import figures
from operators.simulate.turn_taking import analyze_turns
from tests.bench.real.kinds import (
    KINDS,
    LIST,
    PRIOR,
    VOICES,
    list_of,
    without_dyads,
    write_list,
    write_recipe,
    write_voices,
)
from tests.bench.real.overlaps import overlaps, reference, singles
from tests.bench.realism import SHARED

CORPUS = SHARED / "data/speechocean762"
MEETINGS = SHARED / "data/ami_rttm"


def described(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what mixtures are like; shares of overlap are of the time with speech, of silence of all time."""
    turns = [turn for row in rows for turn in row["turns"]]
    analyses = [
        analyze_turns(
            row["conversation_id"],
            [
                Segment(
                    turn["start_sample"] / RATE_HZ,
                    (turn["start_sample"] + turn["source_num_samples"]) / RATE_HZ,
                    turn["speaker"],
                )
                for turn in row["turns"]
            ],
        )
        for row in rows
    ]
    found = figures(analyses)
    return {
        "hours": round(sum(row["num_samples"] for row in rows) / RATE_HZ / 3600, 3),
        "speech_hours": round(sum(turn["source_num_samples"] for turn in turns) / RATE_HZ / 3600, 3),
        "mixtures": len(rows),
        "overlap_share": round(found.overlap_share, 3),
        "overlap_share_sd": round(found.overlap_share_sd, 3),
        "silence_share": round(max(0.0, found.silence_share), 3),
        "turns_per_mixture": round(len(turns) / len(rows), 2),
        "utterances": len({turn["utterance_id"] for turn in turns}),
        "speakers": len({turn["speaker"] for turn in turns}),
    }


def write_judge(folder: Path, spoken: Mapping[str, Any]) -> dict[str, Any]:
    """Write the judge's lists and reference; return what they are like."""
    judge, alone = overlaps(read_rttm([MEETINGS / "dev.rttm"]), spoken), singles(spoken)
    (folder / "judge").mkdir(exist_ok=True)
    write_list(judge.rows, folder / "judge/overlaps.jsonl.gz")
    write_list(alone, folder / "judge/singles.jsonl.gz")
    said = json.dumps(reference([*judge.rows, *alone]), indent=1, ensure_ascii=False)
    (folder / "reference.seglst.json").write_text(said + "\n", encoding="utf-8")
    offered = {"windows_in_dev": judge.num_windows, "of_whole_turns": judge.num_whole}
    return {"overlaps": {**described(judge.rows), **offered}, "singles": described(alone)}


def main() -> None:
    """Make what is asked for, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.real.mixtures")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hours", type=float, default=2.4, help="of mixtures of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    train, test = (spoken_by(CORPUS, split) for split in ("train", "test"))
    write_voices([train, test], CORPUS, folder / VOICES)
    (folder / PRIOR).write_text(without_dyads(prior_of("meeting")).to_json(), encoding="utf-8")
    result: dict[str, Any] = {"judge": write_judge(folder, test), "kinds": {}}
    meetings = read_rttm([MEETINGS / "train.rttm"])
    for kind in asked.kinds:
        began = time.monotonic()
        rows = list_of(kind, train, folder, CORPUS, meetings, asked.hours)
        (folder / kind).mkdir(exist_ok=True)
        write_list(rows, folder / kind / LIST)
        write_recipe(kind, folder, CORPUS)
        result["kinds"][kind] = {**described(rows), "seconds": round(time.monotonic() - began, 1)}
        print(json.dumps({kind: result["kinds"][kind]}), file=sys.stderr, flush=True)
    result["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
