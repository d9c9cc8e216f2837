"""Simulation: planning against lhotse's meeting simulator, rendering against lhotse's load, mix and save; memory.

`make bench-simulate`. Both sides read the same recordings and write the same format; the mixtures are compared
sample by sample. Prints one JSON object.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
import warnings
import wave
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.signal
import soundfile
from scipy.stats import ks_2samp, kstest

from operators.corpus.cast import Casting, cast_table, plan_casts
from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest, corpus_roots
from operators.corpus.sources import read_source, with_roots
from operators.corpus.splits import split_rows
from operators.simulate.converse import Converse
from operators.simulate.priors import prior_of
from operators.simulate.render import Render
from operators.simulate.rooms import Place, responses
from operators.simulate.signals.convolution import PlacedSignal, convolve
from operators.simulate.signals.level_kernels import to_pcm16 as pcm16

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
            rows.append(
                {
                    "id": f"s{speaker:02d}-{number:02d}",
                    "speaker": f"s{speaker:02d}",
                    "text": "a",
                    "audio": name,
                    "position": number,
                    "duration": len(noise) / RATE_HZ,
                }
            )
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def cpu_s(work):
    """CPU seconds of one call, and what it returns."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def plan_long(converse, table, casts):
    """Conversations of casts that are given."""
    return converse(cast_table(table, casts, 0))


def offset_ks(table, splits, casting, converse, seeds=8):
    """KS of floor-transfer offsets to the prior's own distribution, over eight thousand conversations.

    Fewer would measure chance: conversations differ, so that a thousand of them are .008 off by themselves.
    """
    offsets = []
    for seed in range(seeds):
        casts = plan_casts(table, splits, casting, seed)
        for start in range(0, len(casts), 256):
            made = converse(cast_table(table, casts[start : start + 256], seed))
            flat = pc.list_flatten(made["turns"]).combine_chunks()
            switch = pc.starts_with(flat.field("transition"), "switch")
            offsets.append(flat.field("offset_samples").filter(switch).to_numpy() / RATE_HZ)
    wanted = np.array(prior_of(converse.prior).offset_s)
    levels = np.linspace(0, 1, len(wanted))
    return float(kstest(np.concatenate(offsets), lambda x: np.interp(x, wanted, levels)).statistic)


def plan_with_lhotse(manifest):
    """Conversations by lhotse's simulator over the same recordings: turns a CPU second."""
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
    from lhotse.workflows.meeting_simulation import ConversationalMeetingSimulator

    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    cuts = []
    for row in rows:
        recording = Recording.from_file(manifest.parent / row["audio"], recording_id=row["id"])
        segment = SupervisionSegment(
            id=row["id"], recording_id=row["id"], start=0, duration=recording.duration, speaker=row["speaker"], text="a"
        )
        cuts.append(
            MonoCut(
                id=row["id"],
                start=0,
                duration=recording.duration,
                channel=0,
                recording=recording,
                supervisions=[segment],
            )
        )
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
    samples = pcm16(mixture, np.float32(32768))
    write_wav(target, samples)


def write_wav(target, samples):
    """Write 16-bit samples."""
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


def render_in_rooms(conversations, roots, scratch):
    """Ratio of CPU seconds: a plain mixer that convolves each utterance, to ours; and the largest difference to peak.

    Both read and write 16-bit WAV and use the same responses (T60 of half a second), whole.
    """
    place = Place(room="simulated", noise="none", min_t60_s=0.5, max_t60_s=0.5)
    rows = place(conversations).to_pylist()[:20]
    found = [responses(row["room"], row["speakers"], RATE_HZ, 1, None) for row in rows]

    def plain(row, rirs, target):
        place_of = {speaker: number for number, speaker in enumerate(row["speakers"])}
        mixture = np.zeros(row["num_samples"] + rirs.shape[2], np.float32)
        for turn in row["turns"]:
            samples = soundfile.read(roots[turn["corpus"]] / turn["audio"], dtype="float32")[0]
            wet = scipy.signal.oaconvolve(samples, rirs[place_of[turn["speaker"]], 0])
            mixture[turn["start_sample"] : turn["start_sample"] + len(wet)] += wet
        soundfile.write(target, mixture[: row["num_samples"]], RATE_HZ, subtype="PCM_16")
        return mixture[: row["num_samples"]]

    def ours(row, rirs, target):
        place_of = {speaker: number for number, speaker in enumerate(row["speakers"])}
        pieces = (PlacedSignal(place_of[t["speaker"]], t["start_sample"], read_source(t, roots)) for t in row["turns"])
        mixture = convolve(pieces, rirs, row["num_samples"])[0, 0]
        write_wav(target, pcm16(mixture, np.float32(32768)))
        return mixture

    ratios, worst = [], 0.0
    for _ in range(ROUNDS):
        theirs, one = cpu_s(lambda: [plain(r, h, scratch / "p.wav") for r, h in zip(rows, found, strict=True)])
        mine, other = cpu_s(lambda: [ours(r, h, scratch / "o.wav") for r, h in zip(rows, found, strict=True)])
        ratios.append(theirs / mine)
    for a, b in zip(one, other, strict=True):
        worst = max(worst, float(np.abs(a - b).max() / np.abs(a).max()))
    return float(np.median(ratios)), worst


def _rendered(table):
    started = time.perf_counter()
    Render()(table)
    return time.perf_counter() - started


def efficiency_2_workers(conversations, roots):
    """Throughput of two processes over twice that of one: rendering in rooms, work sent and results left there."""
    tables = [with_roots(Place(room="simulated")(conversations.slice(i, 5)), roots) for i in range(0, 60, 5)]
    tables = [pa.table(table.to_pydict(), schema=table.schema) for table in tables]  # each with its own buffers
    found = []
    for _ in range(3):
        taken = {}
        for workers in (1, 2):
            with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
                list(pool.map(_rendered, [tables[0].slice(0, 1)] * workers * 2))  # imports and compiled loops
                started = time.perf_counter()
                list(pool.map(_rendered, tables))
                taken[workers] = time.perf_counter() - started
        found.append(taken[1] / taken[2] / 2)
    return float(np.median(found))


def peak_mb():
    """Peak memory of a process that renders one two-hour meeting of eight speakers."""
    code = """
import json, sys
from pathlib import Path
from operators.corpus.cast import Casting, cast_table, plan_casts
from operators.corpus.splits import split_rows
from operators.simulate.converse import Converse
from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest, corpus_roots
from operators.corpus.sources import with_roots
from operators.simulate.render import Render
manifest = Manifest.parse(sys.argv[1])
table, _ = index_utterances([manifest])
casting = Casting(train_conversations=1, test_conversations=1, min_speakers=8, max_speakers=8, max_utterances=400,
                  test_speakers=0.3)
casts = plan_casts(table, split_rows(table, casting, 0), casting, 0)[:1]
rows = list(casts[0].rows) * 4
casts = [type(casts[0])(casts[0].conversation_id, "train", casts[0].speakers, tuple(sorted(rows)))]
converse = Converse(min_turns=2000, max_turns=2000, max_duration_s=7200.0)
talk = converse(cast_table(table, casts, 0))
audio = Render()(with_roots(talk, corpus_roots([manifest])))
seconds = audio["num_samples"][0].as_py() / 16000
# Not ru_maxrss: Linux carries the parent's over.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([peak / 1024, seconds]))
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
            table, _ = index_utterances([given])
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
                long = Converse(min_turns=400, max_turns=400, max_duration_s=1e5)
                few = Casting(train_conversations=200, test_conversations=2, max_utterances=200, test_speakers=0.1)
                some = plan_casts(table, splits, few, 0)[:200]
                some = [type(c)(c.conversation_id, c.split, c.speakers, c.rows * 4) for c in some]
                busy, meetings = cpu_s(partial(plan_long, long, table, some))
                number = sum(len(row) for row in meetings["turns"].to_pylist())
                result["plan_turns_per_cpu_s_long"] = round(number / busy)  # casting left out: rows said again
                result["plan_lhotse_turns_per_cpu_s"] = round(plan_with_lhotse(manifest))
                flat = [t for row in conversations["turns"].to_pylist() for t in row]
                result["offset_ks_to_prior"] = round(offset_ks(table, splits, casting, converse), 4)
                offsets = [t["offset_samples"] / RATE_HZ for t in flat if t["transition"].startswith("switch")]
                lengths = [t["num_samples"] for t in flat]
                pool = table["source_num_samples"].to_pylist()
                result["turn_duration_ks"] = round(float(ks_2samp(lengths, pool).statistic), 4)
                clipped = sum(conversations["num_clipped_offsets"].to_pylist())
                result["clipped_offsets"] = round(clipped / max(1, len(offsets)), 5)
            key = "render_dry_vs_lhotse" if suffix == "wav" else "render_flac_vs_lhotse"
            ratio, worst = render(short, folder, corpus_roots([given]), scratch)
            result[key] = round(ratio, 2)
            result[f"{key}_lsb"] = worst
            if suffix == "wav":
                ratio, worst = render_in_rooms(short, corpus_roots([given]), scratch)
                result["render_rir_vs_numpy"] = round(ratio, 2)
                result["render_rir_error_of_peak"] = worst
                result["efficiency_2_workers"] = round(
                    efficiency_2_workers(conversations.slice(0, 60), corpus_roots([given])), 3
                )
            assert with_roots(short, corpus_roots([given])).num_rows == 30
    megabytes, seconds = peak_mb()
    result["peak_mb_2h_meeting"] = round(megabytes)
    result["meeting_s"] = round(seconds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
