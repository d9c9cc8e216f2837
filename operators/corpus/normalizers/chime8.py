"""chime8: the normalizer of the CHiME-8 challenge, by its organizers' package."""

import functools
from collections.abc import Callable

from operators.corpus.normalizers.normalizer import Normalizer


@functools.cache
def _loaded() -> Callable[[str], str]:
    NORMALIZER_ENTRY.version()
    from chime_utils.text_norm import get_txt_norm

    loaded: Callable[[str], str] = get_txt_norm("chime8")
    return loaded


def normalize(text: str) -> str:
    """Return a text as CHiME-8 scores it: numbers in words, no fillers, no punctuation.

    Source: Cornell et al. 2024, "The CHiME-8 DASR challenge", arXiv:2407.16447; by the package chime-utils.

    Raises:
        InputError: the package is not installed.
    """
    return " ".join(_loaded()(text).split())


NORMALIZER_ENTRY = Normalizer(
    normalize=normalize,
    about="as CHiME-8 is scored: numbers in words, no fillers, no punctuation",
    # As meeteval documents it (meeteval/wer/normalizer.py).
    examples={"": "", "Hello, World! hm [noise] wi-fi 11 Mr. then": "hello world wi fi eleven mister then"},
    package="chime_utils",
    install="chime-utils @ git+https://github.com/chimechallenge/chime-utils",
    is_stable=False,
)
