"""Scores against meeteval's and pyannote.metrics' own, on random sessions, and the time of a long one.

`make bench-evaluate`. The last line is one JSON object, with the scores of the demo's checkpoint. The argument is a
number of random sessions.
"""

import json
import logging
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import meeteval
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate, JaccardErrorRate

from operators.scoring.measures import MEASURES
from operators.scoring.measures.streams import MAX_EXACT_CELLS, quiet
from operators.scoring.result import Conditions
from operators.scoring.score import score
from operators.scoring.sessions import make_sessions

ROOT = Path(__file__).parents[2]
SESSIONS = 500
COLLAR_S = 5.0
KINDS = ("errors", "length", "insertions", "deletions", "substitutions")


def turn(speaker, words, start, end):
    return {"session_id": "a", "speaker": speaker, "words": " ".join(words), "start_time": start, "end_time": end}


def random_session(seed):
    """Turns of both sides: now and then empty, of 12 speakers, with the same times, unknown or self-overlapping."""
    draw = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(draw.choice((5, 40)))]
    speakers = 12 if seed % 10 == 3 else draw.randint(1, 4)
    same_times = seed % 10 == 4
    reference, hypothesis, at = [], [], 0.0
    for _ in range(draw.randint(1, 12)):
        who = draw.randrange(speakers)
        said = [draw.choice(vocabulary) for _ in range(draw.randint(0, 6))]
        length = draw.choice((0.0, 0.5, 2.0, 4.0))
        start = 1.0 if same_times else max(0.0, at + draw.uniform(-1.5, 2.0))
        reference.append(turn(f"r{who}", said, start, start + length))
        heard = [draw.choice(vocabulary) if draw.random() < 0.2 else word for word in said if draw.random() < 0.9]
        heard_as = draw.choice(("<NA>", "", f"h{draw.randrange(speakers + 2)}")) if draw.random() < 0.2 else f"h{who}"
        late = start if same_times else max(0.0, start + draw.choice((0.0, 0.3, 9.0)))
        if draw.random() < 0.9:
            hypothesis.append(turn(heard_as, heard, late, late + length * draw.choice((1.0, 1.3))))
        at = start + length
    if seed % 10 == 5:
        reference = []
    if seed % 20 in (6, 15):
        hypothesis = []
    if not reference and not hypothesis:
        reference = [turn("r0", [], 0.0, 1.0)]
    return reference, hypothesis


def of_meeteval(reference, hypothesis):
    """Error rates by meeteval's own functions, for as many speakers as they take; sides without words count as that."""
    wer = meeteval.wer
    sides = [meeteval.io.SegLST(side or [turn("nobody", [], 0.0, 0.0)]) for side in (reference, hypothesis)]
    words = [" ".join(" ".join(e["words"] for e in side.sorted("start_time")).split()) for side in sides]
    streams = [len(side.unique("speaker")) for side in sides]
    found = {}
    if all(words):
        found["wer"] = wer.siso_word_error_rate(*words)
        found["cer"] = wer.wer.siso.siso_character_error_rate(*words)
    found["cpwer"] = wer.cp_word_error_rate(*sides)
    found["tcpwer"] = wer.wer.time_constrained.tcp_word_error_rate(*sides, collar=COLLAR_S)
    cells = len(words[0].split())
    for stream in sides[1].groupby("speaker").values():
        cells *= len(" ".join(e["words"] for e in stream).split()) + 1
    # meeteval stops at an assertion of its own where a side has no words.
    if all(words) and streams[1] <= 10:
        is_exact = cells <= MAX_EXACT_CELLS
        orc = wer.wer.orc
        found["orcwer"] = (orc.orc_word_error_rate if is_exact else orc.greedy_orc_word_error_rate)(*sides)
        tcorc = wer.wer.time_constrained_orc
        search = tcorc.time_constrained_orc_wer if is_exact else tcorc.greedy_time_constrained_orc_wer
        found["tcorcwer"] = search(*sides, collar=COLLAR_S)
    if all(words) and streams[0] <= 10:
        found["dicpwer"] = wer.wer.di_cp.greedy_di_cp_word_error_rate(*sides)
    return found


def of_pyannote(reference, hypothesis):
    """Errors and base of DER and JER by pyannote.metrics' own calls."""
    sides = []
    for side in (reference, hypothesis):
        annotation = Annotation(uri="a")
        for number, one in enumerate(side):
            annotation[Segment(one["start_time"], one["end_time"]), number] = one["speaker"]
        sides.append(annotation.support())
    spans = [one for one in (*reference, *hypothesis) if one["end_time"] > one["start_time"]]
    extent = Segment(min(o["start_time"] for o in spans), max(o["end_time"] for o in spans)) if spans else None
    uem = Timeline([extent] if extent else [])
    found = {}
    for name, collar in (("der", 0.0), ("der_collar_0.25", 0.5)):
        parts = DiarizationErrorRate(collar=collar)(*sides, uem=uem, detailed=True)
        found[name] = (parts["missed detection"] + parts["false alarm"] + parts["confusion"], parts["total"])
    parts = JaccardErrorRate()(*sides, uem=uem, detailed=True)
    found["jer"] = (parts["speaker error"], parts["speaker count"])
    return found


def unequal(seeds):
    """How many sessions have a figure that differs from meeteval's, and from pyannote's; and how many comparisons."""
    wrong = {"meeteval": 0, "pyannote": 0}
    compared = dict.fromkeys(MEASURES, 0)
    conditions = Conditions(collar_s=COLLAR_S)
    for seed in seeds:
        reference, hypothesis = random_session(seed)
        (session,) = make_sessions(reference, hypothesis, str)
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours = {name: measure.of_session(session, conditions) for name, measure in MEASURES.items()}
            theirs, others = of_meeteval(reference, hypothesis), of_pyannote(reference, hypothesis)
        differs = False
        for name, score_ in theirs.items():
            compared[name] += 1
            kinds = ours[name].kinds
            mine = (ours[name].errors, ours[name].base, *(kinds[kind] for kind in KINDS[2:]))
            wanted = tuple(getattr(score_, kind) for kind in KINDS)
            # Characters are aligned by another library, which may choose another of several best alignments.
            differs |= mine[:2] != wanted[:2] if name == "cer" else mine != wanted
        wrong["meeteval"] += differs
        for name in others:
            compared[name] += 1
        wrong["pyannote"] += any(
            abs(ours[name].errors - errors) > 1e-9 or abs(ours[name].base - base) > 1e-9
            for name, (errors, base) in others.items()
        )
    return wrong["meeteval"], wrong["pyannote"], compared


def meeting(seed, speakers=8, minutes=60):
    """Turns of both sides of a long meeting."""
    draw = random.Random(seed)
    vocabulary = [f"word{i}" for i in range(2000)]
    reference, hypothesis, at = [], [], 0.0
    while at < minutes * 60:
        who, said = draw.randrange(speakers), [draw.choice(vocabulary) for _ in range(draw.randint(1, 25))]
        start, length = max(0.0, at + draw.uniform(-1.0, 0.8)), len(said) / 3
        reference.append(turn(f"r{who}", said, start, start + length))
        heard = [word if draw.random() < 0.85 else draw.choice(vocabulary) for word in said if draw.random() < 0.95]
        heard_as = who if draw.random() < 0.92 else draw.randrange(speakers)
        hypothesis.append(turn(f"s{heard_as}", heard, max(0.0, start + draw.gauss(0, 0.2)), start + length + 1.0))
        at = start + length
    return reference, hypothesis


def of_demo():
    """Scores of the demo's checkpoint, each with its 95 % interval; the demo is trained first where it was not."""
    done = [sys.executable, "-m", "pipelines", "run", "demo"]
    subprocess.run(done, cwd=ROOT, check=True, stdout=sys.stderr)
    newest = max((ROOT / "runs/demo/evaluation").glob("*/metrics.json"), key=lambda path: path.stat().st_mtime)
    trained = json.loads(newest.read_text())["trained"]
    return {name: [trained[name][part] for part in ("rate", "low", "high")] for name in ("cpwer", "tcpwer", "der")}


def main():
    logging.disable(logging.WARNING)
    number = int(sys.argv[1]) if len(sys.argv) > 1 else SESSIONS
    of_meetevals, of_pyannotes, compared = unequal(range(number))
    print(json.dumps({"compared": compared}), file=sys.stderr)
    reference, hypothesis = meeting(0)
    score(*meeting(1, speakers=2, minutes=0.5))  # imported and compiled before anything is measured
    started = time.monotonic()
    score(reference, hypothesis)
    result = {
        "sessions": number,
        "unequal_to_meeteval": of_meetevals,
        "unequal_to_pyannote": of_pyannotes,
        "session_60min_8_speakers_s": round(time.monotonic() - started, 2),
    }
    print(json.dumps({**result, **of_demo()}))


if __name__ == "__main__":
    main()
