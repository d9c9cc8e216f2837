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


def write_truth(conversations: pa.Table, kind: str) -> str:
    """Return the turns in the format that `kind` names: rttm, stm or seglst."""
    return {"rttm": rttm, "stm": stm, "seglst": seglst}[kind](conversations)
