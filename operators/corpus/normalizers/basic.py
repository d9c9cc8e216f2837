"""hubbub-basic-1: case folded, punctuation dropped, apostrophes kept inside words."""

import re
import unicodedata

from operators.corpus.normalizers.normalizer import Normalizer

_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "`": "'"})


def normalize(text: str) -> str:
    """Fold case and compatibility forms; keep letters, digits and apostrophes inside words, separated by single spaces.

    >>> normalize("It\u2019s  'JUST' so-hard!")
    "it's just so hard"
    """
    folded = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).casefold()
    spaced = re.sub(r"[^\w']|_", " ", folded)
    return " ".join(word for word in (part.strip("'") for part in spaced.split()) if word)


NORMALIZER_ENTRY = Normalizer(
    normalize=normalize,
    about="case folded, punctuation dropped, apostrophes kept inside words",
    examples={
        "": "",
        " ?! ": "",
        "It\u2019s  'JUST' so-hard!": "it's just so hard",
        "Stra\u00dfe, 3rd": "strasse 3rd",
        "\uff21\uff22\uff23 snake_case": "abc snake case",
    },
)
