"""Who speaks when: casts to conversations on a timeline, before a byte of audio is mixed."""

import json
from collections import deque
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from operators.errors import InputError
from operators.rng import rng
from operators.schema import CASTS, CONVERSATIONS, table

# The file's own keys, by the names that users know.
_PRESETS = {"meeting": "ami_only_words", "telephone": "talkbank_tel", "broadcast": "voxconverse"}


@cache
def turn_taking_prior(preset: str) -> dict[str, Any]:
    """Return inverse CDFs of offsets and pauses in seconds, and the transition shares, of a kind of talk.

    Source: figures computed from public RTTMs (AMI, TalkBank telephone, VoxConverse); the file names them.
    """
    text = resources.files("operators").joinpath("turn_taking_priors.json").read_text()
    data = json.loads(text)
    return {**data[_PRESETS[preset]], "levels": data["_quantile_levels"]}


def draw_quantile(uniform: float, values_s: list[float], levels: list[float]) -> float:
    """Return the value in seconds at a level of an inverse CDF given at some levels.

    >>> draw_quantile(0.5, [-1.0, 1.0], [0.0, 1.0])
    0.0
    """
    return float(np.interp(uniform, levels, values_s))


def resampled_length(num_samples: int, from_hz: int, to_hz: int) -> int:
    """Return how many samples a recording has at another rate: the one rounding rule of the project.

    >>> resampled_length(22050, 22050, 16000)
    16000
    """
    return (num_samples * to_hz + from_hz // 2) // from_hz


@dataclass(frozen=True, kw_only=True)
class Converse:
    """Puts utterances on a timeline: turns change hands as the prior says, offsets are drawn from it."""

    prior: Literal["meeting", "telephone", "broadcast"] = "meeting"
    """Whose offsets and pauses to draw."""
    min_turns: int = 4
    """Fewest turns in a conversation."""
    max_turns: int = 8
    """Most turns in a conversation."""
    max_duration_s: float = 30.0
    """No turn is added that would end later."""
    sample_rate_hz: int = 16_000
    """Rate of the timeline and of the mixture."""
    min_own_pause_s: float = 0.1
    """Least silence between two turns of one speaker: nobody overlaps themselves."""
    speaker_gain_sd_db: float = 2.0
    """Spread of the speakers' levels; a speaker keeps one level through a conversation."""
    noise: bool = True
    """Whether there is noise in the room."""
    min_snr_db: float = 15.0
    """Least signal-to-noise ratio drawn."""
    max_snr_db: float = 30.0
    """Greatest signal-to-noise ratio drawn."""

    reads: ClassVar[pa.Schema] = CASTS
    writes: ClassVar[pa.Schema] = CONVERSATIONS
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.min_turns <= self.max_turns:
            raise InputError("converse: 1 <= min_turns <= max_turns does not hold")
        if self.max_duration_s <= 0 or self.min_own_pause_s < 0:
            raise InputError("converse: durations must be positive")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return one conversation a cast."""
        return table([self.converse(row) for row in batch.to_pylist()], CONVERSATIONS)

    def converse(self, cast: dict[str, Any]) -> dict[str, Any]:
        """Return one conversation (a row of CONVERSATIONS) of one cast (a row of CASTS)."""
        conversation_id = cast["conversation_id"]
        seed = cast["seed"]
        draw = rng(seed, "turns", conversation_id)
        gains = rng(seed, "gains", conversation_id).normal(0.0, self.speaker_gain_sd_db, len(cast["speakers"]))
        gain_db = dict(zip(cast["speakers"], np.clip(gains, -6.0, 6.0).tolist(), strict=True))
        queues = {speaker: deque[dict[str, Any]]() for speaker in cast["speakers"]}
        for utterance in cast["utterances"]:
            queues[utterance["speaker"]].append(utterance)

        target = int(draw.integers(self.min_turns, self.max_turns + 1))
        limit = round(self.max_duration_s * self.sample_rate_hz)
        turns: list[dict[str, Any]] = []
        num_clipped = 0
        while len(turns) < target:
            speaker, transition, offset_s = self._next(draw, turns, queues)
            if speaker is None:
                break
            utterance = queues[speaker].popleft()
            length = self._length(utterance)
            wanted = self._after(turns) + round(offset_s * self.sample_rate_hz)
            start = max(wanted, self._earliest(turns, speaker))
            if start + length > limit and turns:
                queues[speaker].clear()  # what follows in the story would not fit either
                continue
            num_clipped += start != wanted
            turns.append(self._turn(utterance, transition, start, start - self._after(turns), gain_db[speaker]))

        snr = rng(seed, "snr", conversation_id).uniform(self.min_snr_db, self.max_snr_db)
        end = max((turn["start_sample"] + turn["num_samples"] for turn in turns), default=0)
        return {
            "conversation_id": conversation_id,
            "origin": "simulated",
            "split": cast["split"],
            "seed": seed,
            "sample_rate_hz": self.sample_rate_hz,
            "num_samples": end + self.sample_rate_hz // 5,  # a fifth of a second of room after the last word
            "speakers": list(dict.fromkeys(turn["speaker"] for turn in turns)),
            "turns": turns,
            "room_id": None,
            "noise_id": "pink" if self.noise else None,
            "snr_db": float(snr) if self.noise else None,
            "num_clipped_offsets": num_clipped,
        }

    def _length(self, utterance: dict[str, Any]) -> int:
        return resampled_length(utterance["source_num_samples"], utterance["source_rate_hz"], self.sample_rate_hz)

    def _next(
        self, draw: np.random.Generator, turns: list[dict[str, Any]], queues: dict[str, deque[dict[str, Any]]]
    ) -> tuple[str | None, str, float]:
        """Return who speaks next, how the floor came to them, and the offset in seconds to the turn before."""
        prior = turn_taking_prior(self.prior)
        # The same number of draws on every path keeps later turns where they were when a queue runs dry.
        hold_draw, speaker_draw, offset_draw = draw.random(3)
        ready = [speaker for speaker, queue in queues.items() if queue]
        if not ready:
            return None, "", 0.0
        if not turns:
            return ready[int(speaker_draw * len(ready))], "start", float(offset_draw * 0.4)
        last = turns[-1]["speaker"]
        others = [speaker for speaker in ready if speaker != last]
        # Everyone is heard once before anybody is heard twice by chance: a cast of three is three talkers.
        unheard = [s for s in others if s not in {turn["speaker"] for turn in turns}]
        hold, _, _, contained = prior["summary"]["type_share"]
        if last in ready and (not others or hold_draw < hold / (1 - contained)):
            return last, "hold", draw_quantile(offset_draw, prior["same_pause"], prior["levels"])
        pool = unheard or others
        offset_s = draw_quantile(offset_draw, prior["fto"], prior["levels"])
        return pool[int(speaker_draw * len(pool))], "switch_overlap" if offset_s < 0 else "switch_gap", offset_s

    @staticmethod
    def _after(turns: list[dict[str, Any]]) -> int:
        return turns[-1]["start_sample"] + turns[-1]["num_samples"] if turns else 0

    def _earliest(self, turns: list[dict[str, Any]], speaker: str) -> int:
        """Return the first sample at which a speaker may start: after their own last turn and every start."""
        own = [turn["start_sample"] + turn["num_samples"] for turn in turns if turn["speaker"] == speaker]
        after_own = max(own) + round(self.min_own_pause_s * self.sample_rate_hz) if own else 0
        after_start = turns[-1]["start_sample"] + self.sample_rate_hz // 10 if turns else 0
        return max(after_own, after_start)

    def _turn(
        self, utterance: dict[str, Any], transition: str, start: int, offset: int, gain_db: float
    ) -> dict[str, Any]:
        rate_hz = utterance["source_rate_hz"]
        words = [
            {
                "word": word["word"],
                "start_sample": start + resampled_length(word["start_sample"], rate_hz, self.sample_rate_hz),
                "num_samples": resampled_length(word["num_samples"], rate_hz, self.sample_rate_hz),
            }
            for word in utterance["words"] or []
        ]
        if transition.startswith("switch"):  # a constraint may have turned an overlap into a gap
            transition = "switch_overlap" if offset < 0 else "switch_gap"
        return {
            **{name: utterance[name] for name in _CARRIED},
            "transition": transition,
            "offset_samples": offset,
            "start_sample": start,
            "num_samples": self._length(utterance),
            "gain_db": gain_db,
            "rir_id": None,
            "words": words,
        }


_CARRIED = (
    "utterance_id", "speaker", "corpus", "audio", "byte_offset", "byte_length", "channel", "source_rate_hz",
    "source_start_sample", "source_num_samples", "text", "text_normalized", "language", "licence",
)  # fmt: skip
