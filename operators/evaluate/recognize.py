"""Mixtures to hypotheses by a recognizer that knows nothing of speakers: the baselines of multi-talker recognition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import soxr
from numpy.typing import NDArray

from operators.evaluate.cuts import pieces
from operators.evaluate.options import Heard
from operators.evaluate.recognizers import Recognizer, load_recognizer
from operators.evaluate.recognizers.recognizer import RATE_HZ
from operators.schema import AUDIO, HYPOTHESES, table
from operators.tokenize.encode import levels

_FRAME_S = 0.02
_QUIET_S = 0.3
_LEAST_S = 0.1
"""Shorter stretches are not recognized."""


@dataclass(frozen=True, kw_only=True)
class Recognize:
    """Recognizes each mixture (rows of AUDIO), turn by turn of the reference or as a whole.

    `segments` is an oracle: where each turn starts and ends, and who speaks it, are the reference's. `mixture` is what
    is left without: windows cut at quiet places, all words by one speaker.
    """

    recognizer: str
    """Name or folder."""
    over: Heard
    frame_rate_hz: float
    """Of the codec, for the frames of HYPOTHESES."""
    device: str = "cpu"

    reads: ClassVar[pa.Schema] = AUDIO
    writes: ClassVar[pa.Schema] = HYPOTHESES
    version: ClassVar[str] = "1"

    @cached_property
    def loaded(self) -> Recognizer:
        """The recognizer, loaded when first used.

        Raises:
            InputError: it is not there.
        """
        return load_recognizer(self.recognizer, self.device)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the loaded weights: a worker loads its own."""
        return {key: value for key, value in self.__dict__.items() if key != "loaded"}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the hypothesis of each conversation.

        Raises:
            InputError: the recognizer does not know the language.
        """
        rows = batch.drop_columns(["samples", "far_samples", "stems", "enrolment_samples"]).to_pylist()
        stretches = []
        for number, row in enumerate(rows):
            samples = batch["samples"][number].values.to_numpy()
            stretches.append(self._segments(row, samples) if self.over == "segments" else self._windows(row, samples))
        sounds = [
            _heard(sound, row["sample_rate_hz"]) for row, own in zip(rows, stretches, strict=True) for _, sound in own
        ]
        languages = [turn["language"] for own in stretches for turn, _ in own]
        words = iter(self.loaded.recognize(sounds, languages))
        return table(
            [
                self._hypothesis(row, [{**turn, "text": next(words)} for turn, _ in own])
                for row, own in zip(rows, stretches, strict=True)
            ],
            HYPOTHESES,
        )

    def _segments(
        self, row: Mapping[str, Any], samples: NDArray[np.int16]
    ) -> list[tuple[dict[str, Any], NDArray[np.int16]]]:
        """Return the mixture at each turn, in parts where a turn is longer than the recognizer takes."""
        found = []
        for turn in row["turns"]:
            start, end = turn["start_sample"], turn["start_sample"] + turn["num_samples"]
            about = {"speaker": turn["speaker"], "language": turn["language"]}
            found += self._parts(samples, max(start, 0), min(end, len(samples)), row["sample_rate_hz"], about)
        return found

    def _windows(
        self, row: Mapping[str, Any], samples: NDArray[np.int16]
    ) -> list[tuple[dict[str, Any], NDArray[np.int16]]]:
        """Return the whole mixture in windows as long as the recognizer takes."""
        languages = {turn["language"] for turn in row["turns"]}
        language = languages.pop() if len(languages) == 1 else None
        about = {"speaker": "all", "language": language}
        return self._parts(samples, 0, len(samples), row["sample_rate_hz"], about)

    def _parts(
        self, samples: NDArray[np.int16], start: int, end: int, rate_hz: int, about: dict[str, Any]
    ) -> list[tuple[dict[str, Any], NDArray[np.int16]]]:
        """Return stretches of samples [start, end), cut at quiet places, with their times in seconds."""
        hop = round(_FRAME_S * rate_hz)
        own = samples[start:end]
        num_frames = -(-len(own) // hop)
        cut = pieces(
            num_frames,
            int(self.loaded.longest_s / _FRAME_S),
            levels=levels(own, hop, num_frames),
            quiet_frames=round(_QUIET_S / _FRAME_S),
        )
        found = []
        for piece in cut:
            part = own[piece.start * hop : piece.end * hop]
            if len(part) >= _LEAST_S * rate_hz:
                first = start + piece.start * hop
                times = {"start_s": round(first / rate_hz, 6), "end_s": round((first + len(part)) / rate_hz, 6)}
                found.append(({**about, **times}, part))
        return found

    def _hypothesis(self, row: Mapping[str, Any], turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return a row of HYPOTHESES of one window; turns without words are none."""
        num_frames = -(-row["num_samples"] * self.frame_rate_hz // row["sample_rate_hz"])
        window = {
            "start_frame": 0,
            "num_frames": int(num_frames),
            "own_start_frame": 0,
            "own_num_frames": int(num_frames),
        }
        return {
            "conversation_id": row["conversation_id"],
            "checkpoint": self.loaded.digest,
            "windows": [window],
            "turns": [
                {
                    "window": 0,
                    "tag": turn["speaker"],
                    "speaker": turn["speaker"],
                    "text": turn["text"],
                    "start_s": turn["start_s"],
                    "end_s": turn["end_s"],
                }
                for turn in turns
                if turn["text"]
            ],
            "num_tokens": 0,
            "num_cut": 0,
            "nll": None,
            "nll_weight": None,
        }


def _heard(samples: NDArray[np.int16], rate_hz: int) -> NDArray[np.int16]:
    """Return samples at the recognizers' rate."""
    if rate_hz == RATE_HZ:
        return samples
    resampled = soxr.resample(samples.astype(np.float32), rate_hz, RATE_HZ, quality="HQ")
    return np.asarray(np.clip(np.rint(resampled), -32768, 32767), np.int16)
