"""Grammars of answers, token by token, so that greedy decoding can only produce what a task's answers can be.

A grammar is a start state, the tokens allowed in a state, and the state after a token. Which grammar a task's answers
follow is given in the task's file (operators/documents/tasks).
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol, TypeVar, runtime_checkable

import torch

from models.sequence.grammar_table import GrammarTable, arrival_table, timed_table
from models.sequence.tokenizer import ByteTokenizer, FileTokenizer

_State = TypeVar("_State")


class Grammar(Protocol[_State]):
    """Decides which tokens may come next."""

    def start(self) -> _State:
        """Return the state before the first token."""
        ...

    def mask(self, state: _State) -> torch.Tensor:
        """Return a mask (V,) bool of the tokens allowed in a state."""
        ...

    def advance(self, state: _State, token: int) -> _State:
        """Return the state after an allowed token."""
        ...


@runtime_checkable
class TableGrammar(Protocol):
    """A grammar that is also a table, which a device can follow by itself."""

    carried: int
    """Speakers who came in in earlier windows."""

    def table(self) -> GrammarTable:
        """Return the table; answers begin in its phase 0, at time 0, with the carried speakers."""
        ...


@dataclass(frozen=True)
class ArrivalState:
    """State within an answer of speakers' tags and text."""

    num_speakers: int
    """Speakers who have come in, in this window or earlier ones: the tags in use."""
    last: int
    """0 at the start, 1 after a tag, 2 after text."""


class ArrivalGrammar:
    """[s0] text [s1] text ...: speakers are numbered by arrival, and every tag is followed by text.

    Source: Kanda et al. 2020, arXiv:2003.12687 (serialized output); Park et al. 2024, arXiv:2409.06656 (arrival order).
    """

    def __init__(self, tokenizer: ByteTokenizer, carried: int = 0) -> None:
        """Take the tokenizer and the number of speakers who came in in earlier windows."""
        self._tokenizer, self.carried = tokenizer, carried

    def table(self) -> GrammarTable:
        """Return the grammar as a table."""
        return arrival_table(self._tokenizer.vocab_size)

    def start(self) -> ArrivalState:
        """Return the state before the first token."""
        return ArrivalState(self.carried, 0)

    def mask(self, state: ArrivalState) -> torch.Tensor:
        """Return a mask (V,) bool of the tokens allowed in a state."""
        return _arrival_mask(self._tokenizer.vocab_size, state)

    def advance(self, state: ArrivalState, token: int) -> ArrivalState:
        """Return the state after an allowed token."""
        first = self._tokenizer.FIRST_SPEAKER
        if first <= token < self._tokenizer.FIRST_TEXT:
            return ArrivalState(max(state.num_speakers, token - first + 1), 1)
        return replace(state, last=2)


@lru_cache(maxsize=512)
def _arrival_mask(vocab_size: int, state: ArrivalState) -> torch.Tensor:
    allowed = torch.zeros(vocab_size, dtype=torch.bool)
    first, text = ByteTokenizer.FIRST_SPEAKER, ByteTokenizer.FIRST_TEXT
    if state.last != 1:  # no turn is empty
        allowed[first : min(first + state.num_speakers + 1, text)] = True
        allowed[ByteTokenizer.END] = True
    if state.last != 0:  # text belongs to a speaker
        allowed[text:] = True
    return allowed


@dataclass(frozen=True)
class TimedState:
    """State within an answer of times, tags and text."""

    phase: str
    """What comes next: open (a turn, or the end), time (its digits), tag or text."""
    digits: str = ""
    """The time so far, without its bracket."""
    is_end: bool = False
    """Whether that time ends a turn."""
    start_cs: int = 0
    """Start of this turn, or of the one before, in hundredths of a second."""
    num_speakers: int = 0
    """Speakers who have come in, in this window or earlier ones: the tags in use."""
    has_text: bool = False
    """Whether the turn has text already."""


class TimedGrammar:
    """[1.25][s0]text[2.50] ...: turns are ordered by start, and none ends before its start or after the window.

    Source: MOSS Transcribe-Diarize, arXiv:2601.01554 (the form).
    """

    def __init__(self, tokenizer: ByteTokenizer, window_s: float, carried: int = 0) -> None:
        """Take the tokenizer, the latest time in seconds, and the number of speakers who came in in earlier windows.

        Raises:
            TypeError: the tokenizer is not of bytes.
        """
        if isinstance(tokenizer, FileTokenizer):
            raise TypeError("times are constrained digit by digit, which needs the byte tokenizer")
        self.carried = carried
        self._latest_cs = int(window_s * 100 + 0.5)
        self._size = tokenizer.vocab_size

    def table(self) -> GrammarTable:
        """Return the grammar as a table."""
        return timed_table(self._size, self._latest_cs)

    def start(self) -> TimedState:
        """Return the state before the first token."""
        return TimedState("open", num_speakers=self.carried)

    def mask(self, state: TimedState) -> torch.Tensor:
        """Return a mask (V,) bool of the tokens allowed in a state."""
        allowed = torch.zeros(self._size, dtype=torch.bool)
        first, text = ByteTokenizer.FIRST_SPEAKER, ByteTokenizer.FIRST_TEXT
        match state.phase:
            case "open":
                allowed[[text + ord("["), ByteTokenizer.END]] = True
            case "time":
                for character in "0123456789.]":
                    if self._can_become_time(state.digits + character, state.start_cs):
                        allowed[text + ord(character)] = True
            case "tag":
                allowed[first : min(first + state.num_speakers + 1, text)] = True
            case _:
                allowed[text:] = True
                allowed[text + ord("]")] = False
                if not state.has_text:
                    allowed[text + ord("[")] = False
        return allowed

    def _can_become_time(self, text: str, earliest_cs: int) -> bool:
        """Return whether a time that begins with this text can be one from the earliest time to the window's end.

        >>> grammar = TimedGrammar(ByteTokenizer(), 12.0)
        >>> [grammar._can_become_time(text, 250) for text in ("2.49]", "2.50]", "2.4", "2.5", "12.01", "1", "3.", "01")]
        [False, True, False, True, False, True, True, False]
        """
        done = text.endswith("]")
        whole, point, part = text.rstrip("]").partition(".")
        if not whole or not whole.isdigit() or (len(whole) > 1 and whole[0] == "0") or len(part) > 2:
            return False
        if (part and not part.isdigit()) or (done and len(part) != 2):
            return False
        if point:
            low = int(whole) * 100 + int((part + "00")[:2])
            high = int(whole) * 100 + int((part + "99")[:2])
            return high >= earliest_cs and low <= self._latest_cs
        # Digits may still follow: 1 may become 12, but 0 stays 0.
        longest = 1 if whole == "0" else len(str(self._latest_cs // 100))
        return any(
            int(whole) * 10**more * 100 <= self._latest_cs and ((int(whole) + 1) * 10**more) * 100 > earliest_cs
            for more in range(longest - len(whole) + 1)
        )

    def advance(self, state: TimedState, token: int) -> TimedState:
        """Return the state after an allowed token."""
        if token < ByteTokenizer.FIRST_TEXT:
            speaker = token - ByteTokenizer.FIRST_SPEAKER
            return replace(state, phase="text", num_speakers=max(state.num_speakers, speaker + 1), has_text=False)
        character = chr(token - ByteTokenizer.FIRST_TEXT)
        if state.phase == "open":
            return replace(state, phase="time", digits="", is_end=False)
        if state.phase == "time":
            if character != "]":
                return replace(state, digits=state.digits + character)
            if state.is_end:
                return replace(state, phase="open", digits="")
            whole, _, part = state.digits.partition(".")
            return replace(state, phase="tag", digits="", start_cs=int(whole) * 100 + int(part))
        if character == "[" and state.has_text:
            return replace(state, phase="time", digits="", is_end=True)
        return replace(state, has_text=True)
