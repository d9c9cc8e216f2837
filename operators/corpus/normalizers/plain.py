"""none: words as they are written, separated by single spaces."""

from operators.corpus.normalizers.normalizer import Normalizer


def normalize(text: str) -> str:
    """Return the words of a text.

    >>> normalize("  It's just  so-hard! ")
    "It's just so-hard!"
    """
    return " ".join(text.split())


NORMALIZER_ENTRY = Normalizer(
    normalize=normalize,
    about="words as they are written",
    examples={"": "", "  It's  Just\tso-hard! ": "It's Just so-hard!", "naïve\u00a0café": "naïve café"},
)
