"""Run by test_attention.py in a process of its own, where TRITON_INTERPRET=1 lets Triton's interpreter run kernels."""

import pytest
import torch

from models.speech_lm.decode.attention import disagreement
from models.speech_lm.decode.attention_kernels import attend_in_parts

SIZES = [(1, 4, 4, 8), (1, 16, 8, 64), (3, 8, 2, 48), (2, 20, 1, 16), (9, 2, 1, 16)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_parts_add_up_to_sdpa(size):
    assert disagreement(attend_in_parts, "cpu", size, torch.float32) < 1e-5


def test_a_column_left_out_would_be_seen():
    def short(q, k, v, keys, values, lengths):
        return attend_in_parts(q, k, v, keys, values, (lengths - 1).clamp(min=0))

    assert disagreement(short, "cpu", (3, 8, 2, 16), torch.float32) > 1e-3
