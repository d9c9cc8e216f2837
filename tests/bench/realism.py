"""Realism: conversations simulated with a prior fitted to AMI's train meetings, against AMI's train and dev meetings.

`make bench-realism`. What is said are utterances with word times whose segments have the lengths of real ones.
"""

import itertools
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from operators.corpus.cast import Cast, cast_table
from operators.corpus.segments import read_rttm
from operators.schema import UTTERANCES
from operators.simulate.converse import Converse
from operators.simulate.priors import prior_of
from operators.simulate.priors.fit import fit
from operators.simulate.priors.prior import Prior
from operators.simulate.realism import analyze_conversations, figures, scorecard
from operators.simulate.turn_taking import analyze_turns, transition_matrix

SHARED = Path(os.environ.get("HUBBUB_SHARED", Path(__file__).parents[2] / "../shared")).resolve()
RATE_HZ = 16_000


def utterances(speaker, number, lengths_s, seed):
    """Made-up utterances of one speaker: words of about a third of a second, back to back."""
    rng = np.random.default_rng([seed, speaker])
    rows = []
    for index, length_s in enumerate(rng.choice(lengths_s, number)):
        samples = max(800, int(length_s * RATE_HZ))
        count = max(1, round(length_s / 0.33))
        borders = np.sort(rng.integers(1, samples, count - 1)) if count > 1 else np.zeros(0, int)
        borders = np.concatenate([[0], borders, [samples]])
        words = [
            {"word": "w", "start_sample": int(a), "num_samples": int(b - a)}
            for a, b in itertools.pairwise(borders)
            if b > a
        ]
        rows.append(
            {
                "utterance_id": f"s{speaker}-{index}",
                "corpus": "c",
                "audio": "a",
                "byte_offset": 0,
                "byte_length": 0,
                "channel": 0,
                "source_rate_hz": RATE_HZ,
                "source_start_sample": 0,
                "source_num_samples": samples,
                "fingerprint": "",
                "speaker": f"s{speaker}",
                "text": "w",
                "text_normalized": "w",
                "position": index,
                "words": words,
                "user_columns": "{}",
            }
        )
    return rows


def simulate(prior, lengths_s, conversations, speakers, turns, seed=0, **options):
    """Conversations of so many floor segments."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prior.json"
        path.write_text(prior.to_json())
        converse = Converse(
            prior=str(path), min_turns=turns, max_turns=turns, max_duration_s=1e6, min_own_pause_s=0.2, **options
        )
        made = []
        for number in range(conversations):
            own = lengths_s[number % len(lengths_s)]  # of one recording: how long people talk differs between them
            rows = [r for s in range(speakers) for r in utterances(s, turns, own, 1000 * seed + number)]
            table = pa.Table.from_pylist(rows, schema=UTTERANCES)
            cast = Cast(f"c{number}", "train", tuple(f"s{s}" for s in range(speakers)), tuple(range(len(rows))))
            made.append(converse(cast_table(table, [cast], seed)))
    return pa.concat_tables(made)


def main():
    """Fit, simulate, compare, and print one JSON object."""
    corpus = {}
    for split in ("train", "dev"):
        recordings = read_rttm([SHARED / f"data/ami_rttm/{split}.rttm"])
        corpus[split] = [analyze_turns(name, segments) for name, segments in sorted(recordings.items())]
    prior: Prior = fit("ami-train", "AMI train", corpus["train"])
    lengths = [talk.floors_s for talk in corpus["train"]]
    simulated = analyze_conversations(simulate(prior, lengths, 2 * len(lengths), 4, 260, backchannels=True))
    result = {}
    cards = {split: scorecard(simulated, talks, draws=20) for split, talks in corpus.items()}
    baseline = scorecard(corpus["train"], corpus["dev"], draws=2)
    for split, card in cards.items():
        for measure in ("offset", "pause", "overlap", "backchannel", "segment", "turn"):
            result[f"ks_{measure}_{split}"] = round(card["distances"][measure]["ks"], 4)
    for measure in ("offset", "pause", "overlap", "backchannel"):
        result[f"ks_{measure}_train_against_dev"] = round(baseline["distances"][measure]["ks"], 4)
    ours, real = cards["train"]["simulated"], cards["train"]["real"]
    for name in ("overlap_share", "silence_share", "three_speaker_share"):
        result[f"{name}_error"] = round(ours[name] - real[name], 4)
        result[name] = round(real[name], 4)
    for name in ("overlap_share_sd", "silence_share_sd"):
        result[name] = [round(ours[name], 4), round(real[name], 4)]
    result["conversation_icc_error"] = round(ours["conversation_icc"] - real["conversation_icc"], 4)
    result["speaker_icc"] = [round(ours["speaker_icc"], 4), round(real["speaker_icc"], 4)]
    result["autocorrelation"] = [np.round(x["offset_autocorrelation"], 3).tolist() for x in (ours, real)]
    result["turn_entropy_bits"] = [round(x["turn_entropy_bits"], 3) for x in (ours, real)]
    result["transition_tv"] = round(cards["train"]["transition_tv"], 4)
    result["transition_matrices"] = [
        m.round(2).tolist() for m in (transition_matrix(simulated), transition_matrix(corpus["train"]))
    ]
    telephone = prior_of("telephone")
    calls = analyze_conversations(
        simulate(telephone, [np.array(telephone.segment_s)], 400, 2, 120, seed=1, backchannels=True)
    )
    correlation = figures(calls).partner_correlation
    result["partner_correlation"] = round(correlation, 4)
    result["partner_correlation_error"] = round(correlation - 0.605, 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
