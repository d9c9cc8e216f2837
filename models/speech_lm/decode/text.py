"""Decoding of text in slots: the likeliest token of each, step by step, without the host."""

from collections.abc import Sequence
from typing import Any

import torch

from models.sequence.batch import Batch
from models.sequence.grammar import Grammar, TableGrammar
from models.sequence.grammar_table import GrammarTable, joined_tables
from models.speech_lm.decode.cache import StaticCache
from models.speech_lm.decode.column import append_column
from models.speech_lm.model import SpeechLM
from models.speech_lm.whisper.cache import HeardCache, append_token
from models.speech_lm.whisper.model import WhisperLM


class Rules:
    """What may be said in the slots: by tables, or by grammars that the host follows from step to step.

    The latter wait for every token; none of the project's grammars does.
    """

    def __init__(self, grammars: Sequence[Grammar[Any]], slots: int, device: torch.device) -> None:
        """Take the grammars of all answers to come."""
        self._grammars = grammars
        self.tables = _tables_of(grammars)
        self._table: GrammarTable | None = None
        if self.tables:
            joined, phases = joined_tables(self.tables)
            self._table = joined.to(device)
            self._phases = phases
            self._states = torch.zeros((slots, 3), dtype=torch.int64, device=device)
        else:
            self._followed: dict[int, tuple[Grammar[Any], Any, int]] = {}  # by slot: with its state and tokens so far
            size = len(grammars[0].mask(grammars[0].start()))
            self._allowed = torch.ones((slots, size), dtype=torch.bool, device=device)

    @property
    def on_host(self) -> bool:
        """Whether the host must see every token."""
        return self._table is None

    def renew(self, grammars: Sequence[Grammar[Any]]) -> bool:
        """Take the grammars of other answers, if the tables are theirs too; return whether they are."""
        tables = _tables_of(grammars)
        if not tables or any(all(one is not known for known in self.tables) for one in tables):
            return False
        self._grammars = grammars
        return True

    def begin(self, slots: Sequence[int], numbers: Sequence[int]) -> None:
        """Begin answers of some numbers in some slots."""
        for slot, number in zip(slots, numbers, strict=True):
            grammar = self._grammars[number]
            if self._table is None:
                self._followed[slot] = grammar, grammar.start(), 0
                self._allowed[slot] = grammar.mask(grammar.start()).to(self._allowed.device)
                continue
            assert isinstance(grammar, TableGrammar)
            table = grammar.table()
            phase = next(p for p, known in zip(self._phases, self.tables, strict=True) if known is table)
            self._states[slot] = torch.tensor([phase, 0, grammar.carried], device=self._states.device)

    def mask(self) -> torch.Tensor:
        """Return what may come next (B, V)."""
        return self._allowed if self._table is None else self._table.mask(self._states)

    def advance(self, tokens: torch.Tensor, goes_on: torch.Tensor) -> None:
        """Take in the next tokens (B,) of the answers that go on (B,) bool."""
        if self._table is not None:
            after = self._table.advance(self._states, tokens)
            self._states.copy_(torch.where(goes_on[:, None], after, self._states))

    def reorder(self, rows: torch.Tensor) -> None:
        """Give each slot the state of the slot that `rows` (B,) names; rules must be tables."""
        self._states.copy_(self._states.index_select(0, rows))

    def follow(self, slot: int, token: int, count: int) -> None:
        """Take in, on the host, the newest of a slot's tokens, of which there are so many."""
        grammar, state, known = self._followed[slot]
        if count == known:
            return
        state = grammar.advance(state, token)
        self._followed[slot] = grammar, state, count
        self._allowed[slot] = grammar.mask(state).to(self._allowed.device)


def _tables_of(grammars: Sequence[Grammar[Any]]) -> list[GrammarTable]:
    """Return the tables of some grammars, each once; none where one of the grammars has no table."""
    found: dict[int, GrammarTable] = {}
    for one in grammars:
        if not isinstance(one, TableGrammar):
            return []
        table = one.table()
        found[id(table)] = table
    return list(found.values())


def append_text(model: SpeechLM, cache: StaticCache | HeardCache, tokens: torch.Tensor, window: int) -> torch.Tensor:
    """Append a text token (B,) to every slot; return its states (B, d). The cache's lengths are left to the caller."""
    if isinstance(cache, HeardCache):
        assert isinstance(model, WhisperLM)
        return append_token(model, cache, tokens, window)
    return append_column(model, cache, tokens, None, window)


class TextSlots:
    """Answers of text being decoded, one a slot. All state is on the device and changed in place."""

    def __init__(
        self, model: SpeechLM, cache: StaticCache | HeardCache, *, end: int, limit: int, rules: Rules | None
    ) -> None:
        """Allocate the state.

        Args:
            model: the speech-LLM.
            cache: with a row for each slot.
            end: the token that ends an answer.
            limit: an answer's greatest length; `limit_to` lowers it.
            rules: what may be said.
        """
        self._model, self.cache, self._end, self.rules = model, cache, end, rules
        self._limit = torch.tensor(limit, device=cache.rows.device)
        self.tokens = torch.zeros_like(cache.rows)
        self.counts = torch.zeros_like(cache.rows)
        self.running = torch.zeros_like(cache.rows, dtype=torch.bool)
        self.answers = torch.zeros((len(cache.rows), limit + 1), dtype=torch.int64, device=cache.rows.device)
        self._hidden: torch.Tensor | None = None

    @property
    def most_tokens(self) -> int:
        """What an answer's greatest length can be set to."""
        return self.answers.shape[1] - 1

    def limit_to(self, limit: int) -> None:
        """Set an answer's greatest length, up to `most_tokens`."""
        self._limit.fill_(limit)

    def fill(
        self,
        slots: Sequence[int],
        numbers: Sequence[int],
        prompts: Batch,
        hidden: torch.Tensor,
        kept: Any,
    ) -> None:
        """Put read prompts into slots, and choose the first tokens of their answers.

        Args:
            slots: free ones (n,).
            numbers: of the answers (n,), by which rules are found.
            prompts: packed.
            hidden: (n, d) last state of each.
            kept: what `prefill` keeps of the packed prompts, as the cache takes it.
        """
        places = torch.tensor(slots, device=self.tokens.device)
        self.cache.insert(places, kept, prompts)
        self.counts[places] = 0
        if self.rules is not None:
            self.rules.begin(slots, numbers)
        states = hidden.new_zeros((len(self.tokens), hidden.shape[1]))
        states[places] = hidden
        active = torch.zeros_like(self.running)
        active[places] = True
        self._choose(states, active)

    def step(self, window: int) -> None:
        """Append the chosen tokens, and choose the next ones.

        Args:
            window: columns that are attended to.
        """
        active = self.running.clone()
        hidden = append_text(self._model, self.cache, self.tokens, window)
        self.cache.lengths.add_(active)
        self._choose(hidden, active)

    def _choose(self, hidden: torch.Tensor, active: torch.Tensor) -> None:
        """Choose tokens from states (B, d), in the slots that are active (B,)."""
        logits = self._model.text_logits(hidden).float()
        logits[:, 0] = -torch.inf  # pad is not text
        if self.rules is not None:
            logits.masked_fill_(~self.rules.mask(), -torch.inf)
        tokens = logits.argmax(dim=-1)
        goes_on = active & (tokens != self._end)
        # Others write where their next token will be.
        self.answers[self.cache.rows, self.counts] = tokens
        self.counts.add_(goes_on)
        self.tokens.copy_(torch.where(active, tokens, self.tokens))
        self.running.copy_(torch.where(active, goes_on & (self.counts < self._limit), self.running))
        if self.rules is not None:
            self.rules.advance(tokens, goes_on)

    def look(self) -> list[bool]:
        """Return which slots are still running; waits for the device."""
        running: list[bool] = self.running.tolist()
        if self.rules is not None and self.rules.on_host:
            newest = zip(running, self.tokens.tolist(), self.counts.tolist(), strict=True)
            for slot, (goes_on, token, count) in enumerate(newest):
                if goes_on:
                    self.rules.follow(slot, token, count)
        return running

    def read(self, slots: Sequence[int]) -> list[list[int]]:
        """Return the answers of some slots, without ends; waits for the device."""
        places = torch.tensor(slots, device=self.answers.device)
        rows, counts = self.answers[places].tolist(), self.counts[places].tolist()
        return [row[:count] for row, count in zip(rows, counts, strict=True)]
