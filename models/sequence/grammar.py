"""What an answer may look like: token by token, so that greedy decoding writes nothing that a task could not mean.

A grammar is a start state, the tokens that may follow a state, and the state that follows a token.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol, TypeVar

import torch

from models.sequence.tokenizer import ByteTokenizer, FileTokenizer

_State = TypeVar("_State")


class Grammar(Protocol[_State]):
    """Says which tokens may come next."""

    def start(self) -> _State:
        """Return the state before the first token."""
        ...

    def mask(self, state: _State) -> torch.Tensor:
        """Return which tokens (V,) may follow."""
        ...

    def advance(self, state: _State, token: int) -> _State:
        """Return the state behind a token that may follow."""
        ...


@dataclass(frozen=True)
class Turns:
    """Where an answer of speakers' tags and words stands."""

    num_speakers: int
    """Tags that may be known already: those before, and those that were carried over."""
    last: int
    """0 at the start, 1 behind a tag, 2 behind text."""


class ArrivalGrammar:
    """[s0] words [s1] words ...: speakers are numbered as they come in, and every tag has words behind it.

    Source: Kanda et al. 2020, arXiv:2003.12687 (serialized output); Park et al. 2024, arXiv:2409.06656 (arrival order).
    """

    def __init__(self, tokenizer: ByteTokenizer, carried: int = 0) -> None:
        """Take the tokenizer, and how many speakers came in in windows before."""
        self._tokenizer, self._carried = tokenizer, carried

    def start(self) -> Turns:
        """Return the state before the first token."""
        return Turns(self._carried, 0)

    def mask(self, state: Turns) -> torch.Tensor:
        """Return which tokens (V,) may follow."""
        return _turns_mask(self._tokenizer.vocab_size, state)

    def advance(self, state: Turns, token: int) -> Turns:
        """Return the state behind a token."""
        first = self._tokenizer.FIRST_SPEAKER
        if first <= token < self._tokenizer.FIRST_TEXT:
            return Turns(max(state.num_speakers, token - first + 1), 1)
        return replace(state, last=2)


@lru_cache(maxsize=512)
def _turns_mask(vocab_size: int, state: Turns) -> torch.Tensor:
    allowed = torch.zeros(vocab_size, dtype=torch.bool)
    first, text = ByteTokenizer.FIRST_SPEAKER, ByteTokenizer.FIRST_TEXT
    if state.last != 1:  # an empty turn says nothing
        allowed[first : min(first + state.num_speakers + 1, text)] = True
        allowed[ByteTokenizer.END] = True
    if state.last != 0:  # words are somebody's
        allowed[text:] = True
    return allowed


@dataclass(frozen=True)
class Timed:
    """Where an answer of times, tags and words stands."""

    phase: str
    """open, time, tag, text: what comes next."""
    digits: str = ""
    """Of the time that is being written."""
    is_end: bool = False
    """Whether that time ends a turn."""
    start_cs: int = 0
    """When the turn began, or the one before, in hundredths of a second."""
    num_speakers: int = 0
    has_text: bool = False


class TimedGrammar:
    """[1.25][s0]words[2.50] ...: turns begin in order, none ends before it begins, or behind the window.

    Source: MOSS Transcribe-Diarize, arXiv:2601.01554 (the form).
    """

    def __init__(self, tokenizer: ByteTokenizer, window_s: float, carried: int = 0) -> None:
        """Take a tokenizer of bytes, the window's length, and how many speakers came in before.

        Raises:
            TypeError: the tokenizer does not write byte by byte.
        """
        if isinstance(tokenizer, FileTokenizer):
            raise TypeError("times are written digit by digit, which only the byte tokenizer does")
        self._carried = carried
        self._most_cs = int(window_s * 100 + 0.5)
        self._size = tokenizer.vocab_size

    def start(self) -> Timed:
        """Return the state before the first token."""
        return Timed("open", num_speakers=self._carried)

    def mask(self, state: Timed) -> torch.Tensor:
        """Return which tokens (V,) may follow."""
        allowed = torch.zeros(self._size, dtype=torch.bool)
        first, text = ByteTokenizer.FIRST_SPEAKER, ByteTokenizer.FIRST_TEXT
        match state.phase:
            case "open":
                allowed[[text + ord("["), ByteTokenizer.END]] = True
            case "time":
                for character in "0123456789.]":
                    if self._may_write(state.digits + character, state.start_cs):
                        allowed[text + ord(character)] = True
            case "tag":
                allowed[first : min(first + state.num_speakers + 1, text)] = True
            case _:
                allowed[text:] = True
                allowed[text + ord("]")] = False
                if not state.has_text:
                    allowed[text + ord("[")] = False
        return allowed

    def _may_write(self, text: str, least_cs: int) -> bool:
        """Tell whether a time that begins so can still be one between the least and the window's end.

        >>> grammar = TimedGrammar(ByteTokenizer(), 12.0)
        >>> [grammar._may_write(text, 250) for text in ("2.49]", "2.50]", "2.4", "2.5", "12.01", "1", "3.", "01")]
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
            return high >= least_cs and low <= self._most_cs
        # Digits may still follow: 1 may become 12, but 0 stays 0.
        longest = 1 if whole == "0" else len(str(self._most_cs // 100))
        return any(
            int(whole) * 10**more * 100 <= self._most_cs and ((int(whole) + 1) * 10**more) * 100 > least_cs
            for more in range(longest - len(whole) + 1)
        )

    def advance(self, state: Timed, token: int) -> Timed:
        """Return the state behind a token."""
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
