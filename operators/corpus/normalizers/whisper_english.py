"""whisper-english: OpenAI's normalizer of English, by which Whisper's figures are published."""

import functools
from collections.abc import Callable

from operators.corpus.normalizers.normalizer import Normalizer


@functools.cache
def _loaded() -> Callable[[str], str]:
    NORMALIZER_ENTRY.version()
    from whisper_normalizer.english import EnglishTextNormalizer

    loaded: Callable[[str], str] = EnglishTextNormalizer()
    return loaded


def normalize(text: str) -> str:
    """Return a text with numbers in digits, British spelling made American, contractions and fillers taken out.

    Source: Radford et al. 2022, "Robust speech recognition via large-scale weak supervision", appendix C; by the
    package whisper-normalizer.

    Raises:
        InputError: the package is not installed.
    """
    return " ".join(_loaded()(text).split())


NORMALIZER_ENTRY = Normalizer(
    normalize=normalize,
    about="English as Whisper is scored: numbers in digits, American spelling, no fillers",
    examples={
        "": "",
        "Mr. Smith's colour, um, twenty dollars": "mister smith is color $20",
        "It's   OK [laughs]": "it is ok",
    },
    package="whisper_normalizer",
    install="whisper-normalizer>=0.1.15",
    is_stable=False,
)
