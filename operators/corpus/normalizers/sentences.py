"""Sentences: texts of enough words that two speakers do not say them by chance."""

import re

from operators.corpus.normalizers import normalize

SENTENCE_WORDS = 5
"""Fewest words of a sentence: digits, commands and replies are said by everybody."""

_END = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s+")
# Scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]{10,}")


def is_sentence(text: str) -> bool:
    """Tell whether a normalized text has the words of a sentence, or ten letters in a script without spaces.

    >>> [is_sentence(text) for text in ("nine three two", "the dog ran to the river")]
    [False, True]
    """
    return len(text.split()) >= SENTENCE_WORDS or _UNSPACED.search(text) is not None


def sentences_of(text: str | None, text_normalized: str) -> list[str]:
    """Return an utterance's normalized text, and each sentence in it where its raw text is punctuated.

    >>> sentences_of("Well. The dog ran to the river. Why?", "well the dog ran to the river why")
    ['well the dog ran to the river why', 'the dog ran to the river']
    """
    parts = _END.split(text.strip()) if text else []
    found = [text_normalized, *(normalize(part) for part in parts if len(parts) > 1)]
    return [one for one in dict.fromkeys(found) if is_sentence(one)]
