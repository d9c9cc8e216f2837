"""Weights for decoding are the model's, cast once and with low-rank updates merged."""

from dataclasses import replace

import pytest
import torch

from models.sequence.batch import collate
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.compiled import compile_blocks
from models.speech_lm.decode.weights import decoding_copy, versions_of
from models.speech_lm.model import SpeechLM
from tests.models.support import SHAPE, document, grid_spec, joined, vocabulary_of

SHAPES = {
    "plain": {},
    "tied": {"tie_text": True},
    "low rank": {"lora_rank": 4, "qkv_bias": True},
    "low rank, tied": {"lora_rank": 4, "tie_text": True},
}


@pytest.mark.parametrize("layout", ["parallel", "depth"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_copy_computes_what_the_model_does(name, layout):
    grid = grid_spec(layout)
    vocabulary = replace(vocabulary_of(grid), text_size=ByteTokenizer().vocab_size)
    model = SpeechLM(replace(SHAPE, **SHAPES[name]), vocabulary).initialize(0).double()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "update" in parameter_name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
        if model.text_update_up is not None:
            model.text_update_up[0] = 0.0  # as training leaves pad's
    made = decoding_copy(model, torch.float64)
    batch = collate([joined([document(grid, seed) for seed in range(3)])], grid)
    with torch.no_grad():
        assert model.states(batch).abs().max() > 0.1
        torch.testing.assert_close(made.states(batch), model.states(batch))
        torch.testing.assert_close(made.text_logits(made.states(batch)), model.text_logits(model.states(batch)))
    mine = {parameter.data_ptr() for parameter in model.parameters()}
    assert mine.isdisjoint({parameter.data_ptr() for parameter in made.parameters()})
    assert not any("update" in name for name, _ in made.named_parameters())
    rounded = decoding_copy(model, torch.bfloat16)
    assert {parameter.dtype for parameter in rounded.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_a_changed_parameter_is_noticed():
    model = SpeechLM(SHAPE, vocabulary_of(grid_spec())).initialize(0)
    before = versions_of(model)
    assert versions_of(model) == before
    with torch.no_grad():
        model.blocks[0].ffn.down.weight[0, 0] += 1
    assert versions_of(model) != before


def test_a_copy_of_a_compiled_model_computes_with_its_own_weights():
    grid = grid_spec()
    model = SpeechLM(SHAPE, vocabulary_of(grid)).initialize(0)
    batch = collate([joined([document(grid, 1)])], grid)
    compile_blocks(model, "blocks")
    made = decoding_copy(model, torch.float64)
    with torch.no_grad():
        before = made.states(batch)
        for parameter in model.parameters():
            parameter.zero_()
        assert before.dtype is torch.float64
        torch.testing.assert_close(made.states(batch), before)
