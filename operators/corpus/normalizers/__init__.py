"""Text normalizers: one table from a name to the file that knows everything about it.

Text is kept raw and normalized; every data set records by which normalizer. A new normalizer is one file with its
`NORMALIZER_ENTRY`, and one line in `NORMALIZERS`.
"""

from operators.corpus.normalizers.basic import NORMALIZER_ENTRY as BASIC
from operators.corpus.normalizers.chime8 import NORMALIZER_ENTRY as CHIME8
from operators.corpus.normalizers.normalizer import Normalizer
from operators.corpus.normalizers.plain import NORMALIZER_ENTRY as PLAIN
from operators.corpus.normalizers.whisper_english import NORMALIZER_ENTRY as WHISPER_ENGLISH
from operators.errors import InputError

NORMALIZERS: dict[str, Normalizer] = {
    "hubbub-basic-2": BASIC,
    "none": PLAIN,
    "whisper-english": WHISPER_ENGLISH,
    "chime8": CHIME8,
}
"""By the name that data sets and evaluations record; a change of results is a new name."""

NORMALIZER = "hubbub-basic-2"
"""The normalizer in use: part of every key that text goes into."""


ALIASES = {"basic": NORMALIZER}
"""Shorter names that `find_normalizer` takes."""


def find_normalizer(name: str) -> tuple[str, Normalizer]:
    """Return the normalizer of a name or alias, ready for use, and the name to record.

    Raises:
        InputError: there is none of that name, or its package is not installed.
    """
    known = ALIASES.get(name, name)
    if known not in NORMALIZERS:
        raise InputError(f"there is no text normalizer {name}; choose from {', '.join([*ALIASES, *NORMALIZERS])}")
    NORMALIZERS[known].version()
    return known, NORMALIZERS[known]


def normalize(text: str) -> str:
    """Return a text as it is scored and, by default, trained on."""
    return NORMALIZERS[NORMALIZER].normalize(text)
