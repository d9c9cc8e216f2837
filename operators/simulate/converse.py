"""Casts to conversations: who speaks when, decided before any audio is read."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from models.config.settings import BY_CONTENT
from models.config.values import Checked, within
from operators.errors import InputError
from operators.rng import rng
from operators.schema import CASTS, CONVERSATIONS
from operators.simulate.assemble import conversations_table
from operators.simulate.backchannels import add_backchannels
from operators.simulate.pieces import Floats, PlannedConversation, Utterances, cut_into_pieces
from operators.simulate.priors import prior_of
from operators.simulate.priors.prior import Prior
from operators.simulate.timing import TIMINGS, TimingName
from operators.simulate.timing.timing import Pool, Timing, Traits

_LARGEST_GAIN_DB = 6.0


def compress_pauses(pauses_s: Floats, above_s: float) -> Floats:
    """Return pauses (N,) in seconds with long ones shortened: unchanged up to a length, logarithmic above it.

    >>> compress_pauses(np.array([1.0, 1.5, 10.0]), above_s=1.5).round(2).tolist()
    [1.0, 1.5, 2.95]
    """
    over = np.maximum(0.0, pauses_s - above_s)
    return np.where(over > 0, above_s + 0.5 * np.log1p(over / 0.5), pauses_s)


def _compressed(prior: Prior, above_s: float) -> Prior:
    """Return a prior with the gaps and pauses longer than `above_s` compressed; 0 leaves it unchanged."""
    if not above_s:
        return prior
    offset_s, pause_s = (compress_pauses(np.array(table), above_s) for table in (prior.offset_s, prior.pause_s))
    return replace(prior, offset_s=tuple(offset_s.tolist()), pause_s=tuple(pause_s.tolist()))


@dataclass(frozen=True, kw_only=True)
class Converse(Checked, section="converse", error=InputError):
    """Puts the utterances of each cast on a timeline, with turn-taking drawn from a prior."""

    prior: str = field(default="meeting", metadata=BY_CONTENT)
    """Distributions of turn-taking: meeting, telephone or broadcast, or a file written by `hubbub data fit`."""
    model: TimingName = "copula"
    """Turn-taking: Hubbub's own, or another simulator's for comparison (SASC; Landini et al.; LibriSpeechMix;
    LibriMix)."""
    min_turns: int = field(default=4, metadata=within(1, 10_000))
    """Fewest turns in a conversation, not counting backchannels; at least one for each speaker of its cast."""
    max_turns: int = field(default=8, metadata=within(1, 10_000))
    """Most turns in a conversation, not counting backchannels."""
    max_duration_s: float = field(default=30.0, metadata=within(0, 10**7, "s", open_at="low"))
    """No turn is added that would end later than this, in seconds."""
    sample_rate_hz: int = field(default=16_000, metadata=within(1000, 384_000, "Hz"))
    """Sample rate of the timeline and of the mixture."""
    min_own_pause_s: float = field(default=0.1, metadata=within(0, 60, "s"))
    """Least silence between two turns of one speaker, in seconds: no speaker overlaps themselves."""
    backchannels: bool = False
    """Whether listeners say a word or two during others' turns, cut from their own utterances by word times."""
    cut_above_s: float = field(default=0.0, metadata=within(0, 10**7, "s"))
    """Utterances longer than this are cut at pauses between words, into pieces of the prior's lengths; 0 cuts none."""
    compress_above_s: float = field(default=0.0, metadata=within(0, 10**7, "s"))
    """Silences longer than this are compressed, in the prior and inside utterances, which are cut there; 0: none."""
    speaker_gain_sd_db: float = field(default=2.0, metadata=within(0, 40, "dB"))
    """Standard deviation of the speakers' levels; a speaker keeps one level throughout a conversation."""

    reads: ClassVar[pa.Schema] = CASTS
    writes: ClassVar[pa.Schema] = CONVERSATIONS
    version: ClassVar[str] = "5"

    def rules(self) -> Iterator[str]:
        """Check the values together, and the prior."""
        if self.min_turns > self.max_turns:
            yield f"converse.min_turns {self.min_turns} is above converse.max_turns {self.max_turns}"
        if self.backchannels and not TIMINGS[self.model].has_backchannels:
            yield f"converse.model {self.model} has no backchannels; remove --converse.backchannels"
        prior_of(self.prior)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the conversations (rows of CONVERSATIONS) of a batch of casts."""
        lists = batch["utterances"].combine_chunks()
        lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
        utterances = Utterances(lists.flatten(), self.sample_rate_hz)
        borders = np.asarray(lists.offsets).astype(np.int64)
        borders = borders - borders[0] if len(borders) else borders
        casts = batch.select(["conversation_id", "split", "seed", "speakers", "enrolments"]).to_pylist()
        prior = _compressed(prior_of(self.prior), self.compress_above_s)
        timing = TIMINGS[self.model](prior, self.min_own_pause_s)
        planned = [
            self._plan(cast, utterances, int(first), int(end), timing)
            for cast, first, end in zip(casts, borders[:-1], borders[1:], strict=True)
        ]
        return conversations_table(casts, planned, utterances)

    def _plan(
        self, cast: dict[str, Any], utterances: Utterances, first: int, end: int, timing: Timing
    ) -> PlannedConversation:
        """Return the turns of one conversation, from the utterances first..end of the batch."""
        speakers: list[str] = cast["speakers"]
        prior = timing.prior
        draw = rng(cast["seed"], "turns", cast["conversation_id"])
        # Everybody in the cast is heard.
        target = int(draw.integers(max(self.min_turns, len(speakers)), max(self.max_turns, len(speakers)) + 1))
        gains_db = np.clip(
            draw.normal(0.0, self.speaker_gain_sd_db, len(speakers)), -_LARGEST_GAIN_DB, _LARGEST_GAIN_DB
        )
        traits = Traits.drawn(prior, len(speakers), draw)

        number_of = {speaker: number for number, speaker in enumerate(speakers)}
        speaker_of = np.array([number_of[s] for s in utterances.speaker[first:end]], np.int64)
        order = np.argsort(speaker_of, kind="stable")
        rows, speaker_of = np.arange(first, end)[order], speaker_of[order]
        pieces, owner = cut_into_pieces(
            utterances, rows, speaker_of, prior.segment_s, self.cut_above_s, self.compress_above_s, draw
        )
        begins = np.searchsorted(owner, np.arange(len(speakers) + 1))
        pool = Pool(pieces.num_samples / self.sample_rate_hz, begins, target, self.max_duration_s)
        timeline = timing(pool, traits, draw)
        planned = PlannedConversation(
            pieces=pieces.take(timeline.piece),
            start=np.rint(timeline.start_s * self.sample_rate_hz).astype(np.int64),
            who=timeline.who,
            kind=timeline.kind,
            gains_db=gains_db,
            num_clipped=timeline.num_clipped,
            num_dropped=timeline.num_dropped,
        )
        if self.backchannels and len(speakers) > 1:
            return add_backchannels(
                planned, utterances, rows, speaker_of, prior, traits.chattiness, self.min_own_pause_s, draw
            )
        return planned
