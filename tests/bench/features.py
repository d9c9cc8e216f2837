"""Features of a speech encoder: audio a core-hour, batched and cut against one by one and padded; a step on features.

`make bench-features`. Whisper tiny's shape with random weights, in CPU seconds on one thread; the sides of each ratio
run in turn. With `ENCODER=FOLDER` (a real Whisper) and speechocean762 among the shared data also what the shorter
window costs: WER of its own decoder on what either window makes of the same utterances. Prints one JSON object.
"""

import json
import os

os.environ["OMP_NUM_THREADS"] = "1"

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from models.codecs.codec import pack_codes
from models.codecs.pcm import ZERO, Pcm
from models.config.shape import SIZES, Vocabulary
from models.layouts import make_layout
from models.sequence.batch import collate
from models.sequence.documents import GridSpec, PackedDocuments, SegmentFeatures
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.hearing.encoder import Hearing
from models.speech_lm.model import SpeechLM
from operators.schema import STRETCHES, table
from operators.tokenize.features import Features, Hear, stored

RATE_HZ, HOP, STACK = 16_000, 1280, 4
STRETCHES_TIMED, DOCUMENTS, ROUNDS, UTTERANCES = 12, 24, 9, 60
CODEBOOKS, CODEBOOK_SIZE = 8, 2048
"""Mimi's, which has as many columns a second as an encoder's features."""


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def tiny_whisper(folder):
    """Write a model of Whisper tiny's shape; return its folder."""
    import transformers

    config = transformers.WhisperConfig(
        d_model=384,
        encoder_layers=4,
        encoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_layers=1,
        decoder_attention_heads=6,
        decoder_ffn_dim=8,
        vocab_size=60,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    transformers.WhisperModel(config).save_pretrained(folder)
    return str(folder)


def columns_of_stretches(number):
    """Lengths as windows of simulated conversations have them: 2 to 30 s, half of them below 8 s."""
    seconds = np.clip(np.random.default_rng(0).lognormal(2.0, 0.6, number), 2.0, 30.0)
    return [int(s * RATE_HZ / HOP) for s in seconds]


def cpu_s(work):
    started = time.process_time()
    work()
    return time.process_time() - started


def one_by_one(folder):
    """A function of waveforms: each padded to 30 s by transformers' extractor, alone through transformers' encoder."""
    import transformers

    encoder = transformers.WhisperModel.from_pretrained(folder).encoder.eval()
    extract = transformers.WhisperFeatureExtractor()

    @torch.no_grad()
    def run(wavs):
        for wav in wavs:
            mel = extract(wav, sampling_rate=RATE_HZ, return_tensors="pt")["input_features"]
            encoder(mel).last_hidden_state[0, : len(wav) // 320].half().numpy().tobytes()

    return run


def speed(folder):
    """Return times real time of one core: the old way, and the operator by either window."""
    columns, rng = columns_of_stretches(STRETCHES_TIMED), np.random.default_rng(1)
    wavs = [(0.1 * rng.standard_normal(n * HOP)).astype(np.float32) for n in columns]
    row = {"conversation_id": "c", "channel": 0, "start_frame": 0}
    rows = [
        {**row, "num_frames": n, "samples": pack_codes(Pcm().encode(w), 16)} for n, w in zip(columns, wavs, strict=True)
    ]
    batch, old, kept = table(rows, STRETCHES), one_by_one(folder), Features(store="float16")
    ways = {
        "one_by_one_padded": lambda: old(wavs),
        "batched_padded": lambda: Hear(kept, folder, window="full")(batch),
        "batched_cut": lambda: Hear(kept, folder)(batch),
        "alone_cut": lambda: [Hear(kept, folder)(batch.slice(number, 1)) for number in range(len(rows))],
    }
    seconds = sum(columns) * HOP / RATE_HZ
    taken = {name: [] for name in ways}
    for _ in range(3):
        for name, work in ways.items():
            if not taken[name]:
                work()
            taken[name].append(cpu_s(work))
    return {name: seconds / float(np.median(times)) for name, times in taken.items()}


def documents():
    """Per document: columns of audio, and tokens of text."""
    return [(columns, 1 + columns) for columns in columns_of_stretches(DOCUMENTS)]


def pack_of(codes_of):
    """One pack: the same segments, text and targets, whatever its audio is made of."""
    rng = np.random.default_rng(2)
    borders, segments, spans, at = [0], [], [], 0
    for columns, tokens in documents():
        segments += [[0, at, 1], [1, at + 1, columns], [0, at + 1 + columns, tokens]]
        spans.append([0, at + 1 + columns, at + 1 + columns + tokens])
        at += 1 + columns + tokens
        borders.append(at)
    return PackedDocuments(
        pack_id="p",
        num_columns=at,
        cu_seqlens=np.array(borders, np.int32),
        segments=np.array(segments, np.int32),
        text_tokens=rng.integers(1, 256, sum(1 + tokens for _, tokens in documents())).astype(np.int32),
        loss_spans=np.array(spans, np.int32),
        loss_weights=np.ones(len(spans), np.float32),
        **codes_of(rng),
    )


def of_codes(rng):
    total = sum(columns for columns, _ in documents())
    return {"codes": pack_codes(rng.integers(0, CODEBOOK_SIZE, (CODEBOOKS, total)), 16)}


def of_features(kind):
    def make(rng):
        kept = [stored(rng.standard_normal((STACK * n, 384)).astype(np.float32), kind) for n, _ in documents()]
        return {"codes": b"", "features": tuple(SegmentFeatures(*one) for one in kept)}

    return make


def step_of(shape, pack, num_streams, codebook_size, bits):
    """A function that makes a batch of a pack, and does the forward and backward pass."""
    layout = make_layout("parallel", num_streams, codebook_size, 1)
    grid = GridSpec(layout, num_streams, codebook_size, bits)
    size = ByteTokenizer().vocab_size
    vocabulary = Vocabulary(text_size=size, num_streams=num_streams, codebook_size=codebook_size, ordinal=False)
    model = SpeechLM(shape, vocabulary).initialize(0)

    def step():
        model.zero_grad()
        model(collate([pack], grid)).total.backward()

    return step


def steps(folder, size):
    """Return the CPU seconds of a step on features over those of a step on codes with the same columns."""
    hearing = replace(SIZES[size], encoder=folder)
    works = {"codes": step_of(SIZES[size], pack_of(of_codes), CODEBOOKS, CODEBOOK_SIZE, 16)}
    for kind in ("float32", "float16", "int8"):
        works[kind] = step_of(hearing, pack_of(of_features(kind)), HOP, 1 << 16, 16)
    taken = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        for name, work in works.items():
            spent = cpu_s(work)
            if number:
                taken[name].append(spent)
    codes = np.array(taken.pop("codes"))
    return {kind: round(float(np.median(np.array(times) / codes)), 3) for kind, times in taken.items()}


def what_the_window_costs(folder, shared):
    """Return the WER of Whisper's own decoder on the states of either window, and how alike the states are."""
    import soundfile
    import transformers
    from rapidfuzz.distance import Levenshtein
    from transformers.modeling_outputs import BaseModelOutput

    from operators.corpus.normalizers import find_normalizer

    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(Path(folder) / "tokenizer.json"))
    normalize = find_normalizer("whisper-english")[1].normalize
    rows = [json.loads(line) for line in (shared / "manifest.jsonl").read_text().splitlines()]
    chosen = [rows[i] for i in np.random.default_rng(0).choice(len(rows), UTTERANCES, replace=False)]
    content, extract = Hearing(folder), transformers.WhisperFeatureExtractor()
    errors, words, alike = {"full": 0, "content": 0}, 0, []
    for row in chosen:
        codes = Pcm().encode(soundfile.read(shared / row["audio"], dtype="float32")[0])
        wav = (codes.T.reshape(-1).astype(np.float32) - ZERO) / 32768.0
        mel = extract(wav, sampling_rate=RATE_HZ, return_tensors="pt")["input_features"]
        said = normalize(row["text"]).split()
        words += len(said)
        with torch.no_grad():  # the decoder was trained on the states of the silence behind the sound, too
            states = {
                "full": model.model.encoder(mel).last_hidden_state,
                "content": content([torch.from_numpy(wav)])[0][None, :, 0],
            }
        for window, given in states.items():
            ids = model.generate(encoder_outputs=BaseModelOutput(given), max_new_tokens=60, num_beams=1)
            heard = normalize(tokenizer.decode(ids[0], skip_special_tokens=True)).split()
            errors[window] += Levenshtein.distance(heard, said)
        same = torch.nn.functional.cosine_similarity(states["full"][:, : len(wav) // 320], states["content"], dim=-1)
        alike.append(same.mean().item())
    return {
        "wer_full_window": round(errors["full"] / words, 4),
        "wer_content": round(errors["content"] / words, 4),
        "cosine_of_states": round(float(np.mean(alike)), 4),
        "utterances": len(chosen),
    }


def main():
    """Measure, and print one JSON object."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = tiny_whisper(Path(scratch) / "whisper")
        found = speed(folder)
        for name, rate in found.items():
            say(f"{name:20} {rate:8.1f} x real time of one core")
        taken = {size: steps(folder, size) for size in ("tiny", "small")}
        result = {
            "features_x_realtime_per_core": round(found["batched_cut"], 1),
            "cut_over_one_by_one_padded": round(found["batched_cut"] / found["one_by_one_padded"], 2),
            "x_realtime": {name: round(rate, 1) for name, rate in found.items()},
            "features_over_codes_step": taken["small"]["float16"],
            "steps": taken,
        }
    shared = Path(os.environ.get("HUBBUB_SHARED", Path(__file__).parents[2] / "../shared")) / "data/speechocean762"
    if os.environ.get("ENCODER") and shared.is_dir():
        result["window"] = what_the_window_costs(os.environ["ENCODER"], shared)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
