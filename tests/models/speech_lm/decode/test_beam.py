"""Beam search against a search of all answers, and against greedy decoding."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.sequence.batch import collate
from models.sequence.grammar import ArrivalGrammar
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.decode.beam import BeamSearch
from models.speech_lm.generate import beam_text, greedy_text
from models.speech_lm.model import SpeechLM
from tests.models.support import document, grid_spec, model_for

GRID = grid_spec()
END = 1


def prompts(number=3):
    made = [document(GRID, seed, num_frames=4 + seed, num_text=2) for seed in range(number)]
    return [replace(one, loss_spans=one.loss_spans[:0], loss_weights=one.loss_weights[:0]) for one in made]


def sharp_model(seed=0):
    """A model whose next tokens are far from equally likely."""
    model = model_for(GRID, seed, dtype=torch.float32).eval()
    with torch.no_grad():
        model.text_head.weight.mul_(30)
    return model


def log_likelihood(model, prompt, tokens):
    """Of a whole answer, by reading prompt and answer in one pass."""
    columns = prompt.num_columns
    longer = replace(
        prompt,
        num_columns=columns + len(tokens),
        cu_seqlens=np.array([0, columns + len(tokens)], np.int32),
        segments=np.concatenate([prompt.segments, np.array([[0, columns, len(tokens)]], np.int32)]),
        text_tokens=np.concatenate([prompt.text_tokens, np.array(tokens, np.int32)]),
    )
    with torch.no_grad():
        logits = model.text_logits(model.states(collate([longer], GRID))[columns - 1 : -1]).float()
    logits[:, 0] = -torch.inf
    return float(logits.log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)].sum())


def test_one_beam_is_greedy_decoding():
    model = sharp_model()
    search = BeamSearch(1, END, 6, length_power=0.0)
    assert beam_text(model, prompts(), GRID, search) == greedy_text(model, prompts(), GRID, end=END, max_tokens=6)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_answers(power):
    model = sharp_model(1)
    with torch.no_grad():
        model.text_head.weight[END] *= 0.3
    size = model.vocabulary.text_size
    search = BeamSearch(size * size, END, 2, length_power=power)
    for prompt, found in zip(prompts(2), beam_text(model, prompts(2), GRID, search, slots=1), strict=True):
        every = [
            [END],
            *([one, END] for one in range(2, size)),
            *map(list, itertools.product(range(2, size), repeat=2)),
        ]
        scores = [log_likelihood(model, prompt, tokens) / len(tokens) ** power for tokens in every]
        best = every[int(np.argmax(scores))]
        assert found == [token for token in best if token != END]


def test_a_wider_beam_finds_likelier_answers_and_slots_change_nothing():
    better = 0
    for seed in range(4):
        model = sharp_model(seed)
        found = {}
        for width in (1, 4):
            search = BeamSearch(width, END, 5, length_power=0.0)
            found[width] = beam_text(model, prompts(), GRID, search)
            assert found[width] == beam_text(model, prompts(), GRID, search, slots=1)
        for prompt, one, four in zip(prompts(), found[1], found[4], strict=True):
            ended = [[*tokens, END][:5] for tokens in (one, four)]
            scores = [log_likelihood(model, prompt, tokens) for tokens in ended]
            assert scores[1] >= scores[0] - 1e-4
            better += scores[1] > scores[0] + 1e-4
    assert better


def test_answers_keep_to_their_grammar():
    tokenizer = ByteTokenizer()
    grammar = ArrivalGrammar(tokenizer)
    small = model_for(GRID, dtype=torch.float32)
    vocabulary = replace(small.vocabulary, text_size=tokenizer.vocab_size)
    model = SpeechLM(small.shape, vocabulary).initialize(0).eval()
    with torch.no_grad():
        model.text_head.weight.mul_(30)
    search = BeamSearch(3, END, 8, length_power=2.0)  # long answers win
    free = beam_text(model, prompts(), GRID, search)
    answers = beam_text(model, prompts(), GRID, search, grammars=[grammar] * 3)
    for answer in answers:
        state = grammar.start()
        for token in answer:
            assert grammar.mask(state)[token]
            state = grammar.advance(state, token)
    assert any(answers)
    assert free != answers


def test_one_beam_under_grammars_is_greedy_decoding_under_them_whoever_came_in_before():
    tokenizer = ByteTokenizer()
    small = model_for(GRID, dtype=torch.float32)
    model = SpeechLM(small.shape, replace(small.vocabulary, text_size=tokenizer.vocab_size)).initialize(0).eval()
    with torch.no_grad():
        model.text_head.weight.mul_(30)
        model.text_head.weight[END] = 0.0
        tags = slice(tokenizer.FIRST_SPEAKER, tokenizer.FIRST_TEXT)
        model.text_head.weight[tags] *= 3  # the likeliest tag is one that only a later window may begin with
    grammars = [ArrivalGrammar(tokenizer, carried) for carried in (0, 20, 5)]
    search = BeamSearch(1, END, 6, length_power=0.0)
    found = beam_text(model, prompts(), GRID, search, grammars=grammars)
    assert found == greedy_text(model, prompts(), GRID, end=END, max_tokens=6, grammars=grammars)
    assert found != beam_text(model, prompts(), GRID, search, grammars=[grammars[0]] * 3)
