"""Conversations as rows of CODES, for the tests of documents."""

import json
from dataclasses import asdict

import numpy as np

from models.codecs.codec import CodecSpec, pack_codes
from operators.schema import CODES, table

CODEC = CodecSpec(
    name="toy",
    sample_rate_hz=16_000,
    hop_samples=400,
    num_codebooks=4,
    codebook_size=16,
    bits=4,
    ordinal=False,
    causal=True,
    licence="none",
    weights_digest="0",
)


def words_of(start, num_frames, text):
    """Words of a turn that share its frames evenly, each followed by a frame of silence."""
    words = text.split()
    each = num_frames // max(1, len(words))
    return [
        {"word": word, "start_frame": start + i * each, "num_frames": max(1, each - 1)} for i, word in enumerate(words)
    ]


def row_of(turns, num_frames, name="c0", seed=0, *, stems=False, words=False, enrolments=False):
    """A conversation of (start frame, frames, speaker, text), with random codes."""
    rng = np.random.default_rng(seed)
    speakers = list(dict.fromkeys(turn[2] for turn in turns))

    def codes():
        return pack_codes(rng.integers(0, CODEC.codebook_size, (CODEC.num_codebooks, num_frames)), CODEC.bits)

    return {
        "conversation_id": name,
        "origin": "simulated",
        "split": "train",
        "num_samples": num_frames * CODEC.hop_samples,
        "num_frames": num_frames,
        "codes": codes(),
        "speakers": speakers,
        "turns": [
            {
                "utterance_id": f"u{i}",
                "speaker": speaker,
                "start_frame": start,
                "num_frames": length,
                "text": f"{text.title()}!",
                "text_normalized": text,
                "language": "en",
                "gender": {"ann": "f", "bob": "m"}.get(speaker),
                "words": words_of(start, length, text) if words else [],
            }
            for i, (start, length, speaker, text) in enumerate(turns)
        ],
        "stems": [{"speaker": s, "kind": "anechoic", "codes": codes()} for s in speakers] if stems else [],
        "enrolments": [{"speaker": s, "utterance_id": f"{s}-9", "codes": codes()} for s in speakers]
        if enrolments
        else [],
    }


def codes_table(*rows):
    """Rows as a table of CODES, with the codec in its metadata."""
    return table(rows, CODES).replace_schema_metadata({"hubbub.codec": json.dumps(asdict(CODEC))})
