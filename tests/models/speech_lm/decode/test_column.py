"""The part of a block after attention, on the states themselves."""

import torch

from models.speech_lm.decode.column import finish_in_place
from models.speech_lm.transformer import Block
from tests.models.support import SHAPE


def test_a_block_finished_in_place_is_the_block():
    torch.manual_seed(0)
    block = Block(SHAPE).double()
    x, attended = torch.randn(3, SHAPE.dim).double(), torch.randn(3, SHAPE.num_heads, SHAPE.head_dim).double()
    with torch.no_grad():
        expected = block.finish(x, attended)
        assert not torch.allclose(expected, x)
        found = finish_in_place(block, x, attended)
    assert found.data_ptr() == x.data_ptr()
    torch.testing.assert_close(found, expected)
