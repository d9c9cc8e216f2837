"""Recognizers that start from Whisper, on real speech of speakers they never heard: `make bench-real`.

    python -m tests.bench.real.recognition FOLDER [--parts whisper sot told features simulation] [--steps 120]

Trains and judges (`mixtures.py` makes what by): Whisper base's decoder by serialized output on two talkers and single
ones (sot); the same told by a diarization whom to hear (told, DiCoW); Whisper as it is, on single talkers, and tiny.en
on the true turns of overlapped talkers (whisper); what features cost (features); and tiny.en trained on equal hours of
four kinds of mixtures (simulation). Whatever was made is kept in FOLDER and used again. Prints one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.speech_lm.pretrained.packaged import write_whisper
from operators.evaluate.recognize import words_of
from operators.evaluate.recognizers.whisper import WhisperRecognizer
from operators.scoring.compare import compare
from operators.scoring.result import Conditions
from operators.scoring.score import score
from operators.simulate.frozen import RATE_HZ
from tests.bench.realism import SHARED

PARTS = ("whisper", "sot", "told", "features", "simulation")
KINDS = ("librimix", "lhotse", "independent", "ours")
CONDITIONS = Conditions(measures=("cpwer", "wer"))
SINGLES_HEARD = 150
"""Single utterances that Whisper as it is hears: padded to 30 s each."""


def say(*words: object) -> None:
    """Tell how far it is."""
    print(*words, file=sys.stderr, flush=True)


def is_of(session: str, of: str) -> bool:
    """Return whether one of the judge's mixtures is of a condition: single, or overlap, which meetings name."""
    return session.startswith("single") == (of == "single")


class Bench:
    """What is made in one folder."""

    def __init__(self, folder: Path, steps: int, told: str) -> None:
        """Take the folder, the steps of training, and how told models are told."""
        self.folder, self.steps, self.told = folder, steps, told
        self.mixtures = folder / "mixtures"
        self.seconds: dict[str, float] = {}

    def prepare(self, hours: float) -> None:
        """Write the Whisper folders and the mixtures, where they are missing."""
        for name in ("base", "tiny.en"):
            if not (self.whisper(name) / "model.safetensors").exists():
                write_whisper(name, self.whisper(name))
        if not (self.mixtures / "general" / "recipe.yaml").exists():
            command = [sys.executable, "-m", "tests.bench.real.mixtures", str(self.mixtures), "--hours", str(hours)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def whisper(self, name: str) -> Path:
        """Return the folder of a Whisper."""
        return self.folder / f"whisper-{name}"

    def train(self, name: str, kind: str, start: str, *options: str) -> Path:
        """Train on a kind of mixtures and judge; return the output folder, which trainings of one kind share."""
        output, began = self.folder / f"{kind}-{start}", time.monotonic()
        recipe, whisper = self.mixtures / kind / "recipe.yaml", self.whisper(start)
        arguments = [
            *("run", str(recipe), "--model.from-whisper", str(whisper), "--output", str(output), "--update"),
            *("--pack.capacity", "1024", "--train.packs-per-step", "2", "--train.packs-per-pass", "1"),
            *("--train.steps", str(self.steps), "--train.warmup-steps", "20", "--train.lr", "5e-4"),
            *("--train.pretrained-lr", "2e-5", "--train.checkpoint-every", "40", "--evaluate.no-untrained"),
            *("--evaluate.baselines", "--evaluate.slices", "condition", "--evaluate.max-tokens", "120"),
            *options,
        ]
        say("hubbub", *arguments)
        subprocess.run([sys.executable, "-m", "pipelines", *arguments], check=True, stdout=sys.stderr)
        self.seconds[name] = round(time.monotonic() - began, 1)
        return output

    def reference(self, of: str) -> list[dict[str, Any]]:
        """Return what is said in the judge's mixtures of a condition: overlap or single."""
        entries = json.loads((self.mixtures / "reference.seglst.json").read_text())
        return [entry for entry in entries if is_of(entry["session_id"], of)]

    def answers(self, output: Path, task: str, of: str) -> list[dict[str, Any]]:
        """Return what a trained model wrote of the judge's mixtures of a condition."""
        (path,) = output.glob(f"evaluation/*/trained_{task}_hypothesis.seglst.json")
        return [entry for entry in json.loads(path.read_text()) if is_of(entry["session_id"], of)]

    def judged(self, output: Path, task: str, of: str, measure: str = "cpwer") -> dict[str, float]:
        """Return a trained model's figure, with its interval."""
        return self.figure(self.reference(of), self.answers(output, task, of), measure)

    @staticmethod
    def figure(
        reference: Sequence[dict[str, Any]], hypothesis: Sequence[dict[str, Any]], measure: str
    ) -> dict[str, float]:
        """Return a figure of a hypothesis, with its interval."""
        found = {one.measure: one for one in score(reference, hypothesis, CONDITIONS).figures}[measure]
        return {name: round(float(getattr(found, name)), 4) for name in ("value", "low", "high")}


def sounds_of(bench: Bench, of: str) -> Iterable[tuple[dict[str, Any], np.ndarray]]:
    """Yield each of the judge's mixtures of a condition with its sound, as checkpoints hear it: 16-bit samples."""
    from models.codecs.pcm import ZERO
    from pipelines.plan.output import Output

    output = bench.train("sot", "general", "base")  # made before, or now
    for row in Output(output).dataset("codes").read().to_pylist():
        if is_of(row["conversation_id"], of):
            yield row, (np.frombuffer(row["codes"], "<u2").astype(np.int32) - ZERO).astype(np.int16)


def whisper_as_it_is(bench: Bench) -> dict[str, Any]:
    """Return the WER of Whisper base on single talkers, and tiny.en's cpWER on the true turns of overlapped ones."""
    base, tiny = (WhisperRecognizer(bench.whisper(name)) for name in ("base", "tiny.en"))
    singles: list[dict[str, Any]] = []
    for row, samples in list(sounds_of(bench, "single"))[:: max(1, 498 // SINGLES_HEARD)]:
        words = words_of(base, samples, RATE_HZ, "en")
        singles.append({"session_id": row["conversation_id"], "speaker": row["speakers"][0], "words": words})
    heard = {entry["session_id"] for entry in singles}
    reference = [entry for entry in bench.reference("single") if entry["session_id"] in heard]
    turns: list[dict[str, Any]] = []
    for row, samples in sounds_of(bench, "overlap"):
        size = 1280
        for turn in row["turns"]:
            own = samples[turn["start_frame"] * size : (turn["start_frame"] + turn["num_frames"]) * size]
            words = words_of(tiny, own, RATE_HZ, "en")
            turns.append({"session_id": row["conversation_id"], "speaker": turn["speaker"], "words": words})
    return {
        "whisper_base": bench.figure(reference, singles, "wer"),
        "whisper_base_utterances": len(singles),
        "tiny_en_oracle": bench.figure(bench.reference("overlap"), turns, "cpwer"),
    }


def simulation(bench: Bench) -> dict[str, Any]:
    """Return what tiny.en makes of recorded overlaps after each kind of mixtures, and ours against the others."""
    outputs = {kind: bench.train(f"kind-{kind}", kind, "tiny.en") for kind in KINDS}
    found: dict[str, Any] = {kind: bench.judged(output, "asr", "overlap") for kind, output in outputs.items()}
    found |= {f"{kind}_single": bench.judged(output, "asr", "single", "wer") for kind, output in outputs.items()}
    reference, mine = bench.reference("overlap"), bench.answers(outputs["ours"], "asr", "overlap")
    for kind in KINDS[:-1]:
        other = bench.answers(outputs[kind], "asr", "overlap")
        differences = compare(reference, other, mine, CONDITIONS).differences
        one = next(difference for difference in differences if difference.measure == "cpwer")
        found[f"gain_over_{kind}"] = {
            name: None if getattr(one, key) is None else round(float(getattr(one, key)), 4)
            for name, key in (("value", "difference"), ("low", "low"), ("high", "high"), ("p", "p"))
        }
    return found


def told(bench: Bench) -> dict[str, Any]:
    """Return the cpWER of a model told by the true diarization, and how much better it is than by serialized output."""
    options = ["--compose.tasks", "asr_talker", "--model.diarization", bench.told]
    options += ["--features.store", "none"] if bench.told == "encoder" else []
    output = bench.train(f"told-{bench.told}", "general", "base", *options)
    plain = bench.train("sot", "general", "base")
    mine, theirs = bench.answers(output, "asr_talker", "overlap"), bench.answers(plain, "asr", "overlap")
    one = compare(bench.reference("overlap"), theirs, mine, CONDITIONS).differences[0]
    gain = {"value": one.difference, "low": one.low, "high": one.high}
    return {
        "told": bench.judged(output, "asr_talker", "overlap"),
        "told_single": bench.judged(output, "asr_talker", "single", "wer"),
        "sot_minus_told": {name: None if value is None else round(value, 4) for name, value in gain.items()},
    }


def features() -> dict[str, Any]:
    """Return what `make bench-features` prints."""
    environment = {name: value for name, value in os.environ.items() if name != "ENCODER"}
    command = [sys.executable, "-m", "tests.bench.features"]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Make what is asked for, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.real.recognition")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--steps", type=int, default=120, help="of every training, of two packs of 1,024 columns each")
    parser.add_argument("--hours", type=float, default=2.4, help="of mixtures of each kind")
    parser.add_argument("--told", choices=("frames", "encoder"), default="frames", help="where the model is told")
    asked = parser.parse_args()
    if not SHARED.is_dir():
        raise SystemExit(f"there is no folder {SHARED}: set HUBBUB_SHARED to where data/speechocean762 is")
    bench = Bench(asked.folder.absolute(), asked.steps, asked.told)
    bench.prepare(asked.hours)
    result: dict[str, Any] = {}
    if "sot" in asked.parts:
        output = bench.train("sot", "general", "base")
        result |= {
            "single": bench.judged(output, "asr", "single", "wer"),
            "two": bench.judged(output, "asr", "overlap"),
        }
        result |= {"single_wer": result["single"]["value"], "two_talker_cpwer": result["two"]["value"]}
        result |= {"low": result["two"]["low"], "high": result["two"]["high"]}
    if "whisper" in asked.parts:
        result |= whisper_as_it_is(bench)
        result["whisper_base_wer"] = result["whisper_base"]["value"]
        result["tiny_en_oracle_cpwer"] = result["tiny_en_oracle"]["value"]
    if "told" in asked.parts:
        result |= told(bench)
        result["dicow_cpwer"] = result["told"]["value"]
    if "features" in asked.parts:
        made = features()
        result |= {name: made[name] for name in ("features_over_codes_step", "features_x_realtime_per_core")}
    if "simulation" in asked.parts:
        result["simulation"] = simulation(bench)
        result["simulation_gain"] = result["simulation"]["gain_over_librimix"]
    result["seconds"] = bench.seconds
    print(json.dumps(result))


if __name__ == "__main__":
    main()
