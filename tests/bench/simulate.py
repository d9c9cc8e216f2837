"""Simulation: planning against lhotse's meeting simulator, rendering against lhotse's load, mix and save; memory.

`make bench-simulate`. Both sides read the same recordings and write the same format; the mixtures are compared
sample by sample. Prints one JSON object.
"""

import json
import subprocess
import sys
import tempfile
import time
import warnings
import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
from scipy.stats import ks_2samp

from operators.cast import Casting, cast_table, plan_casts, split_rows
from operators.converse import Converse
from operators.manifest import Manifest, corpus_roots, index
from operators.render import read_source, with_roots
from operators.turn_taking import prior_of

RATE_HZ, SPEAKERS, EACH, ROUNDS = 16_000, 40, 50, 5


def write_corpus(folder, suffix):
    """Noise in the shape of utterances, 2 to 15 s long."""
    (folder / "audio").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for speaker in range(SPEAKERS):
        for number in range(EACH):
            noise = rng.normal(0, 0.05, int(RATE_HZ * rng.uniform(2, 15)))
            name = f"audio/s{speaker:02d}-{number:02d}.{suffix}"
            soundfile.write(folder / name, noise, RATE_HZ, subtype="PCM_16")
            rows.append({"id": f"s{speaker:02d}-{number:02d}", "speaker": f"s{speaker:02d}", "text": "a", "audio": name,
                         "position": number, "duration": len(noise) / RATE_HZ})  # fmt: skip
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def cpu_s(work):
    """CPU seconds of one call, and what it returns."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def plan_with_lhotse(manifest):
    """Conversations by lhotse's simulator over the same recordings: turns a CPU second."""
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
    from lhotse.workflows.meeting_simulation import ConversationalMeetingSimulator

    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    cuts = []
    for row in rows:
        recording = Recording.from_file(manifest.parent / row["audio"], recording_id=row["id"])
        segment = SupervisionSegment(id=row["id"], recording_id=row["id"], start=0, duration=recording.duration,
                                     speaker=row["speaker"], text="a")  # fmt: skip
        cuts.append(MonoCut(id=row["id"], start=0, duration=recording.duration, channel=0, recording=recording,
                            supervisions=[segment]))  # fmt: skip
    simulator = ConversationalMeetingSimulator()
    taken, meetings = cpu_s(
        lambda: list(simulator.simulate(CutSet.from_cuts(cuts), num_repeats=1, num_speakers_per_meeting=[2, 3, 4]))
    )
    return sum(len(meeting.supervisions) for meeting in meetings) / taken


def mixed_by_lhotse(row, folder, target):
    """A conversation mixed and saved by lhotse."""
    from lhotse import MonoCut, Recording
    from lhotse.cut import MixedCut, MixTrack

    tracks = []
    for turn in row["turns"]:
        recording = Recording.from_file(folder / turn["audio"])
        cut = MonoCut(id=turn["utterance_id"], start=0, duration=recording.duration, channel=0, recording=recording)
        tracks.append(MixTrack(cut=cut, offset=turn["start_sample"] / RATE_HZ))
    MixedCut(id="x", tracks=tracks).save_audio(str(target), encoding="PCM_16")


def mixed_by_us(row, roots, target):
    """The same by our own reader and the timeline's integers, gains of 1 on both sides."""
    mixture = np.zeros(max(t["start_sample"] + t["num_samples"] for t in row["turns"]), np.float32)
    for turn in row["turns"]:
        samples = read_source(turn, roots)
        mixture[turn["start_sample"] : turn["start_sample"] + len(samples)] += samples
    samples = np.rint(np.clip(mixture * 32768, -32768, 32767)).astype("<i2")
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples.data)


def render(conversations, folder, roots, scratch):
    """Ratio of the CPU seconds of lhotse's mixing to ours, and the largest difference in units of the last bit."""
    rows = conversations.to_pylist()[:30]
    ratios, worst = [], 0
    for _ in range(ROUNDS):
        theirs, _ = cpu_s(lambda: [mixed_by_lhotse(r, folder, scratch / f"l{i}.wav") for i, r in enumerate(rows)])
        ours, _ = cpu_s(lambda: [mixed_by_us(r, roots, scratch / f"h{i}.wav") for i, r in enumerate(rows)])
        ratios.append(theirs / ours)
    for i in range(len(rows)):
        one, other = (soundfile.read(scratch / f"{side}{i}.wav", dtype="int16")[0] for side in "lh")
        number = min(len(one), len(other))
        worst = max(worst, int(np.abs(one[:number].astype(int) - other[:number].astype(int)).max()))
    return float(np.median(ratios)), worst


def peak_mb():
    """Peak memory of a process that renders one two-hour meeting of eight speakers."""
    code = """
import json, resource, sys
from pathlib import Path
from operators.cast import Casting, cast_table, plan_casts, split_rows
from operators.converse import Converse
from operators.manifest import Manifest, corpus_roots, index
from operators.render import Render, with_roots
manifest = Manifest.parse(sys.argv[1])
table, _ = index([manifest])
casting = Casting(train_conversations=1, test_conversations=1, min_speakers=8, max_speakers=8, max_utterances=400,
                  test_speakers=0.3)
casts = plan_casts(table, split_rows(table, casting, 0), casting, 0)[:1]
rows = list(casts[0].rows) * 4
casts = [type(casts[0])(casts[0].conversation_id, "train", casts[0].speakers, tuple(sorted(rows)))]
converse = Converse(min_turns=2000, max_turns=2000, max_duration_s=7200.0)
talk = converse(cast_table(table, casts, 0))
audio = Render()(with_roots(talk, corpus_roots([manifest])))
seconds = audio["num_samples"][0].as_py() / 16000
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, seconds]))
"""
    with tempfile.TemporaryDirectory() as name:
        manifest = write_corpus(Path(name), "wav")
        done = subprocess.run([sys.executable, "-c", code, str(manifest)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main():
    """Measure both sides, and print one JSON object."""
    warnings.simplefilter("ignore")
    result = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for suffix in ("wav", "flac"):
            folder = scratch / suffix
            manifest = write_corpus(folder, suffix)
            given = Manifest.parse(str(manifest))
            table, _ = index([given])
            casting = Casting(train_conversations=1000, test_conversations=2, max_utterances=20, test_speakers=0.1)
            splits = split_rows(table, casting, 0)
            converse = Converse(min_turns=40, max_turns=40, max_duration_s=1e5)

            def plan(table=table, splits=splits, casting=casting, converse=converse):
                casts = plan_casts(table, splits, casting, 0)
                return [converse(cast_table(table, casts[i : i + 256], 0)) for i in range(0, len(casts), 256)]

            plan()
            taken = [cpu_s(plan) for _ in range(3)]
            conversations = pa.concat_tables(taken[-1][1])
            short = conversations.slice(0, 30)
            if suffix == "wav":
                turns = sum(len(row) for row in conversations["turns"].to_pylist())
                result["plan_turns_per_cpu_s"] = round(turns / float(np.median([t for t, _ in taken])))
                result["plan_lhotse_turns_per_cpu_s"] = round(plan_with_lhotse(manifest))
                flat = [t for row in conversations["turns"].to_pylist() for t in row]
                offsets = [t["offset_samples"] / RATE_HZ for t in flat if t["transition"].startswith("switch")]
                wanted = np.array(prior_of("meeting").offset_s)
                drawn = np.interp((np.arange(20_000) + 0.5) / 20_000, np.linspace(0, 1, len(wanted)), wanted)
                result["offset_ks_to_prior"] = round(float(ks_2samp(offsets, drawn).statistic), 4)
                lengths = [t["num_samples"] for t in flat]
                pool = table["source_num_samples"].to_pylist()
                result["turn_duration_ks"] = round(float(ks_2samp(lengths, pool).statistic), 4)
                clipped = sum(conversations["num_clipped_offsets"].to_pylist())
                result["clipped_offsets"] = round(clipped / max(1, len(offsets)), 5)
            key = "render_dry_vs_lhotse" if suffix == "wav" else "render_flac_vs_lhotse"
            ratio, worst = render(short, folder, corpus_roots([given]), scratch)
            result[key] = round(ratio, 2)
            result[f"{key}_lsb"] = worst
            assert with_roots(short, corpus_roots([given])).num_rows == 30
    megabytes, seconds = peak_mb()
    result["peak_mb_2h_meeting"] = round(megabytes)
    result["meeting_s"] = round(seconds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
