"""hubbub-basic-2: case folded, punctuation dropped; marks and apostrophes kept inside words, in every script."""

import re
import unicodedata

from operators.corpus.normalizers.normalizer import Normalizer

# Apostrophes as keyboards and typesetters write them. Before NFKC, which takes U+00B4 apart into a space and a mark.
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u2018\u02bc\u02b9\u2032\u00b4\uff07`", "'"))
# The capital of Turkish i folds to i and a combining dot, which no transcript of lower-case letters has.
_DOTTED_CAPITAL_I = "\u0130"
# NFKC moves the nasal mark of Thai and Lao AM in front of tone marks, which is not how anybody spells.
_AM = re.compile("([\u0e33\u0eb3])")


class _Kept(dict[int, str]):
    """What each character becomes, by code point: itself, nothing, or a space."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if char == "'" or char.isalnum():
            kept = char
        elif category in ("Mn", "Mc"):
            # Variation selectors and the grapheme joiner choose a glyph; they spell nothing.
            kept = "" if "VARIATION SELECTOR" in unicodedata.name(char, "") or code == 0x34F else char
        else:
            # Joiners, soft hyphens and direction marks stand inside words without parting them.
            kept = "" if category in ("Cf", "Me") else " "
        self[code] = kept
        return kept


_KEPT = _Kept()


def _compose(text: str) -> str:
    return "".join(part if _AM.fullmatch(part) else unicodedata.normalize("NFKC", part) for part in _AM.split(text))


def _is_mark(char: str) -> bool:
    return unicodedata.category(char) in ("Mn", "Mc")


def _word(part: str) -> str:
    """Return a word without apostrophes at its ends, and without marks that have no letter before them."""
    if part.isascii():
        return part.strip("'")
    kept, may_mark = [], False
    for char in part:
        if not _is_mark(char):
            may_mark = char != "'"
        elif not may_mark:
            continue
        kept.append(char)
    return "".join(kept).strip("'")


def normalize(text: str) -> str:
    """Fold case and compatibility forms; keep words: letters, digits, and the marks and apostrophes inside them.

    Words are separated by single spaces. A word's marks are those of Unicode's categories Mn and Mc, which spell vowels
    and tones in Indic scripts, Thai, Arabic, Hebrew, Yoruba and many others; invisible characters (category Cf) part no
    word.

    >>> normalize("It\u2019s  'JUST' so-hard!")
    "it's just so hard"
    """
    spelled = unicodedata.normalize("NFC", text).replace(_DOTTED_CAPITAL_I, "i").translate(_APOSTROPHES)
    folded = _compose(_compose(spelled).casefold()).translate(_APOSTROPHES).translate(_KEPT)
    return " ".join(word for word in map(_word, folded.split()) if word)


NORMALIZER_ENTRY = Normalizer(
    normalize=normalize,
    about="case folded, punctuation dropped, marks and apostrophes kept inside words",
    examples={
        "": "",
        " ?! ": "",
        "It\u2019s  'JUST' so-hard!": "it's just so hard",
        "it\u00b4s rock \u02b9n\u02b9 roll\u2032 don\uff07t": "it's rock n roll don't",
        "Stra\u00dfe, 3rd": "strasse 3rd",
        "\uff21\uff22\uff23 snake_case": "abc snake case",
        "naïve cafe\u0301": "naïve café",
        "\u0130stanbul'da, I\u0307zmir'de": "istanbul'da izmir'de",
        "नमस्ते, आप कैसे हैं?": "नमस्ते आप कैसे हैं",
        "আমি বাংলায় গান গাই।": unicodedata.normalize("NFKC", "আমি বাংলায় গান গাই"),
        "வணக்கம், எப்படி இருக்கிறீர்கள்?": "வணக்கம் எப்படி இருக்கிறீர்கள்",
        "എനിക്ക് മലയാളം അറിയാം.": "എനിക്ക് മലയാളം അറിയാം",
        "สวัสดีครับ น้ำ": "สวัสดีครับ น้ำ",
        "សួស្តី\u200bអ្នក។": "សួស្តីអ្នក",
        "မင်္ဂလာပါ၊ နေကောင်းလား။": "မင်္ဂလာပါ နေကောင်းလား",
        "مَرْحَبًا، كَيْفَ حَالُكَ؟": "مَرْحَبًا كَيْفَ حَالُكَ",
        "שָׁלוֹם, עוֹלָם": "שָׁלוֹם עוֹלָם",
        "Báwo ni, ọ̀rẹ́?": "báwo ni ọ̀rẹ́",
        unicodedata.normalize("NFD", "Tiếng Việt!"): "tiếng việt",
        # Persian "I want", with its zero-width non-joiner.
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645": "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645",
        "co\u00adoperate \ufeffword\u200b": "cooperate word",
        "\u0301 a \u0948 '\u0301": "a",
        "so \u2764\ufe0f\u200d\U0001f525 good": "so good",
    },
)
