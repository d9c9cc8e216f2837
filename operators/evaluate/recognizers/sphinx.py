"""pocketsphinx: English words by hidden Markov models, its dictionary and its trigrams, all in its package."""

from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.errors import InputError
from operators.evaluate.recognizers.recognizer import RATE_HZ


class PocketSphinxRecognizer:
    """Large-vocabulary recognition as PocketSphinx 5 does it by default.

    Source: Huggins-Daines et al. 2006, "PocketSphinx: a free, real-time continuous speech recognition system".
    """

    name = "pocketsphinx"
    longest_s = 60.0

    def __init__(self) -> None:
        """Check that the package is there.

        Raises:
            InputError: it is not.
        """
        try:
            import pocketsphinx  # noqa: F401
        except ImportError as error:
            raise InputError(
                "evaluate.recognizers: pocketsphinx needs its package: pip install 'hubbub[align]'"
            ) from error

    @property
    def digest(self) -> str:
        """The package's version, whose weights are in it."""
        return f"pocketsphinx-{version('pocketsphinx')}"

    @cached_property
    def _decoder(self) -> Any:
        from pocketsphinx import Decoder

        return Decoder(loglevel="FATAL")

    def recognize(self, stretches: Sequence[NDArray[np.int16]], languages: Sequence[str | None]) -> list[str]:
        """Return the words of each stretch; see `Recognizer`.

        Raises:
            InputError: a stretch is known not to be English.
        """
        for language in languages:
            if language and language.lower().split("-")[0] != "en":
                raise InputError(f"evaluate.recognizers: pocketsphinx knows English, not {language}; use a Whisper")
        found = []
        for stretch in stretches:
            # Its estimate of the cepstral mean goes on from one utterance to the next: each must start anew.
            self._decoder.reinit_feat()
            # It hears a last word only if something follows.
            padded = np.pad(stretch, RATE_HZ // 4).astype("<i2")
            self._decoder.start_utt()
            self._decoder.process_raw(padded.tobytes(), full_utt=True)
            self._decoder.end_utt()
            hypothesis = self._decoder.hyp()
            found.append("" if hypothesis is None else str(hypothesis.hypstr))
        return found
