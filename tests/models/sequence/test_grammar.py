"""Answers follow a grammar, whatever the model prefers."""

import itertools
import re

import numpy as np
import pytest
import torch

from models.sequence.grammar import ArrivalGrammar, TimedGrammar
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.generate import greedy_text
from tests.models.speech_lm.test_generate import prompt
from tests.models.support import grid_spec

T = ByteTokenizer()


class RandomWriter:
    """Draws tokens at random, as an untrained model may."""

    def __init__(self, seed, length=200):
        self.draw, self.length = np.random.default_rng(seed), length

    def write(self, grammar):
        state, written = grammar.start(), []
        for number in range(self.length):
            allowed = grammar.mask(state)
            assert allowed.any(), (state, T.show(written))
            logits = torch.from_numpy(self.draw.normal(0, 5, T.vocab_size))
            logits[T.FIRST_TEXT + ord("[")] += 8  # prefers to begin times
            logits[T.END] += 20 * (number > self.length - 60)
            token = int(logits.masked_fill(~allowed, -torch.inf).argmax())
            if token == T.END:
                return written, True
            written.append(token)
            state = grammar.advance(state, token)
        return written, False


@pytest.mark.parametrize("carried", [0, 2])
def test_speakers_are_numbered_by_arrival_and_no_turn_is_empty(carried):
    for seed in range(20):
        written, _ = RandomWriter(seed).write(ArrivalGrammar(T, carried))
        tags = [t - T.FIRST_SPEAKER for t in written if t < T.FIRST_TEXT]
        assert all(tag >= 0 for tag in tags)
        assert written == [] or written[0] < T.FIRST_TEXT
        known = carried
        for tag in tags:
            assert tag <= known
            known = max(known, tag + 1)
        assert all(not (a < T.FIRST_TEXT and b < T.FIRST_TEXT) for a, b in itertools.pairwise(written))


def test_times_do_not_go_back_and_stay_inside_the_window():
    ended = 0
    for seed in range(40):
        written, is_whole = RandomWriter(seed, 300).write(TimedGrammar(T, 12.5))
        text = "".join(f"<{t - T.FIRST_SPEAKER}>" if t < T.FIRST_TEXT else chr(t - T.FIRST_TEXT) for t in written)
        turns = re.findall(r"\[(\d+\.\d\d)\]<(\d+)>([^\[\]]+)\[(\d+\.\d\d)\]", text)
        if is_whole:
            ended += 1
            assert "".join(f"[{a}]<{s}>{words}[{b}]" for a, s, words, b in turns) == text
        starts = [float(a) for a, *_ in turns]
        assert starts == sorted(starts)
        assert all(float(a) <= float(b) <= 12.51 for a, _, _, b in turns)
        known = 0
        for _, speaker, *_ in turns:
            assert int(speaker) <= known
            known = max(known, int(speaker) + 1)
    assert ended > 10


@pytest.mark.parametrize("window_s", [0.4, 9.99, 30.0])
def test_exactly_the_times_inside_the_window_are_allowed(window_s):
    grammar = TimedGrammar(T, window_s)
    most = round(window_s * 100)

    def can(text, least):
        return all(grammar._can_become_time(text[: n + 1], least) for n in range(len(text)))

    draw = np.random.default_rng(0)
    for cs in {0, 5, most // 2, most, *draw.integers(0, most + 1, 50).tolist()}:
        least = int(draw.integers(0, most + 1))
        assert can(f"{cs / 100:.2f}]", least) == (cs >= least)
        assert not can(f"{(most + 1 + cs) / 100:.2f}]", 0)


def test_greedy_decoding_follows_the_grammar_and_otherwise_the_model():
    grid = grid_spec()
    from dataclasses import replace

    from models.speech_lm.model import SpeechLM
    from tests.models.support import SHAPE, vocabulary_of

    model = SpeechLM(SHAPE, replace(vocabulary_of(grid), text_size=T.vocab_size)).initialize(3)
    prompts = [prompt([T.ASR, T.TEXT]), prompt([T.ASR])]
    free = greedy_text(model, prompts, grid, end=T.END, max_tokens=30)
    held = greedy_text(
        model, prompts, grid, end=T.END, max_tokens=30, grammars=[ArrivalGrammar(T), TimedGrammar(T, 5.0)]
    )
    assert free != held
    assert all(answer[0] == T.FIRST_SPEAKER for answer in held[:1] if answer)
    again = greedy_text(model, prompts[1:], grid, end=T.END, max_tokens=30, grammars=[TimedGrammar(T, 5.0)])
    assert again[0] == held[1]
