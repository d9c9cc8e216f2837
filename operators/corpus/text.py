"""Text normalization, by name: text is kept raw and normalized, and every data set says by what."""

import re
import unicodedata

NORMALIZER = "hubbub-basic-1"

_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "`": "'"})


def normalize(text: str) -> str:
    """Fold case and compatibility forms; keep letters, digits and apostrophes inside words; one space between.

    >>> normalize("It\u2019s  'JUST' so-hard!")
    "it's just so hard"
    """
    folded = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).casefold()
    spaced = re.sub(r"[^\w']|_", " ", folded)
    return " ".join(word for word in (part.strip("'") for part in spaced.split()) if word)
