"""Truth files that other tools read: RTTM, STM and SegLST, from conversations.

Formats: RTTM and STM as NIST's rt09 evaluation plan and sclite have them; SegLST as CHiME-7/8 and meeteval do.
Seconds appear here and nowhere else; six decimals keep a sample at any rate up to 500 kHz.
"""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa


def segments(conversations: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield one SegLST entry a turn: session_id, speaker, start_time and end_time in seconds, words."""
    columns = conversations.select(["conversation_id", "sample_rate_hz", "turns"])
    for row in columns.to_pylist():
        rate_hz = row["sample_rate_hz"]
        for turn in row["turns"]:
            yield {
                "session_id": row["conversation_id"],
                "speaker": turn["speaker"],
                "start_time": round(turn["start_sample"] / rate_hz, 6),
                "end_time": round((turn["start_sample"] + turn["num_samples"]) / rate_hz, 6),
                "words": turn["text_normalized"],
            }


def seglst(conversations: pa.Table) -> str:
    """Return the turns as a SegLST file."""
    return json.dumps(list(segments(conversations)), indent=1, ensure_ascii=False) + "\n"


def rttm(conversations: pa.Table) -> str:
    """Return the turns as an RTTM file."""
    return "".join(
        f"SPEAKER {row['conversation_id']} 1 {turn['start_sample'] / row['sample_rate_hz']:.6f} "
        f"{turn['num_samples'] / row['sample_rate_hz']:.6f} <NA> <NA> {turn['speaker']} <NA> <NA>\n"
        for row in conversations.select(["conversation_id", "sample_rate_hz", "turns"]).to_pylist()
        for turn in row["turns"]
    )


def stm(conversations: pa.Table) -> str:
    """Return the turns as an STM file."""
    return "".join(
        f"{s['session_id']} 1 {s['speaker']} {s['start_time']:.6f} {s['end_time']:.6f} {s['words']}\n"
        for s in segments(conversations)
    )


def ctm(conversations: pa.Table) -> str:
    """Return the words that have times as a CTM file, one channel a speaker, by arrival."""
    lines = []
    for row in conversations.select(["conversation_id", "sample_rate_hz", "speakers", "turns"]).to_pylist():
        channel = {speaker: number for number, speaker in enumerate(row["speakers"], 1)}
        words = [(word, channel[turn["speaker"]]) for turn in row["turns"] for word in turn["words"]]
        for word, number in sorted(words, key=lambda pair: (pair[1], pair[0]["start_sample"])):
            start_s, length_s = (word[name] / row["sample_rate_hz"] for name in ("start_sample", "num_samples"))
            lines.append(f"{row['conversation_id']} {number} {start_s:.6f} {length_s:.6f} {word['word']}\n")
    return "".join(lines)


def sot(conversations: pa.Table) -> str:
    """Return one JSON line a conversation: its turns serialized in three ways.

    fifo: utterances by start, `<sc>` between (Kanda et al. 2020, arXiv:2003.12687). arrival: a tag of the speaker's
    place by arrival before each change (Park et al. 2024, arXiv:2409.06656). timed: `[start][S1]text[end]`.
    """
    lines = []
    for row in conversations.select(["conversation_id", "sample_rate_hz", "speakers", "turns"]).to_pylist():
        place = {speaker: number for number, speaker in enumerate(row["speakers"])}
        hz, turns = row["sample_rate_hz"], row["turns"]
        timed = (
            f"[{t['start_sample'] / hz:.2f}][S{place[t['speaker']] + 1}]{t['text_normalized']}"
            f"[{(t['start_sample'] + t['num_samples']) / hz:.2f}]"
            for t in turns
        )
        ways = {
            "conversation_id": row["conversation_id"],
            "fifo": " <sc> ".join(t["text_normalized"] for t in turns),
            "arrival": " ".join(f"[s{place[t['speaker']]}] {t['text_normalized']}" for t in turns),
            "timed": "".join(timed),
        }
        lines.append(json.dumps(ways, ensure_ascii=False) + "\n")
    return "".join(lines)


def write_truth(conversations: pa.Table, kind: str) -> str:
    """Return the turns in the format that `kind` names: rttm, stm, seglst, ctm or sot."""
    return {"rttm": rttm, "stm": stm, "seglst": seglst, "ctm": ctm, "sot": sot}[kind](conversations)
