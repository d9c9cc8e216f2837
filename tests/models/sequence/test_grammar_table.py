"""The tables that a device follows say what the grammars say, token by token."""

import numpy as np
import pytest
import torch

from models.sequence.grammar import ArrivalGrammar, TimedGrammar
from models.sequence.grammar_table import joined_tables
from models.sequence.tokenizer import ByteTokenizer

T = ByteTokenizer()
GRAMMARS = {
    "arrival": ArrivalGrammar(T),
    "arrival with carried speakers": ArrivalGrammar(T, 3),
    "timed": TimedGrammar(T, 12.34),
    "timed, short": TimedGrammar(T, 0.4, 2),
    "timed, long": TimedGrammar(T, 123.0, 31),
}


def start_of(grammar, phase=0):
    return torch.tensor([[phase, 0, grammar.carried]])


@pytest.mark.parametrize("name", GRAMMARS)
def test_a_table_allows_what_its_grammar_allows_along_random_answers(name):
    grammar = GRAMMARS[name]
    table = grammar.table()
    draw = np.random.default_rng(0)
    times = 0
    for _ in range(12):
        state, states = grammar.start(), start_of(grammar)
        for _ in range(120):
            allowed = grammar.mask(state)
            assert torch.equal(table.mask(states)[0], allowed), state
            scores = draw.normal(0, 5, T.vocab_size)
            scores[T.FIRST_TEXT + ord("[")] += 10  # prefers to begin times
            scores[T.END] -= 40
            token = int(np.where(allowed.numpy(), scores, -np.inf).argmax())
            times += token == T.FIRST_TEXT + ord("]")
            if token == T.END:
                break
            state, states = grammar.advance(state, token), table.advance(states, torch.tensor([token]))
    assert times > 20 or name.startswith("arrival")


def test_grammars_of_several_kinds_go_by_one_table():
    grammars = [GRAMMARS["timed"], GRAMMARS["arrival with carried speakers"]]
    table, phases = joined_tables([one.table() for one in grammars])
    states = torch.cat([start_of(one, phase) for one, phase in zip(grammars, phases, strict=True)])
    spoken = [T.FIRST_TEXT + ord("["), T.speaker(1)], [T.FIRST_TEXT + ord("1"), T.FIRST_TEXT + ord("[")]
    kept = [one.start() for one in grammars]
    for tokens in spoken:
        assert torch.equal(table.mask(states), torch.stack([g.mask(s) for g, s in zip(grammars, kept, strict=True)]))
        kept = [g.advance(s, token) for g, s, token in zip(grammars, kept, tokens, strict=True)]
        states = table.advance(states, torch.tensor(tokens))
    assert torch.equal(table.mask(states), torch.stack([g.mask(s) for g, s in zip(grammars, kept, strict=True)]))
