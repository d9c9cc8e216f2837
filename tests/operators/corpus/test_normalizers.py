"""The contract of text normalizers, held by every member of the table."""

import dataclasses
import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.corpus.normalizers import NORMALIZER, NORMALIZERS, find_normalizer, normalize
from operators.errors import InputError


@pytest.fixture(params=NORMALIZERS)
def normalizer(request):
    found = NORMALIZERS[request.param]
    if found.package and not importlib.util.find_spec(found.package):
        pytest.skip(f"{found.package} is not installed")
    return found


def test_examples_come_out_as_they_should(normalizer):
    assert normalizer.examples, "a normalizer brings examples"
    assert normalizer.about
    for raw, expected in normalizer.examples.items():
        assert normalizer.normalize(raw) == expected


@pytest.mark.parametrize("name", [name for name, entry in NORMALIZERS.items() if entry.is_stable])
@given(text=st.text(max_size=60))
def test_normalized_text_is_words_with_single_spaces_and_stays_as_it_is(name, text):
    once = NORMALIZERS[name].normalize(text)
    assert once == " ".join(once.split())
    assert NORMALIZERS[name].normalize(once) == once


def test_the_normalizer_in_use_is_a_member():
    assert normalize("Good Morning!") == NORMALIZERS[NORMALIZER].normalize("Good Morning!") == "good morning"


def test_a_normalizer_is_found_by_name_and_alias():
    assert find_normalizer("basic") == (NORMALIZER, NORMALIZERS[NORMALIZER])
    assert find_normalizer("none")[1].normalize(" It's  OK! ") == "It's OK!"
    with pytest.raises(InputError, match="no text normalizer basics; choose from basic, hubbub-basic-2, none"):
        find_normalizer("basics")


def test_a_normalizer_whose_package_is_missing_says_how_to_install_it(monkeypatch):
    absent = dataclasses.replace(NORMALIZERS["chime8"], package="chime_utils_absent")
    monkeypatch.setitem(NORMALIZERS, "chime8", absent)
    with pytest.raises(InputError, match=r"pip install 'chime-utils @ git\+https"):
        find_normalizer("chime8")
