"""Grammars as tables of integers, so that a device can follow them without asking the host for every token.

Tokens fall into classes (a tag each, the digits, the rest of text ...). The state of an answer is three integers: a
phase, the earliest time that may come, and the number of speakers so far. What a class may do depends on these alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from models.sequence.tokenizer import ByteTokenizer

ALWAYS = 2**40
"""Later than every time: what is allowed whatever the earliest one is."""
_NEVER, END_CLASS = 0, 1
_FIRST_TAG = 2
_MARKS = "[].0123456789"
_FIRST_MARK = _FIRST_TAG + ByteTokenizer.MAX_SPEAKERS
TEXT_CLASS = _FIRST_MARK + len(_MARKS)
NUM_CLASSES = TEXT_CLASS + 1
TAG_CLASSES = tuple(range(_FIRST_TAG, _FIRST_MARK))
WORD_CLASSES = tuple(range(_FIRST_MARK, NUM_CLASSES))


def class_of_mark(character: str) -> int:
    """Return the class of a character that times are written with."""
    return _FIRST_MARK + _MARKS.index(character)


@dataclass(frozen=True)
class GrammarTable:
    """What may come in each phase (P), by class of tokens (C), and what phase follows; answers begin in phase 0."""

    class_of: torch.Tensor
    """(V,) class of each token."""
    tag_of: torch.Tensor
    """(C,) number of the speaker whose tag a class is; -1 for others."""
    after: torch.Tensor
    """(P, C) next phase."""
    reach: torch.Tensor
    """(P, C) latest time, in hundredths of a second, that can still follow; -1 where the class is not allowed."""
    begins: torch.Tensor
    """(P, C) time that is the earliest one from then on; -1 where it stays."""

    def to(self, device: torch.device) -> "GrammarTable":
        """Return the table on a device."""
        return GrammarTable(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def mask(self, states: torch.Tensor) -> torch.Tensor:
        """Return masks (B, V) bool of the tokens allowed in states (B, 3): phase, earliest time, speakers."""
        phase, earliest, speakers = states.unbind(1)
        may = (self.reach[phase] >= earliest[:, None]) & (self.tag_of <= speakers[:, None])
        return may.index_select(1, self.class_of)

    def advance(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the states (B, 3) after allowed tokens (B,)."""
        phase, earliest, speakers = states.unbind(1)
        classes = self.class_of[tokens]
        begins = self.begins[phase, classes]
        earliest = torch.where(begins >= 0, begins, earliest)
        speakers = torch.maximum(speakers, self.tag_of[classes] + 1)
        return torch.stack((self.after[phase, classes], earliest, speakers), dim=1)


def joined_tables(tables: Sequence[GrammarTable]) -> tuple[GrammarTable, list[int]]:
    """Return one table for grammars over the same tokens, and the phase in which answers of each begin."""
    starts, total = [], 0
    for one in tables:
        starts.append(total)
        total += len(one.after)
    first = tables[0]
    return (
        GrammarTable(
            first.class_of,
            first.tag_of,
            torch.cat([one.after + start for one, start in zip(tables, starts, strict=True)]),
            torch.cat([one.reach for one in tables]),
            torch.cat([one.begins for one in tables]),
        ),
        starts,
    )


class _Builder:
    """Rules of a table, one after the other; what no rule allows is not allowed."""

    def __init__(self, vocab_size: int, num_phases: int) -> None:
        self._class_of = torch.full((vocab_size,), _NEVER)
        self._class_of[ByteTokenizer.END] = END_CLASS
        first, text = ByteTokenizer.FIRST_SPEAKER, ByteTokenizer.FIRST_TEXT
        self._class_of[first:text] = torch.tensor(TAG_CLASSES)
        self._class_of[text:] = TEXT_CLASS
        for character in _MARKS:
            self._class_of[text + ord(character)] = class_of_mark(character)
        self._after = [[phase] * NUM_CLASSES for phase in range(num_phases)]
        self._reach = [[-1] * NUM_CLASSES for _ in range(num_phases)]
        self._begins = [[-1] * NUM_CLASSES for _ in range(num_phases)]

    def allow(self, phase: int, classes: Sequence[int], after: int, reach: int = ALWAYS, begins: int = -1) -> None:
        for one in classes:
            self._after[phase][one], self._reach[phase][one], self._begins[phase][one] = after, reach, begins

    def table(self) -> GrammarTable:
        tags = torch.full((NUM_CLASSES,), -1)
        tags[list(TAG_CLASSES)] = torch.arange(len(TAG_CLASSES))
        return GrammarTable(self._class_of, tags, *(torch.tensor(t) for t in (self._after, self._reach, self._begins)))


@lru_cache(maxsize=8)
def arrival_table(vocab_size: int) -> GrammarTable:
    """Return the table of `grammar.ArrivalGrammar`: phase 0 at the start, 1 after a tag, 2 after text."""
    builder = _Builder(vocab_size, 3)
    for phase in (0, 2):
        builder.allow(phase, TAG_CLASSES, 1)
        builder.allow(phase, [END_CLASS], phase)
    for phase in (1, 2):
        builder.allow(phase, WORD_CLASSES, 2)
    return builder.table()


@lru_cache(maxsize=8)
def timed_table(vocab_size: int, latest_cs: int) -> GrammarTable:
    """Return the table of `grammar.TimedGrammar`; a phase for each beginning of a time, once for each end of a turn.

    Args:
        vocab_size: V.
        latest_cs: latest time, in hundredths of a second.
    """
    latest: dict[str, int] = {"": latest_cs}  # by beginning of a time: the latest one that begins so
    for cs in range(latest_cs + 1):
        written = f"{cs // 100}.{cs % 100:02d}"
        for length in range(1, len(written) + 1):
            latest[written[:length]] = cs
    opened, tag, silent, said = range(4)
    phase_of = {
        (prefix, is_end): 4 + 2 * number + is_end for number, prefix in enumerate(latest) for is_end in (False, True)
    }
    opening, closing = class_of_mark("["), class_of_mark("]")
    builder = _Builder(vocab_size, 4 + len(phase_of))
    builder.allow(opened, [opening], phase_of["", False])
    builder.allow(opened, [END_CLASS], opened)
    builder.allow(tag, TAG_CLASSES, silent)
    words = [one for one in WORD_CLASSES if one not in (opening, closing)]
    builder.allow(silent, words, said)
    builder.allow(said, words, said)
    builder.allow(said, [opening], phase_of["", True])
    for (prefix, is_end), phase in phase_of.items():
        for character in ".0123456789":
            if (longer := prefix + character) in latest:
                builder.allow(phase, [class_of_mark(character)], phase_of[longer, is_end], latest[longer])
        if len(prefix.partition(".")[2]) == 2:
            cs = latest[prefix]
            if is_end:
                builder.allow(phase, [closing], opened, cs)
            else:
                builder.allow(phase, [closing], tag, cs, begins=cs)
    return builder.table()
