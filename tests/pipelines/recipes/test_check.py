"""What is refused before anything is started: options of an encoder's columns that do not go together."""

from dataclasses import replace

import pytest

from operators.errors import InputError
from pipelines.recipes.check import check_recipe
from pipelines.recipes.named import tiny
from tests.pipelines.support import hearing

CTC = {"ctc_weight": 0.3, "ctc_at": "projector"}


def heard(train, **model):
    """A recipe with an encoder, which no check loads."""
    recipe = hearing("somewhere", "none", **model)(tiny())
    return replace(recipe, train=replace(recipe.train, **train))


@pytest.mark.parametrize(
    ("train", "model", "said"),
    [
        ({}, {"compress": "ctc"}, "which nothing trains"),
        ({"ctc_weight": 0.3}, {"compress": "ctc"}, r"a CTC loss needs: --train\.ctc-at projector"),
        ({"activity_weight": 0.1}, {"stack": 8}, r"train\.activity_weight is about all columns"),
        ({"compile": "graphs"}, {"stack": 8}, r"train\.compile graphs needs few lengths"),
        ({"only": ("encoder",)}, {}, r"train\.only encoder needs .* --model\.encoder-rank 16"),
        ({"only": ("tokens",)}, {}, r"train\.only tokens needs .* --model\.lora-rank 16"),
    ],
)
def test_what_does_not_go_together_is_named(train, model, said):
    with pytest.raises(InputError, match=said):
        check_recipe(heard(train, **model))


@pytest.mark.parametrize(
    ("train", "model"),
    [
        (CTC, {"compress": "ctc", "stack": 8}),
        ({"start_from": "a checkpoint"}, {"compress": "ctc"}),
        ({"ctc_weight": 0.3}, {"stack": 16, "projector": "queries"}),
        ({"only": ("projector", "tokens", "lora", "encoder")}, {"lora_rank": 4, "encoder_rank": 4}),
    ],
)
def test_what_goes_together_is_not_refused(train, model):
    check_recipe(heard(train, **model))


def test_ctc_at_the_projector_needs_an_encoder():
    recipe = replace(tiny(), train=replace(tiny().train, **CTC))
    with pytest.raises(InputError, match=r"train\.ctc_at projector is for audio that goes through an encoder"):
        check_recipe(recipe)
