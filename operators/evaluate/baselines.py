"""Baselines that need no recognizer: what the reference itself scores when a part of it is taken away."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from operators.evaluate.options import BaselineName

Entries = Sequence[Mapping[str, Any]]
Write = Callable[[str], str]
"""The text that is left of a turn's words."""

MEASURES: Mapping[BaselineName, tuple[str, ...]] = {
    "no-speakers": ("cpwer", "wer", "cer", "orcwer", "dicpwer", "speaker_count_accuracy", "speaker_count_error"),
    "tokenizer": ("cpwer", "wer", "cer", "orcwer", "dicpwer"),
}
"""Measures of each baseline; the speakers of `tokenizer` are the reference's own, so their number says nothing."""

assert set(MEASURES) == set(get_args(BaselineName))


def baseline(name: BaselineName, reference: Entries, write: Write) -> list[dict[str, Any]]:
    """Return what a baseline answers, as SegLST entries without times in order of start.

    Args:
        name: no-speakers, the reference's words by one speaker for all; tokenizer, the reference's words as the
            tokenizer gives them back.
        reference: SegLST entries with times.
        write: encodes and decodes a turn's words.
    """
    found = []
    for entry in sorted(reference, key=lambda one: (one["session_id"], one["start_time"])):
        kept = {key: value for key, value in entry.items() if key not in ("start_time", "end_time")}
        changed = {"speaker": "all"} if name == "no-speakers" else {"words": write(entry["words"])}
        found.append({**kept, **changed})
    return found


def round_trip(encode: Callable[[str], list[int]], decode: Callable[[list[int]], str], text: str) -> str:
    """Return text after encoding and decoding; nothing where it cannot be encoded, as no model can write it.

    >>> round_trip(lambda text: [ord(letter) for letter in text], lambda ids: "".join(map(chr, ids)), "so it is")
    'so it is'
    """
    try:
        ids = encode(text)
    except ValueError:
        return ""
    return decode(ids)
