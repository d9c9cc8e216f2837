"""The contract of text normalizers, held by every member of the table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.corpus.normalizers import NORMALIZER, NORMALIZERS, normalize


@pytest.fixture(params=NORMALIZERS)
def normalizer(request):
    return NORMALIZERS[request.param]


def test_examples_come_out_as_they_should(normalizer):
    assert normalizer.examples, "a normalizer brings examples"
    assert normalizer.about
    for raw, expected in normalizer.examples.items():
        assert normalizer.normalize(raw) == expected


@pytest.mark.parametrize("name", NORMALIZERS)
@given(text=st.text(max_size=60))
def test_normalized_text_is_words_with_single_spaces_and_stays_as_it_is(name, text):
    once = NORMALIZERS[name].normalize(text)
    assert once == " ".join(once.split())
    assert NORMALIZERS[name].normalize(once) == once


def test_the_normalizer_in_use_is_a_member():
    assert normalize("Good Morning!") == NORMALIZERS[NORMALIZER].normalize("Good Morning!") == "good morning"
