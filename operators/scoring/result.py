"""What scoring returns: figures, each with its interval and counts, and the conditions under which they hold."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

COLLAR_S = 5.0
"""How far a word's time may be off where words are matched by time, in seconds, as in CHiME-7 and CHiME-8."""

REFERENCE_POLICY = (
    "words of a session in order of turn starts, or of entries where a side has no times; turns without words count "
    "for speakers and times only; overlapping turns of one speaker are joined for DER and JER"
)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a figure means: everything but the words and times that are compared."""

    normalizer: str = "hubbub-basic-2"
    """Applied to both sides: its name in `operators.corpus.normalizers`."""
    normalizer_version: str = ""
    """Of the package that it is from; empty for ours, whose names end in their version."""
    reference_policy: str = REFERENCE_POLICY
    collar_s: float = COLLAR_S
    """Of tcpWER, tcORC-WER and the errors of times, in seconds to each side."""
    uem: str | None = None
    """Digest of the regions that DER and JER are scored in; without, from a session's first start to its last end."""
    seed: int = 0
    """Of the bootstrap."""
    draws: int = 1000
    """Of the bootstrap."""
    units: str = "auto"
    """What is resampled: `speakers`, `recordings`, or `auto`, which takes speakers where their names are global."""
    measures: tuple[str, ...] = ()
    """Names in `MEASURES`; empty stands for all but those of generated recordings and of answers to questions."""


@dataclass(frozen=True, kw_only=True)
class GeneratedConditions(Conditions):
    """What a figure of generated recordings means besides."""

    recordings: str
    """Digest of the generated recordings."""
    recognizer: str | None = None
    """Its name; None where the recordings were not transcribed."""
    recognizer_digest: str | None = None
    """Of its weights."""
    language: str | None = None
    """That the recognizer was told; None where it detected it."""
    speaker_encoder: str | None = None
    """Its name; None where no recording was compared with a voice."""
    speaker_encoder_digest: str | None = None
    """Of its weights."""
    voices: str | None = None
    """Digest of the recordings of the wanted voices."""
    timing: str | None = None
    """Digest of who speaks when in the generated recordings; None where nobody says."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measure of all sessions, or of a slice of them."""

    measure: str
    """Its name in `MEASURES`."""
    title: str
    """As tables show it."""
    unit: str
    """share, s, speakers, ratio, cosine, or distance."""
    value: float | None
    """Errors divided by their base, both summed over sessions, never a mean of rates; None where the base is empty."""
    low: float | None
    """Lower end of the 95 % bootstrap interval; None where fewer than two units can be resampled."""
    high: float | None
    """Its upper end."""
    base: float
    """What errors are divided by: words, characters, seconds of speech, speakers, sessions, or matched words."""
    counts: Mapping[str, float]
    """Sums over sessions: errors and their kinds, such as insertions, deletions and substitutions."""
    confusion: float | None
    """Share of the base that is wrong by its speaker alone; None where a measure cannot tell."""
    num_sessions: int
    note: str | None = None
    """What else must be known, such as in how many sessions a greedy variant was used."""


@dataclass(frozen=True, kw_only=True)
class AlignedWord:
    """A word of the reference, of the hypothesis, or of both."""

    kind: str
    """equal, sub, ins or del."""
    reference: str | None
    hypothesis: str | None
    speaker: str | None
    """The reference's."""
    hypothesis_speaker: str | None
    start_s: float | None = None
    """Where the word starts in the reference, or in the hypothesis where it is inserted; None without times."""


@dataclass(frozen=True, kw_only=True)
class AlignedSession:
    """A session with its words aligned, speaker by speaker, under the assignment with the fewest errors."""

    session_id: str
    errors: int
    reference_words: int
    words: tuple[AlignedWord, ...]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All figures of a hypothesis, with what they mean."""

    conditions: Conditions
    resampled: str
    """What was resampled for the intervals, and how many there are."""
    reference_digest: str
    """Of the normalized reference; systems are comparable where it and the conditions are the same."""
    num_sessions: int
    num_recordings: int
    only_in_reference: int
    """Sessions that the hypothesis lacks; their words count as deleted."""
    only_in_hypothesis: int
    """Sessions that the reference lacks; their words count as inserted."""
    figures: tuple[Figure, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why a measure could not be taken, by its name."""
    slices: Mapping[str, Mapping[str, tuple[Figure, ...]]] = field(default_factory=dict)
    """The same figures by column and value."""
    worst: tuple[AlignedSession, ...] = ()
    sessions: Sequence[Mapping[str, Any]] = ()
    """Columns and figures of each session."""

    def figure(self, measure: str) -> Figure:
        """Return a measure's figure; KeyError where it was left out."""
        return {figure.measure: figure for figure in self.figures}[measure]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class GeneratedScores(Scores):
    """All figures of generated recordings."""

    timing: Mapping[str, Any] | None = None
    """The simulator's scorecard of who speaks when, against the reference's times; None without times."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A measure of two systems on the same sessions."""

    measure: str
    title: str
    unit: str
    a: float | None
    b: float | None
    difference: float | None
    """a - b: negative where A errs less."""
    low: float | None
    """Lower end of the difference's 95 % interval, by the paired bootstrap."""
    high: float | None
    p: float | None
    """Of the paired permutation test, two-sided; None for medians and where fewer than two units can be flipped."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two systems on the same sessions."""

    conditions: Conditions
    resampled: str
    reference_digest: str
    num_sessions: int
    differences: tuple[Difference, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, tuple[Difference, ...]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        return asdict(self)
