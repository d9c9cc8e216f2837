"""Word times, by forced alignment of utterances to their text.

An aligner is anything with `align`; English goes through PocketSphinx, whose package carries its acoustic model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import soxr
from numpy.typing import NDArray

from operators.errors import InputError, UnusableRowError


@dataclass(frozen=True)
class AlignedWord:
    """A word of the text, and its time."""

    word: str
    start_s: float
    duration_s: float


class Aligner(Protocol):
    """Finds the words of a text in its recording."""

    language: str

    def align(self, samples: NDArray[np.float32], rate_hz: int, words: Sequence[str]) -> list[AlignedWord]:
        """Return the time of each word.

        Args:
            samples: (N,) in [-1, 1].
            rate_hz: of the samples.
            words: normalized, in order.

        Raises:
            UnusableRowError: a word is unknown, or the text does not match the audio.
        """
        ...


class PocketSphinx:
    """English, by PocketSphinx 5: phones of 10 ms, words from its dictionary.

    Source: Huggins-Daines et al. 2006, "PocketSphinx: a free, real-time continuous speech recognition system".
    """

    language = "en"
    RATE_HZ = 16_000
    FRAMES_PER_S = 100

    @cached_property
    def _decoder(self) -> Any:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise InputError("aligning English needs PocketSphinx: pip install 'hubbub[align]'") from error
        return Decoder(lm=None, loglevel="FATAL")

    def align(self, samples: NDArray[np.float32], rate_hz: int, words: Sequence[str]) -> list[AlignedWord]:
        """Return the time of each word; see `Aligner`."""
        unknown = [word for word in words if not self._decoder.lookup_word(word)]
        if unknown:
            raise UnusableRowError(f"not in the dictionary: {', '.join(sorted(set(unknown)))}")
        if rate_hz != self.RATE_HZ:
            samples = soxr.resample(samples, rate_hz, self.RATE_HZ, quality="HQ")
        # Half a second of silence around it: the search needs some before the first and after the last word.
        pad = self.RATE_HZ // 2
        pcm = np.rint(np.clip(np.pad(samples, pad), -1, 1) * 32767).astype("<i2")
        self._decoder.set_align_text(" ".join(words))
        self._decoder.start_utt()
        self._decoder.process_raw(pcm.tobytes(), full_utt=True)
        self._decoder.end_utt()
        segments = [s for s in (self._decoder.seg() or ()) if s.word[0] not in "<[("]
        # A second pronunciation is called word(2).
        if [s.word.split("(")[0] for s in segments] != list(words):
            raise UnusableRowError("the text was not found in the sound")
        last = len(samples) / self.RATE_HZ
        found = []
        for segment in segments:
            start = min(max(0.0, (segment.start_frame / self.FRAMES_PER_S) - 0.5), last)
            end = min(max(start, ((segment.end_frame + 1) / self.FRAMES_PER_S) - 0.5), last)
            found.append(AlignedWord(segment.word.split("(")[0], round(start, 3), round(end - start, 3)))
        return found


def aligner_of(language: str) -> Aligner:
    """Return the aligner of a language.

    Raises:
        InputError: there is none.
    """
    if language.lower().split("-")[0] == "en":
        return PocketSphinx()
    raise InputError(f"there is no aligner for language {language!r}; only en is supported")
