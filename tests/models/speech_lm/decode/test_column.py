"""Attention over a static cache: both ways are the same, and what is beyond a row's length counts for nothing."""

import pytest
import torch

from models.speech_lm.decode.column import attend


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_heads_that_share_keys_can_be_queries_of_one(groups):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 8, 16, generator=generator)
    keys, values = (torch.randn(3, 20, groups, 16, generator=generator) for _ in range(2))
    lengths = torch.tensor([1, 20, 7])
    bias = torch.zeros(3, 20).masked_fill_(torch.arange(20) >= lengths[:, None], -torch.inf)
    plain, folded = (attend(q, keys, values, bias, folded=way) for way in (False, True))
    torch.testing.assert_close(plain, folded)
    shared = q.view(3, groups, -1, 16)
    for row, length in enumerate(lengths.tolist()):
        scores = torch.einsum("ghd,lgd->ghl", shared[row], keys[row, :length]) / 4
        expected = torch.einsum("ghl,lgd->ghd", scores.softmax(dim=-1), values[row, :length])
        torch.testing.assert_close(plain[row], expected.flatten(0, 1))
