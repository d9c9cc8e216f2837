"""Text normalizers: one table from a name to the file that knows everything about it.

Text is kept raw and normalized; every data set records by which normalizer. A new normalizer is one file with its
`NORMALIZER_ENTRY`, and one line in `NORMALIZERS`.
"""

from operators.corpus.normalizers.basic import NORMALIZER_ENTRY as BASIC
from operators.corpus.normalizers.normalizer import Normalizer

NORMALIZERS: dict[str, Normalizer] = {
    "hubbub-basic-2": BASIC,
}
"""By the name that data sets and evaluations record; a change of results is a new name."""

NORMALIZER = "hubbub-basic-2"
"""The normalizer in use: part of every key that text goes into."""


def normalize(text: str) -> str:
    """Return a text as it is scored and, by default, trained on."""
    return NORMALIZERS[NORMALIZER].normalize(text)
