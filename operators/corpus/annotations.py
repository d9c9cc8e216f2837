"""Truth files that other tools read, from conversations: RTTM, STM, SegLST, CTM, serialized text, activity.

Formats: RTTM and STM as NIST's rt09 evaluation plan and sclite have them; SegLST as CHiME-7/8 and meeteval do.
Seconds appear here and nowhere else; six decimals keep a sample at any rate up to 500 kHz.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from operators.corpus.normalizers import normalize
from operators.formats.text import fields_of


def to_frames(start_sample: int, num_samples: int, hop_samples: int) -> tuple[int, int]:
    """Return first frame and number of frames that touch [start, start + num) samples.

    >>> to_frames(500, 400, hop_samples=400)
    (1, 2)
    """
    first = start_sample // hop_samples
    return first, math.ceil((start_sample + num_samples) / hop_samples) - first


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


def names_in_fields(conversations: pa.Table) -> tuple[dict[str, str], dict[str, str]]:
    """Return what conversations and speakers are called in files with white space between fields: RTTM, STM, CTM."""
    speakers = (speaker for listed in conversations["speakers"].to_pylist() for speaker in listed)
    return fields_of(conversations["conversation_id"].to_pylist()), fields_of(speakers)


def rttm(conversations: pa.Table) -> str:
    """Return the turns as an RTTM file; white space in names becomes `_`."""
    sessions, speakers = names_in_fields(conversations)
    return "".join(
        f"SPEAKER {sessions[row['conversation_id']]} 1 {turn['start_sample'] / row['sample_rate_hz']:.6f} "
        f"{turn['num_samples'] / row['sample_rate_hz']:.6f} <NA> <NA> {speakers[turn['speaker']]} <NA> <NA>\n"
        for row in conversations.select(["conversation_id", "sample_rate_hz", "turns"]).to_pylist()
        for turn in row["turns"]
    )


def stm(conversations: pa.Table) -> str:
    """Return the turns as an STM file; white space in names becomes `_`."""
    sessions, speakers = names_in_fields(conversations)
    return "".join(
        f"{sessions[s['session_id']]} 1 {speakers[s['speaker']]} {s['start_time']:.6f} {s['end_time']:.6f} "
        f"{'<NA> ' if s['words'].startswith('<') else ''}{s['words']}\n"
        for s in segments(conversations)
    )


def ctm(conversations: pa.Table) -> str:
    """Return the words that have times as a CTM file, one channel a speaker, by arrival; white space becomes `_`."""
    lines = []
    sessions, _ = names_in_fields(conversations)
    for row in conversations.select(["conversation_id", "sample_rate_hz", "speakers", "turns"]).to_pylist():
        channel = {speaker: number for number, speaker in enumerate(row["speakers"], 1)}
        words = [(word, channel[turn["speaker"]]) for turn in row["turns"] for word in turn["words"]]
        for word, number in sorted(words, key=lambda pair: (pair[1], pair[0]["start_sample"])):
            start_s, length_s = (word[name] / row["sample_rate_hz"] for name in ("start_sample", "num_samples"))
            text = "_".join(word["word"].split()) or "_"
            lines.append(f"{sessions[row['conversation_id']]} {number} {start_s:.6f} {length_s:.6f} {text}\n")
    return "".join(lines)


def virtual_channels(spans: Sequence[tuple[int, int]]) -> list[int]:
    """Assign each turn's [start, end), by start, the first channel that is free: as many as speak at once at most.

    >>> virtual_channels([(0, 10), (5, 15), (12, 22)])
    [0, 1, 0]
    """
    ends: list[int] = []
    found = []
    for start, end in spans:
        channel = next((c for c, busy in enumerate(ends) if busy <= start), len(ends))
        ends[channel : channel + 1] = [end]
        found.append(channel)
    return found


def token_sot(turns: Sequence[Mapping[str, Any]]) -> str | None:
    """Return all words by the time they end, `<cc>` where the virtual channel changes; None where times are missing.

    Source: Kanda et al. 2022, "Streaming multi-talker ASR with token-level serialized output training",
    arXiv:2202.00842, section 3.1. Ties go by start, then by turn.
    """
    if not turns or any(not turn["words"] for turn in turns):
        return None
    channels = virtual_channels([(t["start_sample"], t["start_sample"] + t["num_samples"]) for t in turns])
    spoken = [
        (word["start_sample"] + word["num_samples"], word["start_sample"], number, channel, normalize(word["word"]))
        for number, (turn, channel) in enumerate(zip(turns, channels, strict=True))
        for word in turn["words"]
    ]
    tokens: list[str] = []
    last = None
    for _, _, _, channel, word in sorted(spoken):
        if last is not None and channel != last:
            tokens.append("<cc>")
        if word:
            tokens.append(word)
        last = channel
    return " ".join(tokens)


def sot(conversations: pa.Table) -> str:
    """Return one JSON line a conversation: its turns serialized in four ways.

    fifo: utterances by start, `<sc>` between (Kanda et al. 2020, arXiv:2003.12687). arrival: a tag of the speaker's
    place by arrival before each change (Park et al. 2024, arXiv:2409.06656). timed: `[start][S1]text[end]`. token:
    words by end time (`token_sot`), null where words have no times.
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
            "token": token_sot(turns),
        }
        lines.append(json.dumps(ways, ensure_ascii=False) + "\n")
    return "".join(lines)


def activity_mask(turns: Sequence[Mapping[str, Any]], speakers: Sequence[str], num_frames: int) -> NDArray[np.bool_]:
    """Return who speaks in which frame (S, T), of turns in frames.

    >>> turns = [{"speaker": who, "start_frame": at, "num_frames": 2} for who, at in (("a", 1), ("b", 2))]
    >>> activity_mask(turns, ["a", "b"], 4).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 1, 1]]
    """
    place = {speaker: number for number, speaker in enumerate(speakers)}
    mask = np.zeros((len(speakers), num_frames), bool)
    for turn in turns:
        mask[place[turn["speaker"]], turn["start_frame"] : turn["start_frame"] + turn["num_frames"]] = True
    return mask


def activity(conversations: pa.Table, hop_samples: int) -> str:
    """Return a JSON line for each conversation: who speaks in which codec frames, and how turns relate to the floor.

    Stretches are half-open, in frames of `hop_samples` on the conversation's timeline; a frame counts that a turn
    touches, as in the codes data set.
    """
    lines = []
    for row in conversations.select(["conversation_id", "sample_rate_hz", "num_samples", "turns"]).to_pylist():
        active: dict[str, list[list[int]]] = {}
        for turn in row["turns"]:
            start, number = to_frames(turn["start_sample"], turn["num_samples"], hop_samples)
            own = active.setdefault(turn["speaker"], [])
            if own and start <= own[-1][1]:
                own[-1][1] = max(own[-1][1], start + number)
            else:
                own.append([start, start + number])
        lines.append(
            json.dumps(
                {
                    "conversation_id": row["conversation_id"],
                    "frame_rate_hz": row["sample_rate_hz"] / hop_samples,
                    "num_frames": -(-row["num_samples"] // hop_samples),
                    "activity": active,
                    "transitions": [
                        {
                            "speaker": t["speaker"],
                            "kind": t["transition"],
                            "offset_s": round(t["offset_samples"] / row["sample_rate_hz"], 6),
                        }
                        for t in row["turns"]
                    ],
                },
                ensure_ascii=False,
            )
            + "\n"
        )
    return "".join(lines)


@dataclass(frozen=True)
class TruthFormat:
    """A format of truth files."""

    suffix: str
    """Suffix of the file."""
    write: Callable[[pa.Table, int], str]
    """Returns the text of conversations, given the samples of a codec frame."""
    about: str
    """What it holds, in a few words, for the documentation."""


TRUTH_FORMATS: dict[str, TruthFormat] = {
    "rttm": TruthFormat("rttm", lambda table, _: rttm(table), "segments of speakers"),
    "stm": TruthFormat("stm", lambda table, _: stm(table), "segments of speakers with text"),
    "seglst": TruthFormat("seglst.json", lambda table, _: seglst(table), "segments of speakers with text, as JSON"),
    "ctm": TruthFormat("ctm", lambda table, _: ctm(table), "words with times"),
    "sot": TruthFormat("sot.jsonl", lambda table, _: sot(table), "serialized output"),
    "activity": TruthFormat("activity.jsonl", activity, "who speaks in which codec frames"),
}
"""Truth formats by the name that `--truth` takes."""


def write_truth(conversations: pa.Table, kind: str, hop_samples: int) -> str:
    """Return the turns of conversations in one of `TRUTH_FORMATS`; `hop_samples` are the samples of a codec frame."""
    return TRUTH_FORMATS[kind].write(conversations, hop_samples)
