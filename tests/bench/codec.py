"""Codecs: how fast audio becomes codes, what the operator and its batches cost, and what is left of real speech.

`make bench-codec`. Speed on one thread, arrays in, codes out. The table is of every codec that has weights here, on
speechocean762's test split; the judges (Whisper tiny.en, Resemblyzer, STOI, PESQ) run in an environment of their own.
Prints one JSON object.
"""

import json
import os

os.environ["OMP_NUM_THREADS"] = "1"

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
import torch

from models.codecs import load_codec
from models.codecs.codec import encode_many
from models.codecs.dmel import DMel
from models.codecs.units import features_of, fit_units, save_units
from operators.schema import AUDIO
from operators.tokenize.encode import Encode, batches

RATE_HZ, LENGTH_S, NUMBER, ROUNDS, UTTERANCES = 16_000, 20, 12, 9, 60
SHARED = Path(os.environ.get("HUBBUB_SHARED", Path(__file__).parents[2] / "../shared")).resolve()


def cpu_s(work):
    """CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def as_batch(waves):
    """Mixtures in flight, without turns."""
    empty = dict.fromkeys(AUDIO.names)
    rows = [
        {
            **empty,
            "conversation_id": str(i),
            "num_samples": len(wave),
            "samples": wave,
            "speakers": [],
            "turns": [],
            "stems": [],
        }
        for i, wave in enumerate(waves)
    ]
    return pa.Table.from_pylist(rows, schema=AUDIO)


def speed():
    """The operator against the bare codec in turn: dMel, and a small Mimi of random weights in batches."""
    rng = np.random.default_rng(0)
    waves = [(rng.normal(0, 1000, RATE_HZ * LENGTH_S)).astype(np.int16) for _ in range(NUMBER)]
    floats = [wave.astype(np.float32) / np.float32(32768) for wave in waves]
    batch, codec, encode = as_batch(waves), DMel(), Encode()
    bare, operator = [], []
    for _ in range(ROUNDS):
        bare.append(cpu_s(lambda: [codec.encode(wave) for wave in floats]))
        operator.append(cpu_s(lambda: encode(batch)))
    result = {
        "dmel_x_realtime_per_core": round(LENGTH_S * NUMBER / float(np.median(bare)), 1),
        "encode_vs_bare_dmel": round(float(np.median(operator) / np.median(bare)), 3),
    }
    with tempfile.TemporaryDirectory() as folder:
        from transformers import MimiConfig, MimiModel

        torch.manual_seed(0)
        torch.set_num_threads(1)
        config = MimiConfig(
            hidden_size=64,
            num_filters=8,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=16,
            intermediate_size=128,
            codebook_dim=32,
            codebook_size=256,
            num_quantizers=8,
            vector_quantization_hidden_dimension=32,
            upsample_groups=64,
        )
        MimiModel(config).save_pretrained(folder)
        encode = Encode(codec="mimi", weights=folder, batch_s=40.0)
        waves = [(rng.normal(0, 1000, int(24_000 * s))).astype(np.int16) for s in rng.uniform(4, 12, 24)]
        table, mimi = as_batch(waves), load_codec("mimi", folder)
        sets = batches([len(wave) for wave in waves], 40.0 * 24_000)
        given = [[waves[i].astype(np.float32) / np.float32(32768) for i in one] for one in sets]
        bare, operator = [], []
        for _ in range(5):
            bare.append(cpu_s(lambda: [encode_many(mimi, one) for one in given]))
            operator.append(cpu_s(lambda: encode(table)))
        result["encode_vs_bare_model"] = round(float(np.median(operator) / np.median(bare)), 3)
    return result


def padding_waste(lengths):
    """Share of batches of 200 s that is padding, on the lengths of real utterances."""
    made = batches(lengths, 200 * RATE_HZ)
    padded = sum(len(one) * max(lengths[i] for i in one) for one in made)
    return 1 - sum(lengths) / padded


def entropy_bits(codes, size):
    """Bits a code, and the share of entries in use, averaged over codebooks of codes (K, N)."""
    bits, used = [], []
    for row in codes:
        counts = np.bincount(row, minlength=size) / len(row)
        bits.append(float(-np.sum(counts[counts > 0] * np.log2(counts[counts > 0]))))
        used.append(float((counts > 0).mean()))
    return float(np.mean(bits)), float(np.mean(used))


def si_sdr_db(reference, estimate):
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019, arXiv:1811.02508, equation 3)."""
    scale = np.dot(estimate, reference) / np.dot(reference, reference)
    target = scale * reference
    return 10 * np.log10(np.sum(target**2) / np.sum((estimate - target) ** 2))


def table(folder):
    """A row a codec: what it costs, and what is left of speech."""
    data = SHARED / "data/speechocean762"
    rows = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()]
    train = [row for row in rows if row["split"] == "train"]
    chosen = [row for row in rows if row["split"] == "test"]
    chosen = [chosen[i] for i in np.random.default_rng(0).permutation(len(chosen))[:UTTERANCES]]

    def read(row):
        wav = soundfile.read(data / row["audio"], dtype="float32")[0]
        return wav * np.float32(10 ** (-26 / 20) / np.sqrt(np.mean(wav**2)))

    mel = features_of({"kind": "mel"})
    save_units(folder / "units", fit_units([mel(read(row)) for row in train], 500, 0), {"kind": "mel"})
    codecs = {"dmel": load_codec("dmel"), "units (mel, 500)": load_codec("units", str(folder / "units"))}
    for books in (8, 16, 46):
        codecs[f"lyra, {books} codebooks"] = load_codec("lyra", str(SHARED / "data/lyra_v2"), books)
    wavs = [read(row) for row in chosen]
    texts = [row["text"] for row in chosen]
    jobs = {"original": [str(folder / f"original-{i}.wav") for i in range(len(wavs))]}
    for wav, path in zip(wavs, jobs["original"], strict=True):
        soundfile.write(path, wav, RATE_HZ, subtype="FLOAT")
    result, log_mel = {}, DMel().log_mel
    for name, codec in codecs.items():
        spec, started = codec.spec, time.process_time()
        codes = [codec.encode(wav) for wav in wavs]
        encoded_s = time.process_time() - started
        heard = [codec.decode(one, len(wav)) for one, wav in zip(codes, wavs, strict=True)]
        bits, used = entropy_bits(np.concatenate(codes, axis=1), spec.codebook_size)
        far = [np.abs(log_mel(a) - log_mel(b)).mean() * 10 for a, b in zip(wavs, heard, strict=True)]
        result[name] = {
            "frame_rate_hz": spec.frame_rate_hz,
            "codes_per_s": spec.frame_rate_hz * spec.num_codebooks,
            "kbit_per_s": round(spec.frame_rate_hz * spec.num_codebooks * np.log2(spec.codebook_size) / 1000, 2),
            "entropy_bits_per_code": round(bits, 2),
            "entries_used": round(used, 3),
            "mel_distance_db": round(float(np.mean(far)), 2),
            "si_sdr_db": round(float(np.mean([si_sdr_db(a, b) for a, b in zip(wavs, heard, strict=True)])), 1),
            "x_realtime": round(sum(map(len, wavs)) / RATE_HZ / encoded_s),
        }
        jobs[name] = [str(folder / f"{name}-{i}.wav") for i in range(len(wavs))]
        for wav, path in zip(heard, jobs[name], strict=True):
            soundfile.write(path, wav, RATE_HZ, subtype="FLOAT")
    judges = os.environ.get("JUDGES")
    if judges is None:
        print("no judges (make bench-codec sets them up): no WER, speaker similarity, STOI and PESQ", file=sys.stderr)
        return result
    (folder / "jobs.json").write_text(json.dumps({"texts": texts, "files": jobs}))
    script = Path(__file__).with_name("codec_judges.py")
    done = subprocess.run([judges, script, folder / "jobs.json"], capture_output=True, text=True, check=True)
    for name, found in json.loads(done.stdout.splitlines()[-1]).items():
        result.setdefault(name, {}).update(found)
    return result


def main():
    """Measure, and print one JSON object."""
    result = speed()
    if (SHARED / "data/speechocean762").is_dir():
        manifest = (SHARED / "data/speechocean762/manifest.jsonl").read_text().splitlines()
        result["padding_waste"] = round(padding_waste([int(json.loads(r)["duration"] * RATE_HZ) for r in manifest]), 4)
        with tempfile.TemporaryDirectory() as folder:
            result["codecs"] = table(Path(folder))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
